"""Decide whether planes form a regular lattice, and give its affine.

This is the only place where DICOM's plane attributes become an affine. Slices are ordered by their position
along the normal of the planes (the row direction crossed with the column direction), never by InstanceNumber.
The slice spacing is the distance between positions, never SliceThickness or SpacingBetweenSlices.

References
----------
PS3.3 C.7.6.2.1.1 (image position and orientation), PS3.3 C.7.6.16.2.3 (plane position macro).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voxtrial.daemon.dicom.plane import Plane, Vector
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Affine, Grid

if TYPE_CHECKING:
    from voxtrial.daemon.dicom.series import SeriesFiles

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between direction cosines of one volume: 0.06 degrees, 0.25 mm at 250 mm distance."""

SAME_POSITION_MM = 0.01
"""Planes nearer than this along the normal stand at the same position."""

SPACING_TOLERANCE = 0.02
"""Largest distance of a plane from the regular lattice, as a part of the slice spacing."""

SPACING_TOLERANCE_MM = 0.1
"""The same in mm, whichever is larger: positions written with one decimal are off by 0.05 mm, and so are the
ends that the lattice is drawn between. Below a spacing of 0.5 mm a fifth of the spacing."""

TILT_TOLERANCE_DEGREES = 0.1
"""Largest angle between the normal of the planes and the line through their first voxels."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A regular stack of planes.

    Parameters
    ----------
    grid
        Shape and affine; with a tilted gantry the affine is sheared, exactly as the slices were acquired.
    normal
        Unit normal of the planes, LPS.
    slice_spacing_mm
        Distance between neighbouring planes along the normal.
    shear
        Shift of each plane against the one below it, mm along (rows: y, columns: x); (0, 0) without tilt.
    tilt_degrees
        Angle between the normal and the line through the first voxels of the planes.
    largest_deviation_mm
        Largest distance of a plane's first voxel from the regular lattice.
    """

    grid: Grid
    normal: Vector
    slice_spacing_mm: float
    shear: tuple[float, float]
    tilt_degrees: float
    largest_deviation_mm: float


def check(series: SeriesFiles, *, allow_tilt: bool = False) -> Geometry:
    """Return the geometry of ``series``, whose files stand in slice order.

    Parameters
    ----------
    series
        One candidate volume, from :func:`voxtrial.daemon.dicom.series.group`.
    allow_tilt
        Accept a sheared stack (gantry tilt); a recipe step then resamples it.

    Raises
    ------
    Refused
        With the rule that refused: what grouping has refused already, ``single_slice``, ``mixed_matrix``,
        ``mixed_orientation``, ``mixed_frame_of_reference``, ``duplicate_position``, ``gantry_tilt``,
        ``missing_slice``, ``irregular_spacing``, ``planes_out_of_line``.
    """
    if series.refusal is not None:
        raise Refused(str(series.refusal), rule=series.refusal.rule)
    return lattice(series.files, allow_tilt=allow_tilt)


def normal_of(plane: Plane) -> Vector:
    """Return the unit normal of ``plane``: row direction crossed with column direction."""
    normal = np.cross(*plane.orientation)
    return np.asarray(normal / np.linalg.norm(normal))


def heights(planes: Sequence[Plane]) -> Vector:
    """Return the position of each plane along the normal of the first, mm."""
    positions = np.array([plane.values["ImagePositionPatient"] for plane in planes], np.float64)
    return np.asarray(positions @ normal_of(planes[0]))


def in_slice_order(planes: Sequence[Plane]) -> list[Plane]:
    """Return ``planes`` by rising position along the normal of the first; ties keep their order."""
    return [planes[k] for k in np.argsort(heights(planes), kind="stable")]


