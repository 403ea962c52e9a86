"""The lattice that the frames of one or more Segmentations stand on, where no image is at hand.

Empty frames are often omitted, so a single object need not reach over the image that it segments: the grid
spans the frames of all given objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.dicom.elements import PYDICOM_FAILURES, read_data_set, read_header
from voxtrial.daemon.dicom.plane import first_item, flattened
from voxtrial.daemon.dicom.segmentation import PLACE_TOLERANCE, SEGMENTATION_CLASSES
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid

Vector = NDArray[np.float64]

IN_PLANE_MM = 0.01
"""Largest shift between frames along their rows and columns."""


def is_segmentation(path: Path) -> bool:
    """Whether ``path`` is a DICOM Segmentation, BINARY, FRACTIONAL or LABELMAP."""
    return read_header(path).values.get("SOPClassUID") in SEGMENTATION_CLASSES


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where one frame lies: (3, 2) steps along its rows and columns, LPS mm."""

    steps: Vector
    position: Vector
    rows: int
    columns: int
    slice_spacing_mm: float

    def coplanar_with(self, other: _Place) -> bool:
        """Whether both frames have the same plane, pixel spacing and size."""
        same_size = (self.rows, self.columns) == (other.rows, other.columns)
        return same_size and np.allclose(self.steps, other.steps, atol=1e-4)


def common_grid(paths: Sequence[Path]) -> Grid:
    """Return the grid that the frames of all Segmentations lie on.

    Raises
    ------
    Refused
        ``missing_geometry`` (a frame without place, or no frame at all), ``mixed_orientation`` (frames of
        unlike plane or pixel spacing), ``irregular_spacing`` (positions are no multiples of one step).
    """
    places = [place for path in paths for place in _places(path)]
    if not places:
        raise Refused(
            "The segmentations hold no frame; give the image with --image.", rule="missing_geometry"
        )
    first = places[0]
    if not all(place.coplanar_with(first) for place in places):
        message = "The frames differ in plane, pixel spacing or size; give the image with --image."
        raise Refused(message, rule="mixed_orientation")
    normal = np.cross(first.steps[:, 1], first.steps[:, 0])
    normal /= np.linalg.norm(normal)
    positions = np.array([place.position for place in places])
    heights = positions @ normal
    lowest = positions[np.argmin(heights)]
    if np.abs(positions - lowest - np.outer(heights - heights.min(), normal)).max() > IN_PLANE_MM:
        message = "The frames are shifted within their plane; give the image with --image."
        raise Refused(message, rule="mixed_orientation")
    step = _step(heights, [place.slice_spacing_mm for place in places])
    affine = np.eye(4)
    affine[:3, 0] = normal * step
    affine[:3, 1:3] = first.steps
    affine[:3, 3] = lowest
    slices = round((heights.max() - heights.min()) / step) + 1
    return Grid(shape=(slices, first.rows, first.columns), affine=affine)


def _places(path: Path) -> list[_Place]:
    data_set = read_data_set(path, stop_before_pixels=True)
    places = []
    try:
        shared = flattened(first_item(data_set, "SharedFunctionalGroupsSequence"))
        for group in data_set.get("PerFrameFunctionalGroupsSequence") or ():
            values = {**shared, **flattened(group)}
            along_row, along_column = np.array(values["ImageOrientationPatient"], np.float64).reshape(2, 3)
            spacing_y, spacing_x = np.array(values["PixelSpacing"], np.float64)
            between = values.get("SpacingBetweenSlices", 0.0)
            places.append(
                _Place(
                    steps=np.column_stack([along_column * spacing_y, along_row * spacing_x]),
                    position=np.array(values["ImagePositionPatient"], np.float64),
                    rows=int(data_set.Rows),
                    columns=int(data_set.Columns),
                    slice_spacing_mm=float(between) if isinstance(between, int | float) else 0.0,
                )
            )
    except PYDICOM_FAILURES as error:
        message = f"{path.name}: the place of a frame cannot be read: {type(error).__name__}: {error}"
        raise Refused(message, rule="missing_geometry") from error
    return places


def _step(heights: Vector, declared: Sequence[float]) -> float:
    """Return the slice spacing: as declared, else the smallest distance of two frames."""
    distances = np.diff(np.unique(heights.round(3)))
    step = next((spacing for spacing in declared if spacing > 0), 0.0) or float(distances.min(initial=np.inf))
    if not np.isfinite(step):
        message = "One slice without a slice spacing has no thickness; give the image with --image."
        raise Refused(message, rule="missing_geometry")
    places = (heights - heights.min()) / step
    if np.abs(places - np.rint(places)).max() > PLACE_TOLERANCE:
        message = f"The frames do not lie on slices {step:g} mm apart; give the image with --image."
        raise Refused(message, rule="irregular_spacing")
    return step
