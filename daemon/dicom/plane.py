"""Image planes: one per single-frame file, one per frame of an enhanced multi-frame file.

Both kinds answer the same questions by the same DICOM keywords, so that the geometry gate and the pixel
reader need not know where a plane came from. Functional groups (PS3.3 C.7.6.16) are flattened into the
keywords of the single-frame images; what can separate volumes inside one object (stack, temporal position,
frame type, echo, b value, quantity) becomes a value too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from voxtrial.daemon.dicom.decoding import can_decode
from voxtrial.daemon.dicom.elements import parsing, read_data_set
from voxtrial.daemon.dicom.header import Header, Value
from voxtrial.daemon.dicom.walk import fragments_are_whole
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Source, SourceInstance

Vector = NDArray[np.float64]

DERIVED_OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a Segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a Label Map Segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a Parametric Map",
    "1.2.840.10008.5.1.4.1.1.481.2": "an RT Dose",
}
"""Objects that hold pixels but no acquired image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """One image plane.

    Parameters
    ----------
    header
        File that holds the plane.
    frame
        1-based frame number; None in single-frame files.
    values
        Values by DICOM keyword, functional groups included.
    """

    header: Header
    frame: int | None
    values: Mapping[str, Value]

    @property
    def path(self) -> Path:
        """File that holds the plane."""
        return self.header.path

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the file."""
        return self.text("SOPInstanceUID")

    @property
    def position(self) -> Vector:
        """Centre of the first voxel, LPS mm."""
        return np.array(self.values["ImagePositionPatient"], np.float64)

    @property
    def orientation(self) -> Vector:
        """(2, 3) unit vectors: along a row (rising column index), along a column (rising row index)."""
        cosines = np.array(self.values["ImageOrientationPatient"], np.float64).reshape(2, 3)
        return np.asarray(cosines / np.linalg.norm(cosines, axis=1, keepdims=True))

    @property
    def spacing_yx(self) -> tuple[float, float]:
        """Distance between rows and between columns, mm."""
        y, x = self.numbers("PixelSpacing")
        return y, x

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.integer("Rows"), self.integer("Columns")

    def text(self, keyword: str) -> str:
        """Return a text value, or the empty string."""
        return str(self.values.get(keyword, ""))

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Return the values of a multi-valued text, or ()."""
        value = self.values.get(keyword, ())
        return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)

    def number(self, keyword: str, default: float = 0.0) -> float:
        """Return a number, or ``default``."""
        value = self.values.get(keyword, default)
        return float(value) if isinstance(value, (int, float)) else default

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """Return the values of a multi-valued number, or ()."""
        value = self.values.get(keyword, ())
        return tuple(map(float, value)) if isinstance(value, tuple) else ()

    def integer(self, keyword: str, default: int = 0) -> int:
        """Return an integer, or ``default``."""
        return int(self.number(keyword, default))


def planes(header: Header) -> list[Plane]:
    """Return the image planes of one file.

    Raises
    ------
    Refused
        ``not_an_image``, ``derived_object``, ``malformed_header``, ``color``, ``mosaic``, ``localizer``,
        ``missing_geometry``, ``truncated``, ``unsupported_transfer_syntax``: what makes every plane of the
        file unfit for a volume.
    """
    file_plane = Plane(header=header, frame=None, values=header.values)
    _refuse_other_objects(file_plane)
    number_of_frames = file_plane.integer("NumberOfFrames", 1)
    if number_of_frames > 1 or "ImagePositionPatient" not in header.values:
        found = _enhanced_planes(header, number_of_frames)
    else:
        found = [file_plane]
    for plane in found:
        _refuse_without_geometry(plane)
    _refuse_unreadable_pixels(header, len(found))
    return found


def _refuse_other_objects(plane: Plane) -> None:
    values, name = plane.values, plane.path.name
    derived = DERIVED_OBJECTS.get(plane.text("SOPClassUID"))
    if derived:
        message = f"{name} is {derived}: it is read as a reference or result, not as an image"
        raise Refused(message, rule="derived_object")
    if not plane.header.has_pixel_data or "Rows" not in values:
        modality = plane.text("Modality") or "no modality"
        raise Refused(f"{name} ({modality}) holds no image: no rows or no pixel data", rule="not_an_image")
    for keyword, text in plane.header.malformed.items():
        raise Refused(f"{name}: {keyword} holds '{text}', which is not a number", rule="malformed_header")
    samples = plane.integer("SamplesPerPixel", 1)
    if samples != 1:
        photometric = plane.text("PhotometricInterpretation")
        message = f"{name} is a colour image ({samples} samples a pixel, {photometric}); volumes have one"
        raise Refused(message, rule="color")
    image_type = plane.texts("ImageType")
    if "MOSAIC" in image_type:
        message = f"{name} tiles a whole volume into one plane (ImageType MOSAIC); have it exported as slices"
        raise Refused(message, rule="mosaic")
    if "LOCALIZER" in image_type:
        raise Refused(f"{name} is a localizer (ImageType LOCALIZER)", rule="localizer")


