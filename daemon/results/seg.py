"""Findings to a DICOM Segmentation on the planes of the source series (PS3.3 A.51)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset

from voxtrial.daemon.results.content import Finding, Work
from voxtrial.daemon.results.provenance import (
    RESEARCH,
    algorithm_sequence,
    contributing_equipment,
    equipment,
    stamp,
)
from voxtrial.daemon.results.uids import derived_uid


def segmentation(findings: Sequence[Finding], work: Work) -> Dataset:
    """Encode findings as one BINARY Segmentation, one segment a finding, empty frames left out.

    BINARY because older archives refuse LABELMAP, and one LABELMAP can stop a C-MOVE of the whole study.

    Parameters
    ----------
    findings
        At least one; masks on the grid of ``work.source``, each with at least one voxel.

    Raises
    ------
    ValueError
        No finding, or an empty mask: an empty result is a report, never an empty Segmentation.
    """
    if not findings:
        raise ValueError("a Segmentation needs a finding; an empty result is a report that says so")
    for finding in findings:
        if not finding.mask.any():
            raise ValueError(f"finding {finding.roi} has an empty mask")
    frames = _frame_order(work)
    stack = np.stack([finding.mask[frames] for finding in findings], axis=-1)
    dataset = Segmentation(
        source_images=list(work.source),
        pixel_array=stack,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(number, f, work) for number, f in enumerate(findings, start=1)],
        series_instance_uid=work.uid("SEG series"),
        series_number=work.series_number + 1,
        sop_instance_uid=work.uid("SEG"),
        instance_number=1,
        content_label="AI_FINDINGS",
        content_description=f"{work.model_name} {RESEARCH}",
        content_creator_name="Voxtrial^Algorithm",
        contributing_equipment=contributing_equipment(work),
        omit_empty_frames=True,
        **equipment(work),
    )
    _fix_dimension_organization(dataset, work)
    stamp(dataset, work, "SEG")
    return dataset


def _frame_order(work: Work) -> slice | list[int]:
    """Return the slices of a mask in the order in which a multi-frame source stores its frames."""
    if not work.frames:
        return slice(None)
    return [int(k) for k in np.argsort(work.frames)]


def _describe(number: int, finding: Finding, work: Work) -> SegmentDescription:
    red, green, blue = finding.display_rgb
    return SegmentDescription(
        segment_number=number,
        segment_label=f"{finding.label} {finding.roi}"[:64],
        segmented_property_category=finding.category.coded(),
        segmented_property_type=finding.type.coded(),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm_sequence(work),
        tracking_uid=work.tracking_uid(finding.roi),
        tracking_id=work.tracking_id(finding.roi),
        anatomic_regions=None if finding.site is None else [finding.site.coded()],
        display_color=CIELabColor.from_rgb(red, green, blue),
    )


def _fix_dimension_organization(dataset: Dataset, work: Work) -> None:
    """Replace the random dimension organization UID: identical work must give identical bytes."""
    uid = derived_uid("dimension organization", work.uid("SEG"))
    dataset.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in dataset.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid
