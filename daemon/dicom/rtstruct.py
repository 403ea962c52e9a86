"""Read the regions of an RT Structure Set onto a grid.

Contours are matched to slices by their coordinates in the frame of reference. ContourImageSequence is not
consulted: real structure sets point at instances that the image series does not hold.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from voxtrial.daemon.dicom.contours import rasterise
from voxtrial.daemon.dicom.elements import parsing, read_data_set
from voxtrial.daemon.dicom.plane import source_of
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid, Mask, Source

CLOSED = frozenset(("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"))
"""Contour types that enclose a region; points and open lines do not."""

SLICE_TOLERANCE = 0.2
"""Largest distance of a contour from the nearest slice, as a part of the slice spacing."""

_CONTOUR_DATA = 0x30060050


def from_rtstruct(
    path: Path, grid: Grid, roi: str | int | None = None, *, frame_of_reference_uid: str = ""
) -> list[Mask]:
    """Return the regions of the structure set ``path`` on ``grid``, by the rule of voxel centres.

    Parameters
    ----------
    roi
        ROI name or number; None returns every ROI that has closed contours.
    frame_of_reference_uid
        Frame of reference of ``grid``; when given, a region in another one is refused.

    Raises
    ------
    Refused
        ``not_rtstruct``, ``unknown_roi``, ``frame_of_reference``, ``contour_off_slice`` (between slices, or
        across them), ``reference_outside_image``, ``contours_skip_slices``.

    Notes
    -----
    A slice without a contour stays empty: nothing is interpolated. Where no two contours stand on
    neighbouring slices they were drawn on a coarser grid, and the region is refused instead of being
    returned in stripes.
    """
    structures = _read(path)
    wanted = [one for one in structures.regions if roi is None or roi in {one.name, one.number}]
    if roi is not None and not wanted:
        names = ", ".join(one.name for one in structures.regions)
        raise Refused(f'{path.name} has no ROI "{roi}"; it has {names or "none"}', rule="unknown_roi")
    masks = []
    for one in wanted:
        if not one.contours and roi is None:
            continue
        if frame_of_reference_uid and one.frame_of_reference_uid not in {"", frame_of_reference_uid}:
            message = f'ROI "{one.name}" stands in another frame of reference than the image'
            raise Refused(message, rule="frame_of_reference")
        array = _rasterised(one.name, one.contours, grid)
        masks.append(Mask(array=array, affine=grid.affine, label=one.name, source=structures.source))
    return masks


@dataclass(frozen=True, kw_only=True)
class _Region:
    number: int
    name: str
    frame_of_reference_uid: str
    contours: list[NDArray[np.float64]]
    """Closed contours, each (n, 3) LPS mm."""


@dataclass(frozen=True, kw_only=True)
class _Structures:
    regions: list[_Region]
    source: Source


def _read(path: Path) -> _Structures:
    data_set = read_data_set(path)
    with parsing(path, rule="not_rtstruct"):
        if data_set.get("Modality") != "RTSTRUCT":
            raise Refused(f"{path.name} is no RT Structure Set", rule="not_rtstruct")
        contours: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        for item in data_set.get("ROIContourSequence") or ():
            for contour in item.get("ContourSequence") or ():
                if contour.get("ContourGeometricType") in CLOSED:
                    points = _points(contour)
                    if len(points) > 2:
                        contours[int(item.ReferencedROINumber)].append(points)
        regions = [
            _Region(
                number=int(item.ROINumber),
                name=str(item.get("ROIName", "")),
                frame_of_reference_uid=str(item.get("ReferencedFrameOfReferenceUID", "")),
                contours=contours[int(item.ROINumber)],
            )
            for item in data_set.get("StructureSetROISequence") or ()
        ]
        return _Structures(regions=regions, source=source_of(data_set, path))


def _points(contour: Dataset) -> NDArray[np.float64]:
    element = contour.get_item(_CONTOUR_DATA)
    if isinstance(element, RawDataElement) and element.value:
        values: list[str] | list[float] = element.value.decode("ascii", "replace").rstrip(" \0").split("\\")
    else:
        values = list(map(float, contour.get("ContourData") or ()))
    return np.array(values, np.float64).reshape(-1, 3)


def _rasterised(name: str, contours: list[NDArray[np.float64]], grid: Grid) -> NDArray[np.bool_]:
    array = np.zeros(grid.shape, bool)
    by_slice: dict[int, list[NDArray[np.float64]]] = {}
    for points in contours:
        index = grid.index(points)
        heights = index[:, 0]
        k = round(float(heights.mean()))
        off = float(np.abs(heights - k).max())
        if off > SLICE_TOLERANCE:
            message = (
                f'A contour of ROI "{name}" lies {off * grid.spacing_mm[0]:.3g} mm off the nearest slice; '
                f"accepted are {SLICE_TOLERANCE * grid.spacing_mm[0]:.3g} mm"
            )
            raise Refused(message, rule="contour_off_slice")
        if not 0 <= k < grid.shape[0]:
            message = f'A contour of ROI "{name}" lies {k} slices from the first of {grid.shape[0]}'
            raise Refused(message, rule="reference_outside_image")
        by_slice.setdefault(k, []).append(index[:, 1:])
    gaps = np.diff(sorted(by_slice))
    if len(gaps) > 1 and gaps.min() > 1:
        message = (
            f'Contours of ROI "{name}" stand {gaps.min()} slices apart: drawn on a coarser grid than this'
        )
        raise Refused(message, rule="contours_skip_slices")
    for k, outlines in by_slice.items():
        array[k] = rasterise(outlines, grid.shape[1:])
    return array