def lattice(planes: Sequence[Plane], *, allow_tilt: bool = False) -> Geometry:
    """Return the geometry of ``planes`` in slice order; see :func:`check`."""
    _refuse_mixtures(planes)
    if len(planes) < 2:
        raise Refused("One slice gives no slice spacing; a volume needs two or more", rule="single_slice")
    first = planes[0]
    along_row, along_column = first.orientation
    normal = normal_of(first)
    positions = np.array([plane.values["ImagePositionPatient"] for plane in planes], np.float64)
    steps = np.diff(positions @ normal)
    _refuse_duplicates(positions @ normal, steps)
    step = (positions[-1] - positions[0]) / (len(planes) - 1)
    height = float(step @ normal)
    shift_x, shift_y = float(step @ along_row), float(step @ along_column)
    tilt = float(np.degrees(np.arctan2(np.hypot(shift_x, shift_y), height)))
    if tilt > TILT_TOLERANCE_DEGREES and not allow_tilt:
        message = (
            f"Slices are sheared by {tilt:.2f} degrees (gantry tilt); accepted without a correction are "
            f"{TILT_TOLERANCE_DEGREES} degrees"
        )
        raise Refused(message, rule="gantry_tilt")
    deviation = _refuse_irregular(positions, steps, step, height)
    spacing_y, spacing_x = first.spacing_yx
    affine: Affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = along_column * spacing_y
    affine[:3, 2] = along_row * spacing_x
    affine[:3, 3] = positions[0]
    return Geometry(
        grid=Grid(shape=(len(planes), *first.shape), affine=affine),
        normal=normal,
        slice_spacing_mm=height,
        shear=(shift_y, shift_x) if tilt > TILT_TOLERANCE_DEGREES else (0.0, 0.0),
        tilt_degrees=tilt,
        largest_deviation_mm=deviation,
    )


def _refuse_mixtures(planes: Sequence[Plane]) -> None:
    shapes = {plane.shape for plane in planes}
    spacings = np.array([plane.values["PixelSpacing"] for plane in planes], np.float64)
    if len(shapes) > 1:
        raise Refused(f"Slices have different matrices: {sorted(shapes)}", rule="mixed_matrix")
    if np.ptp(spacings, axis=0).max() > 1e-3 * spacings.min():
        low, high = spacings.min(), spacings.max()
        raise Refused(f"Pixel spacing varies from {low:g} to {high:g} mm", rule="mixed_matrix")
    cosines = np.array([plane.values["ImageOrientationPatient"] for plane in planes], np.float64)
    spread = float(np.ptp(cosines, axis=0).max())
    if spread > ORIENTATION_TOLERANCE:
        count = len(np.unique(cosines.round(3), axis=0))
        message = (
            f"Slices have {count} orientations: direction cosines differ by up to {spread:.4g}; "
            f"accepted are {ORIENTATION_TOLERANCE:g}"
        )
        raise Refused(message, rule="mixed_orientation")
    frames = {plane.text("FrameOfReferenceUID") for plane in planes}
    if len(frames) > 1:
        message = f"Slices stand in {len(frames)} frames of reference"
        raise Refused(message, rule="mixed_frame_of_reference")


def _refuse_duplicates(along_normal: Vector, steps: Vector) -> None:
    doubled = np.flatnonzero(steps < SAME_POSITION_MM)
    if len(doubled):
        message = (
            f"{len(doubled)} of {len(along_normal)} slices stand at a position that another one holds, "
            f"the first at {along_normal[doubled[0]]:.2f} mm along the normal"
        )
        raise Refused(message, rule="duplicate_position")


def _refuse_irregular(positions: Vector, steps: Vector, step: Vector, height: float) -> float:
    """Return the largest distance from the lattice, mm, or refuse by the kind of irregularity."""
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    residual = np.linalg.norm(positions - expected, axis=1)
    deviation = float(residual.max())
    tolerance = _tolerance(height)
    if deviation <= tolerance:
        return deviation
    typical = float(np.sort(steps)[(len(steps) - 1) // 2])
    multiples = np.rint(steps / typical)
    allowed = _tolerance(typical) * multiples
    if multiples.max() > 1 and (np.abs(steps - multiples * typical) <= allowed).all():
        missing, place = int(multiples.sum()) - len(steps), int(np.argmax(multiples))
        message = (
            f"{missing} slice(s) missing: the spacing is {typical:.4g} mm but {steps[place]:.4g} mm after "
            f"slice {place + 1} of {len(positions)}"
        )
        raise Refused(message, rule="missing_slice")
    along_normal = np.concatenate(([0.0], np.cumsum(steps))) - np.arange(len(positions)) * height
    if np.abs(along_normal).max() > tolerance:
        message = (
            f"Slice spacing varies from {steps.min():.4g} to {steps.max():.4g} mm; a slice lies "
            f"{np.abs(along_normal).max():.3g} mm off the regular lattice, accepted are {tolerance:.3g} mm"
        )
        raise Refused(message, rule="irregular_spacing")
    message = f"Slices wander off a straight line by {deviation:.3g} mm; accepted are {tolerance:.3g} mm"
    raise Refused(message, rule="planes_out_of_line")


def _tolerance(spacing: float) -> float:
    return max(SPACING_TOLERANCE * spacing, min(SPACING_TOLERANCE_MM, spacing / 5))