def _refuse_without_geometry(plane: Plane) -> None:
    where = plane.path.name if plane.frame is None else f"{plane.path.name} frame {plane.frame}"
    for keyword, length in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        found = plane.numbers(keyword)
        if len(found) != length or not all(map(math.isfinite, found)):
            message = f"{where}: {keyword} holds {len(found)} finite values instead of {length}"
            raise Refused(message, rule="missing_geometry")
    if min(plane.spacing_yx) <= 0 or min(plane.shape) <= 0:
        message = f"{where}: pixel spacing {plane.spacing_yx} mm and matrix {plane.shape} must be positive"
        raise Refused(message, rule="missing_geometry")
    a, b, c, d, e, f = plane.numbers("ImageOrientationPatient")
    if max(abs(a * a + b * b + c * c - 1), abs(d * d + e * e + f * f - 1), abs(a * d + b * e + c * f)) > 1e-3:
        message = f"{where}: ImageOrientationPatient {a, b, c, d, e, f} is not two orthogonal unit vectors"
        raise Refused(message, rule="missing_geometry")


def _refuse_unreadable_pixels(header: Header, number_of_planes: int) -> None:
    plane = Plane(header=header, frame=None, values=header.values)
    if header.pixel_location is None:
        if not can_decode(header.transfer_syntax_uid):
            syntax = header.transfer_syntax_uid or "unknown"
            message = f"{header.path.name}: no decoder for transfer syntax {syntax}"
            raise Refused(message, rule="unsupported_transfer_syntax")
        offset = header.encapsulated_offset
        if offset is not None and not fragments_are_whole(header.path, offset):
            raise Refused(f"{header.path.name} ends within its compressed pixels", rule="truncated")
        return
    rows, columns = plane.shape
    needed = rows * columns * number_of_planes * plane.integer("BitsAllocated", 16) // 8
    if header.pixel_location.length < needed:
        message = f"{header.path.name} ends after {header.pixel_location.length} of {needed} bytes of pixels"
        raise Refused(message, rule="truncated")


def _enhanced_planes(header: Header, number_of_frames: int) -> list[Plane]:
    """Flatten shared and per-frame functional groups into one set of values a frame."""
    name = header.path.name
    data_set = read_data_set(header.path, stop_before_pixels=True)
    with parsing(header.path, rule="malformed_header"):
        shared = flattened(first_item(data_set, "SharedFunctionalGroupsSequence"))
        groups = list(data_set.get("PerFrameFunctionalGroupsSequence") or ())
        frames = [flattened(group) for group in groups]
    if not frames:
        message = f"{name}: no position of the plane"
        if number_of_frames > 1:
            message = f"{name}: {number_of_frames} frames without functional groups"
        raise Refused(message, rule="missing_geometry")
    if len(frames) != number_of_frames:
        message = f"{name}: {number_of_frames} frames but {len(frames)} functional groups"
        raise Refused(message, rule="malformed_header")
    return [
        Plane(header=header, frame=k, values={**header.values, **shared, **own})
        for k, own in enumerate(frames, start=1)
    ]


_GROUPED: tuple[tuple[str, str, str], ...] = (
    ("PlanePositionSequence", "ImagePositionPatient", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing", "PixelSpacing"),
    ("PixelMeasuresSequence", "SpacingBetweenSlices", "SpacingBetweenSlices"),
    ("PixelValueTransformationSequence", "RescaleIntercept", "RescaleIntercept"),
    ("PixelValueTransformationSequence", "RescaleSlope", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleType", "RescaleType"),
    ("FrameContentSequence", "StackID", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionDateTime", "AcquisitionDateTime"),
    ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent", "ComplexImageComponent"),
    ("CTImageFrameTypeSequence", "FrameType", "ImageType"),
    ("PETFrameTypeSequence", "FrameType", "ImageType"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", "TriggerTime"),
)
"""Macro, its keyword, and the keyword of the single-frame images that means the same."""


def flattened(groups: Dataset | None) -> dict[str, Value]:
    """Return the values of functional groups by the keywords of the single-frame images."""
    values: dict[str, Value] = {}
    if groups is None:
        return values
    for sequence, keyword, name in _GROUPED:
        item = first_item(groups, sequence)
        value = None if item is None else item.get(keyword)
        if value is not None and value != "":
            values[name] = plain_value(value)
    return values | _real_world_values(groups)


def _real_world_values(groups: Dataset) -> dict[str, Value]:
    """Return slope, intercept and unit of the first linear real world value mapping of functional groups."""
    for item in groups.get("RealWorldValueMappingSequence") or ():
        unit = first_item(item, "MeasurementUnitsCodeSequence")
        if unit is not None and "RealWorldValueSlope" in item:
            return {
                "RealWorldValueSlope": float(item.RealWorldValueSlope),
                "RealWorldValueIntercept": float(item.get("RealWorldValueIntercept") or 0.0),
                "MeasurementUnits": str(unit.get("CodeValue", "")),
            }
    return {}


def plain_value(value: Any) -> Value:
    """Return pydicom's value as a str, int, float or tuple of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if hasattr(value, "__iter__"):
        parts = list(value)
        return tuple(map(str, parts)) if parts and isinstance(parts[0], str) else tuple(map(float, parts))
    return float(value)


def source_of(data_set: Dataset, path: Path) -> Source:
    """Return where a single derived object (SEG, RTSTRUCT) came from."""
    return Source(
        study_instance_uid=str(data_set.get("StudyInstanceUID", "")),
        series_instance_uid=str(data_set.get("SeriesInstanceUID", "")),
        frame_of_reference_uid=str(data_set.get("FrameOfReferenceUID", "")),
        modality=str(data_set.get("Modality", "")),
        instances=(
            SourceInstance(
                sop_instance_uid=str(data_set.get("SOPInstanceUID", "")),
                sop_class_uid=str(data_set.get("SOPClassUID", "")),
                path=str(path),
            ),
        ),
    )


def first_item(data_set: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence; None where it is absent or empty."""
    items = data_set.get(keyword)
    return items[0] if items else None
