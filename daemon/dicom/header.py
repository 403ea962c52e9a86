"""What is asked of every header: which elements, how they are converted, and where the pixels are.

Both parsers (the walk and pydicom) hand over raw bytes, so that one conversion serves both and they cannot
differ.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Value = str | int | float | tuple[str, ...] | tuple[float, ...]

PIXEL_DATA = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
NATIVE = (IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN)
"""Transfer syntaxes whose pixels lie in the file as they are."""

COMPRESSED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")
"""Beginnings of the compressed transfer syntaxes, explicit little endian all of them (PS3.5 A.4)."""


def text(raw: bytes) -> str:
    """Return a value of the default repertoire without its padding."""
    return raw.decode("latin-1").strip(" \0")


def _texts(raw: bytes) -> tuple[str, ...]:
    values = text(raw)
    return tuple(part.strip() for part in values.split("\\")) if values else ()


def _number(raw: bytes) -> float:
    return float(raw.strip(b" \0"))


def _numbers(raw: bytes) -> tuple[float, ...]:
    stripped = raw.strip(b" \0")
    return tuple(map(float, stripped.split(b"\\"))) if stripped else ()


def _integer(raw: bytes) -> int:
    return int(raw.strip(b" \0"))


def _unsigned_short(raw: bytes) -> int:
    return int.from_bytes(raw[:2], "little")


def _double(raw: bytes) -> float:
    (value,) = struct.unpack("<d", raw)
    return float(value)


BINARY = (_unsigned_short, _double)
"""Conversions whose bytes depend on the byte order."""

ELEMENTS: Mapping[int, tuple[str, Callable[[bytes], Value]]] = {
    0x00080008: ("ImageType", _texts),
    0x00080016: ("SOPClassUID", text),
    0x00080018: ("SOPInstanceUID", text),
    0x00080022: ("AcquisitionDate", text),
    0x0008002A: ("AcquisitionDateTime", text),
    0x00080032: ("AcquisitionTime", text),
    0x00080033: ("ContentTime", text),
    0x00080060: ("Modality", text),
    0x00180081: ("EchoTime", _number),
    0x00180086: ("EchoNumbers", text),
    0x00181060: ("TriggerTime", _number),
    0x00189087: ("DiffusionBValue", _double),
    0x0020000D: ("StudyInstanceUID", text),
    0x0020000E: ("SeriesInstanceUID", text),
    0x00200012: ("AcquisitionNumber", _integer),
    0x00200013: ("InstanceNumber", _integer),
    0x00200032: ("ImagePositionPatient", _numbers),
    0x00200037: ("ImageOrientationPatient", _numbers),
    0x00200052: ("FrameOfReferenceUID", text),
    0x00200100: ("TemporalPositionIdentifier", _integer),
    0x00280002: ("SamplesPerPixel", _unsigned_short),
    0x00280004: ("PhotometricInterpretation", text),
    0x00280008: ("NumberOfFrames", _integer),
    0x00280010: ("Rows", _unsigned_short),
    0x00280011: ("Columns", _unsigned_short),
    0x00280030: ("PixelSpacing", _numbers),
    0x00280100: ("BitsAllocated", _unsigned_short),
    0x00280101: ("BitsStored", _unsigned_short),
    0x00280103: ("PixelRepresentation", _unsigned_short),
    0x00280120: ("PixelPaddingValue", _unsigned_short),
    0x00280121: ("PixelPaddingRangeLimit", _unsigned_short),
    0x00281052: ("RescaleIntercept", _number),
    0x00281053: ("RescaleSlope", _number),
    0x00281054: ("RescaleType", text),
    0x00541001: ("Units", text),
    0x00541006: ("SUVType", text),
    0x00541300: ("FrameReferenceTime", _number),
}
"""What grouping, geometry and pixels ask of every file, by tag."""

ESSENTIAL = frozenset(
    (
        "BitsAllocated",
        "BitsStored",
        "Columns",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "NumberOfFrames",
        "PixelRepresentation",
        "PixelSpacing",
        "RescaleIntercept",
        "RescaleSlope",
        "Rows",
        "SamplesPerPixel",
    )
)
"""A malformed value of these is a reason to refuse the file; of others, to go without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelLocation:
    """Where the bytes of uncompressed little-endian pixels stand in a file, and how many there are."""

    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What one file says about itself.

    Parameters
    ----------
    path
        File that was read.
    transfer_syntax_uid
        Empty where the file has no file meta information.
    values
        Converted values by DICOM keyword (see ``ELEMENTS``); empty and absent elements are left out.
    has_pixel_data
        Whether the file holds (7FE0,0010).
    pixel_location
        Given for uncompressed little-endian files that are not deflated.
    encapsulated_offset
        Where the first fragment of compressed pixels begins.
    malformed
        Text of essential elements that do not parse, by keyword.
    """

    path: Path
    transfer_syntax_uid: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    has_pixel_data: bool = False
    pixel_location: PixelLocation | None = None
    encapsulated_offset: int | None = None
    malformed: dict[str, str] = field(default_factory=dict)


def converted(found: Mapping[int, bytes]) -> tuple[dict[str, Value], dict[str, str]]:
    """Return values by keyword without empty ones, and the text of essential ones that do not parse."""
    values: dict[str, Value] = {}
    malformed: dict[str, str] = {}
    for tag, raw in found.items():
        keyword = ELEMENTS[tag][0]
        try:
            value = _value(tag, raw)
        except (ValueError, struct.error):
            if keyword in ESSENTIAL:
                malformed[keyword] = text(raw)
            continue
        if value is not None:
            values[keyword] = value
    return values, malformed


@functools.lru_cache(maxsize=4096)  # the slices of a series share most of their values
def _value(tag: int, raw: bytes) -> Value | None:
    """Return the converted value; None where the element is empty."""
    if not raw.strip(b" \0") and ELEMENTS[tag][1] not in BINARY:
        return None
    return ELEMENTS[tag][1](raw) if raw else None
