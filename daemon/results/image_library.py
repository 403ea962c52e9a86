"""The image library of a report (TID 1600): what all source images share once, then one reference an image.

Repeating seventeen descriptors for each of 300 slices makes a report of thousands of items, which takes
seconds to write and to open; the template lets a group state them for its images.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom.sr import (
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    ImageLibraryEntryDescriptors,
    RelationshipTypeValues,
)
from pydicom.dataset import Dataset

from voxtrial.daemon.results import codes


def image_library(source: Sequence[Dataset]) -> ContainerContentItem:
    """Return the library of one series.

    Parameters
    ----------
    source
        Headers of the images: one modality, one frame of reference, one grid.
    """
    group = _container(codes.IMAGE_LIBRARY_GROUP)
    group.ContentSequence.extend(_shared_descriptors(source[0]))
    for image in source:
        group.ContentSequence.append(
            ImageContentItem(
                name=codes.SOURCE.coded(),
                referenced_sop_class_uid=image.SOPClassUID,
                referenced_sop_instance_uid=image.SOPInstanceUID,
                relationship_type=RelationshipTypeValues.CONTAINS,
            )
        )
    library = _container(codes.IMAGE_LIBRARY)
    library.ContentSequence.append(group)
    return library


def _container(name: codes.Concept) -> ContainerContentItem:
    item = ContainerContentItem(name=name.coded(), relationship_type=RelationshipTypeValues.CONTAINS)
    item.ContentSequence = ContentSequence()
    return item


def _shared_descriptors(image: Dataset) -> list[ContentItem]:
    """Return the descriptors of TID 1602 and 1604 that hold for every image of a series."""
    return [
        item
        for item in ImageLibraryEntryDescriptors(image)
        if not item.name.meaning.startswith("Image Position (Patient)")
    ]
