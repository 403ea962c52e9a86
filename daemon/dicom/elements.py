"""Read the header of a DICOM file without building objects for what nobody asked for.

Most series that a scanner sends are uncompressed little endian. Their elements are walked in place, the few
that grouping, geometry and pixels need are converted, and the pixel data is located, not read. Every other
file (compressed, deflated, big endian, undefined lengths, no file meta information) is parsed by pydicom and
yields the same values.

References
----------
PS3.5 section 7.1 (data elements), PS3.10 section 7.1 (file meta information).
"""

from __future__ import annotations

import functools
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from voxtrial.daemon.errors import Refused

Value = str | int | float | tuple[str, ...] | tuple[float, ...]

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
WALKABLE = (IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN)

PYDICOM_FAILURES = (
    BytesLengthException,
    InvalidDicomError,
    AttributeError,
    EOFError,
    KeyError,
    IndexError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files."""

_PIXEL_DATA = 0x7FE00010
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_FIRST_READ = 16 * 1024
_DEFER_SIZE = 4096


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").strip(" \0")


def _texts(raw: bytes) -> tuple[str, ...]:
    text = _text(raw)
    return tuple(part.strip() for part in text.split("\\")) if text else ()


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


_BINARY = (_unsigned_short, _double)

ELEMENTS: Mapping[int, tuple[str, Callable[[bytes], Value]]] = {
    0x00080008: ("ImageType", _texts),
    0x00080016: ("SOPClassUID", _text),
    0x00080018: ("SOPInstanceUID", _text),
    0x00080022: ("AcquisitionDate", _text),
    0x0008002A: ("AcquisitionDateTime", _text),
    0x00080032: ("AcquisitionTime", _text),
    0x00080033: ("ContentTime", _text),
    0x00080060: ("Modality", _text),
    0x00180081: ("EchoTime", _number),
    0x00180086: ("EchoNumbers", _text),
    0x00181060: ("TriggerTime", _number),
    0x00189087: ("DiffusionBValue", _double),
    0x0020000D: ("StudyInstanceUID", _text),
    0x0020000E: ("SeriesInstanceUID", _text),
    0x00200012: ("AcquisitionNumber", _integer),
    0x00200013: ("InstanceNumber", _integer),
    0x00200032: ("ImagePositionPatient", _numbers),
    0x00200037: ("ImageOrientationPatient", _numbers),
    0x00200052: ("FrameOfReferenceUID", _text),
    0x00200100: ("TemporalPositionIdentifier", _integer),
    0x00280002: ("SamplesPerPixel", _unsigned_short),
    0x00280004: ("PhotometricInterpretation", _text),
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
    0x00281054: ("RescaleType", _text),
    0x00541001: ("Units", _text),
    0x00541006: ("SUVType", _text),
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
    malformed
        Text of essential elements that do not parse, by keyword.
    """

    path: Path
    transfer_syntax_uid: str = ""
    values: dict[str, Value] = field(default_factory=dict)
    has_pixel_data: bool = False
    pixel_location: PixelLocation | None = None
    malformed: dict[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """Return the header of the DICOM file at ``path``.

    Raises
    ------
    Refused
        ``not_dicom`` if neither the walk nor pydicom finds data elements.
    """
    return walk(path) or read_with_pydicom(path)


def walk(path: Path) -> Header | None:
    """Return the header of an uncompressed little-endian file; None where only pydicom can read it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        wanted = _FIRST_READ
        while True:
            buffer = os.pread(descriptor, wanted, 0)
            try:
                return _walk_buffer(path, buffer, size)
            except struct.error:  # an element reaches past what was read
                if wanted >= size:
                    return None
                wanted *= 16
    finally:
        os.close(descriptor)


def _walk_buffer(path: Path, buffer: bytes, size: int) -> Header | None:
    if buffer[128:132] != b"DICM":
        return None
    syntax, position = _file_meta(buffer)
    if syntax not in WALKABLE:
        return None
    explicit = syntax == EXPLICIT_LITTLE_ENDIAN
    found: dict[int, bytes] = {}
    location: PixelLocation | None = None
    elements, long_vrs = ELEMENTS, _LONG_VRS
    explicit_header, implicit_header = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HHI").unpack_from
    long_length = struct.Struct("<I").unpack_from
    previous = 0
    while position < size:
        if explicit:
            group, element, vr, length = explicit_header(buffer, position)
            if vr in long_vrs:
                (length,) = long_length(buffer, position + 8)
                position += 12
            else:
                position += 8
        else:
            group, element, length = implicit_header(buffer, position)
            position += 8
        tag = group << 16 | element
        if tag <= previous:  # elements ascend (PS3.5 7.1): the file is not in the syntax that it names
            return None
        previous = tag
        if tag >= _PIXEL_DATA:
            if tag == _PIXEL_DATA:
                if length == _UNDEFINED_LENGTH:
                    return None
                location = PixelLocation(offset=position, length=min(length, size - position))
            break
        if length == _UNDEFINED_LENGTH:
            return None
        if tag in elements:
            found[tag] = buffer[position : position + length]
        position += length
        if position > size:
            return None
        if position > len(buffer):
            raise struct.error
    values, malformed = _converted(found)
    return Header(
        path=path,
        transfer_syntax_uid=syntax,
        values=values,
        has_pixel_data=location is not None,
        pixel_location=location,
        malformed=malformed,
    )


def _file_meta(buffer: bytes) -> tuple[str, int]:
    """Return the transfer syntax and the offset of the data set; group 0002 is explicit little endian."""
    position, syntax = 132, ""
    while buffer[position : position + 2] == b"\2\0":
        element, vr, length = struct.unpack_from("<2xH2sH", buffer, position)
        position += 8
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<I", buffer, position)
            position += 4
        if element == 0x0010:
            syntax = _text(buffer[position : position + length])
        position += length
    return syntax, position


def _converted(found: Mapping[int, bytes]) -> tuple[dict[str, Value], dict[str, str]]:
    values: dict[str, Value] = {}
    malformed: dict[str, str] = {}
    for tag, raw in found.items():
        keyword = ELEMENTS[tag][0]
        try:
            value = _value(tag, raw)
        except (ValueError, struct.error):
            if keyword in ESSENTIAL:
                malformed[keyword] = _text(raw)
            continue
        if value is not None:
            values[keyword] = value
    return values, malformed


@functools.lru_cache(maxsize=4096)  # the slices of a series share most of their values
def _value(tag: int, raw: bytes) -> Value | None:
    """Return the converted value; None where the element is empty."""
    if not raw.strip(b" \0") and ELEMENTS[tag][1] not in _BINARY:
        return None
    return ELEMENTS[tag][1](raw) if raw else None


def read_with_pydicom(path: Path) -> Header:
    """Return the header of any DICOM file, by pydicom.

    Raises
    ------
    Refused
        ``not_dicom`` if the file has neither file meta information nor a SOP Class UID.
    """
    data_set = read_data_set(path, defer_size=_DEFER_SIZE)
    raw = dict(data_set.items())  # unlike get_item, does not load what was deferred
    found: dict[int, bytes] = {}
    for tag, (_, convert) in ELEMENTS.items():
        item = raw.get(Tag(tag))
        if isinstance(item, RawDataElement) and item.value:
            found[tag] = item.value[::-1] if convert in _BINARY and not item.is_little_endian else item.value
    values, malformed = _converted(found)
    syntax = str(getattr(data_set.file_meta, "TransferSyntaxUID", ""))
    pixel_data = raw.get(Tag(_PIXEL_DATA))
    location = None
    if (
        isinstance(pixel_data, RawDataElement)
        and syntax in WALKABLE
        and pixel_data.length != _UNDEFINED_LENGTH
    ):
        held = min(pixel_data.length, path.stat().st_size - pixel_data.value_tell)
        location = PixelLocation(offset=pixel_data.value_tell, length=held)
    return Header(
        path=path,
        transfer_syntax_uid=syntax,
        values=values,
        has_pixel_data=pixel_data is not None,
        pixel_location=location,
        malformed=malformed,
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings to ourselves: the gate decides, not the parser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def parsing(path: Path, *, rule: str) -> Iterator[None]:
    """Turn what pydicom raises on damaged content of ``path`` into a refusal by ``rule``."""
    try:
        with quietly():
            yield
    except PYDICOM_FAILURES as error:
        message = f"The content of {path.name} cannot be read ({type(error).__name__})"
        raise Refused(message, rule=rule) from error


logging.getLogger("pydicom").setLevel(
    logging.CRITICAL
)  # its warnings quote values, which may name the patient


@quietly()
def read_data_set(path: Path, *, defer_size: int | None = None, stop_before_pixels: bool = False) -> Dataset:
    """Return the pydicom data set of ``path``.

    Raises
    ------
    Refused
        ``not_dicom`` if the file has neither file meta information nor a SOP Class UID.
    """
    try:
        data_set = pydicom.dcmread(
            path, force=True, defer_size=defer_size, stop_before_pixels=stop_before_pixels
        )
    except (*PYDICOM_FAILURES, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's word, not pydicom's
            raise
        message = f"{path.name} cannot be read as DICOM ({type(error).__name__})"
        raise Refused(message, rule="not_dicom") from error
    if (
        not len(data_set.file_meta) and "SOPClassUID" not in data_set
    ):  # forced reading finds elements in any text
        raise Refused(f"{path.name} is not a DICOM file", rule="not_dicom")
    return data_set
