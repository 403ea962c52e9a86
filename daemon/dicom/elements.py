"""Read DICOM files: headers by the walk where it can, the rest by pydicom, every failure as a refusal.

Deflated and big-endian files, those without file meta information and damaged ones go to pydicom; the values
are the same either way.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from voxtrial.daemon.dicom.header import (
    BINARY,
    COMPRESSED,
    ELEMENTS,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    NATIVE,
    PIXEL_DATA,
    UNDEFINED_LENGTH,
    Header,
    PixelLocation,
    converted,
)
from voxtrial.daemon.dicom.walk import walk
from voxtrial.daemon.errors import Refused

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

_DEFER_SIZE = 4096


def read_header(path: Path) -> Header:
    """Return the header of the DICOM file at ``path``.

    Raises
    ------
    Refused
        ``not_dicom`` if neither the walk nor pydicom finds data elements.
    """
    return walk(path) or read_with_pydicom(path)


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
            found[tag] = item.value[::-1] if convert in BINARY and not item.is_little_endian else item.value
    values, malformed = converted(found)
    syntax = str(data_set.file_meta.get("TransferSyntaxUID", "")) or _guessed_syntax(data_set)
    pixel_data = raw.get(Tag(PIXEL_DATA))
    location, encapsulated_offset = None, None
    if isinstance(pixel_data, RawDataElement):
        if syntax in NATIVE and pixel_data.length != UNDEFINED_LENGTH:
            held = min(pixel_data.length, path.stat().st_size - pixel_data.value_tell)
            location = PixelLocation(offset=pixel_data.value_tell, length=held)
        elif syntax.startswith(COMPRESSED):
            encapsulated_offset = pixel_data.value_tell
    return Header(
        path=path,
        transfer_syntax_uid=syntax,
        values=values,
        has_pixel_data=pixel_data is not None,
        pixel_location=location,
        encapsulated_offset=encapsulated_offset,
        malformed=malformed,
    )


def _guessed_syntax(data_set: Dataset) -> str:
    """Return the uncompressed syntax that a file without file meta information was found to be in."""
    implicit, little_endian = data_set.original_encoding
    if not little_endian:
        return ""
    return IMPLICIT_LITTLE_ENDIAN if implicit else EXPLICIT_LITTLE_ENDIAN


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
