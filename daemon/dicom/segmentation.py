"""Read the segments of a DICOM Segmentation onto a grid: BINARY, FRACTIONAL and LABELMAP.

Every frame is placed by its own position and orientation, whatever the order of the frames and whichever were
omitted because they are empty. Frames whose pixels coincide with voxels of the grid are copied, flipped or
transposed where the axes differ; others are put on the grid by the nearest voxel.

References
----------
PS3.3 C.8.20 (segmentation), C.7.6.16 (functional groups), PS3.5 8.1.1 (bit packing across frames).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from voxtrial.daemon.dicom.decoding import decode
from voxtrial.daemon.dicom.elements import parsing, read_data_set
from voxtrial.daemon.dicom.header import Value
from voxtrial.daemon.dicom.plane import first_item, flattened, source_of
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Affine, Grid, Mask, Source

SEGMENTATION_CLASSES = frozenset(("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"))

PLACE_TOLERANCE = 0.1
"""Largest distance between pixel and voxel centres that still coincide, voxels."""

_PACKED_SYNTAXES = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"))
"""Implicit, explicit and deflated little endian: 1-bit pixels are packed, lowest bit first."""


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """One frame; ``segment`` is 0 in a label map, ``affine`` maps (row, column, 1) to LPS mm."""

    pixels: NDArray[Any]
    segment: int
    affine: NDArray[np.float64]
    slice_spacing_mm: float


@dataclass(frozen=True, kw_only=True)
class _Segmentation:
    """One object: its frames, and the labels of its segments by number."""

    segments: dict[int, str]
    frames: list[_Frame]
    maximum_fraction: int
    """Stored value that means all of the pixel; 1 unless FRACTIONAL."""
    source: Source


def from_seg(
    path: Path, grid: Grid, *, threshold: float = 0.5, frame_of_reference_uid: str = ""
) -> list[Mask]:
    """Return the segments of ``path`` on ``grid``, in the order of their numbers; an empty one is all False.

    Parameters
    ----------
    threshold
        Fraction from which on a pixel of a FRACTIONAL segment belongs to it.
    frame_of_reference_uid
        Frame of reference of ``grid``; when given, a segmentation in another one is refused.

    Raises
    ------
    Refused
        ``not_seg``, ``undecodable``, ``missing_geometry``, ``frame_of_reference``,
        ``reference_outside_image`` (a segmented pixel has no voxel), ``irregular_spacing`` (frames that need
        resampling are no regular stack).
    """
    found = _read(path)
    frame_of_reference = found.source.frame_of_reference_uid
    if frame_of_reference_uid and frame_of_reference != frame_of_reference_uid:
        message = (
            f"{path.name} stands in frame of reference {frame_of_reference or 'unknown'}, not the image's"
        )
        raise Refused(message, rule="frame_of_reference")
    masks = []
    for number, label in found.segments.items():
        least = max(threshold * found.maximum_fraction, 1e-9)
        own = [
            (frame, frame.pixels >= least if frame.segment else frame.pixels == number)
            for frame in found.frames
            if frame.segment in {0, number}
        ]
        array = _on_grid(own, grid, label)
        masks.append(Mask(array=array, affine=grid.affine, label=label, source=found.source))
    return masks


def _read(path: Path) -> _Segmentation:
    data_set = read_data_set(path)
    with parsing(path, rule="not_seg"):
        if data_set.get("SOPClassUID") not in SEGMENTATION_CLASSES:
            raise Refused(f"{path.name} is no Segmentation", rule="not_seg")
        numbered = ((int(item.SegmentNumber), item) for item in data_set.get("SegmentSequence") or ())
        fractional = data_set.get("SegmentationType") == "FRACTIONAL"
        segments = {
            number: str(item.get("SegmentLabel", "")) or f"segment {number}"
            for number, item in numbered
            if number > 0  # 0 is the background of a label map
        }
        maximum = int(data_set.MaximumFractionalValue) if fractional else 1
        source = source_of(data_set, path)
    frames = _frames(path, data_set)
    return _Segmentation(segments=segments, maximum_fraction=maximum, frames=frames, source=source)


def _frames(path: Path, data_set: Dataset) -> list[_Frame]:
    with parsing(path, rule="undecodable"):
        pixels = _pixels(path, data_set)
    with parsing(path, rule="missing_geometry"):
        label_map = data_set.get("SegmentationType") == "LABELMAP"
        shared_item = first_item(data_set, "SharedFunctionalGroupsSequence") or Dataset()
        shared = flattened(shared_item)
        groups = list(data_set.get("PerFrameFunctionalGroupsSequence") or ())
        if len(groups) != len(pixels):
            message = f"{path.name}: {len(pixels)} frames but {len(groups)} functional groups"
            raise Refused(message, rule="missing_geometry")
        found = []
        for stored, group in zip(pixels, groups, strict=True):
            named = [] if label_map else [group, shared_item]
            items = (first_item(place, "SegmentIdentificationSequence") for place in named)
            identification = next((item for item in items if item is not None), None)
            if identification is None and not label_map:
                raise Refused(f"{path.name}: a frame names no segment", rule="not_seg")
            values = {**shared, **flattened(group)}
            spacing = values.get("SpacingBetweenSlices", 0.0)
            found.append(
                _Frame(
                    pixels=stored,
                    segment=0 if identification is None else int(identification.ReferencedSegmentNumber),
                    affine=_affine(values),
                    slice_spacing_mm=float(spacing) if isinstance(spacing, (int, float)) else 0.0,
                )
            )
    return found


def _pixels(path: Path, data_set: Dataset) -> NDArray[Any]:
    """Return (frames, rows, columns)."""
    shape = int(data_set.get("NumberOfFrames", 1)), int(data_set.Rows), int(data_set.Columns)
    if data_set.BitsAllocated == 1 and str(data_set.file_meta.TransferSyntaxUID) in _PACKED_SYNTAXES:
        packed = np.frombuffer(data_set.PixelData, np.uint8)
        return np.unpackbits(packed, count=int(np.prod(shape)), bitorder="little").reshape(shape)
    return decode(data_set, path).reshape(shape)


def _affine(values: dict[str, Value]) -> NDArray[np.float64]:
    """Return the (3, 3) map of (row, column, 1) to LPS mm."""
    position = np.array(values["ImagePositionPatient"], np.float64)
    along_row, along_column = np.array(values["ImageOrientationPatient"], np.float64).reshape(2, 3)
    spacing_y, spacing_x = np.array(values["PixelSpacing"], np.float64)
    return np.column_stack((along_column * spacing_y, along_row * spacing_x, position))


def _on_grid(frames: list[tuple[_Frame, NDArray[np.bool_]]], grid: Grid, label: str) -> NDArray[np.bool_]:
    array = np.zeros(grid.shape, bool)
    elsewhere = []
    for frame, inside in frames:
        placed = _placed(frame, grid)
        if placed is None:
            elsewhere.append((frame, inside))
        else:
            _paste(inside, placed, array, label)
    if elsewhere:
        array |= _nearest(elsewhere, grid, label)
    return array


def _placed(frame: _Frame, grid: Grid) -> NDArray[np.int64] | None:
    """Return the (3, 3) integer map of (row, column, 1) to (z, y, x); None if centres differ."""
    inverse = np.linalg.inv(grid.affine[:3, :3])
    exact = inverse @ frame.affine
    exact[:, 2] -= inverse @ grid.affine[:3, 3]
    whole = np.rint(exact).astype(np.int64)
    corners = np.array([[r, c, 1] for r in (0, 1) for c in (0, 1)]) * [*frame.pixels.shape, 1]
    coincide = np.abs((exact - whole) @ corners.T).max() <= PLACE_TOLERANCE
    steps = np.abs(whole[:, :2])
    return whole if coincide and (steps.sum(0) == 1).all() and (steps.sum(1) <= 1).all() else None


def _paste(
    inside: NDArray[np.bool_], placed: NDArray[np.int64], array: NDArray[np.bool_], label: str
) -> None:
    pixels = np.argwhere(inside)
    voxels = pixels @ placed[:, :2].T + placed[:, 2]
    if ((voxels < 0) | (voxels >= array.shape)).any():
        message = f'Segment "{label}" reaches outside the image'
        raise Refused(message, rule="reference_outside_image")
    array[tuple(voxels.T)] = True


def _nearest(frames: list[tuple[_Frame, NDArray[np.bool_]]], grid: Grid, label: str) -> NDArray[np.bool_]:
    """Stack ``frames`` on their own regular grid, empty where one was omitted, and take the nearest voxel."""
    from voxtrial.daemon.harmonize.resample import labels_to_grid  # compiled kernels load late

    first = frames[0][0]
    normal = np.cross(first.affine[:, 1], first.affine[:, 0])
    normal /= np.linalg.norm(normal)
    heights = np.array([frame.affine[:, 2] @ normal for frame, _ in frames])
    if any(np.abs(frame.affine[:, :2] - first.affine[:, :2]).max() > 1e-3 for frame, _ in frames):
        raise Refused(f'Frames of segment "{label}" have several orientations', rule="mixed_orientation")
    distances = np.diff(np.unique(heights.round(3)))
    spacing = first.slice_spacing_mm or (float(distances.min()) if len(distances) else 0.0)
    places = (heights - heights.min()) / spacing if spacing else np.full(len(heights), np.nan)
    if not np.abs(places - np.rint(places)).max() <= PLACE_TOLERANCE:
        message = (
            f'Frames of segment "{label}" are no regular stack, and their pixels are not voxels of the image'
        )
        raise Refused(message, rule="irregular_spacing")
    k = np.rint(places).astype(int)
    stack = np.zeros((k.max() + 1, *first.pixels.shape), np.uint8)
    for place, (_, inside) in zip(k, frames, strict=True):
        stack[place] |= inside
    affine: Affine = np.eye(4)
    lowest = frames[int(heights.argmin())][0]
    affine[:3] = np.column_stack((normal * spacing, lowest.affine))
    shape = (stack.shape[0], stack.shape[1], stack.shape[2])
    return np.asarray(labels_to_grid(stack, Grid(shape=shape, affine=affine), grid) != 0)
