"""Walk the elements of a little-endian file in place.

The few elements that are asked for are cut out, sequences are stepped over, and the pixel data is located,
not read. Files that the walk cannot be sure of are left to pydicom.

References
----------
PS3.5 section 7.1 (data elements), 7.5 (sequences and undefined lengths), 6.2.2 (unknown value
representation); PS3.10 section 7.1 (file meta information).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from voxtrial.daemon.dicom.header import (
    COMPRESSED,
    ELEMENTS,
    IMPLICIT_LITTLE_ENDIAN,
    NATIVE,
    PIXEL_DATA,
    UNDEFINED_LENGTH,
    Header,
    PixelLocation,
    converted,
    text,
)

_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_READ = 16 * 1024

_explicit_header = struct.Struct("<HH2sH").unpack_from
_implicit_header = struct.Struct("<HHI").unpack_from
_long_length = struct.Struct("<I").unpack_from


class _NotWalkableError(Exception):
    """The file is not in the syntax that it names."""


def walk(path: Path) -> Header | None:
    """Return the header of a little-endian file that is not deflated; None where only pydicom can read it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        wanted = _FIRST_READ
        while True:
            buffer = os.pread(descriptor, wanted, 0)
            try:
                return _walk_buffer(path, buffer, size)
            except (_NotWalkableError, RecursionError):
                return None
            except struct.error:  # an element reaches past what was read
                if wanted >= size:
                    return None
                wanted *= 16
    finally:
        os.close(descriptor)


def fragments_are_whole(path: Path, offset: int) -> bool:
    """Whether the file holds every byte of the fragments of compressed pixels that begin at ``offset``."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        while offset + 8 <= size:
            group, element, length = _implicit_header(os.pread(descriptor, 8, offset), 0)
            if group << 16 | element != _ITEM:
                return True
            offset += 8 + length
        return offset == size
    finally:
        os.close(descriptor)


def _walk_buffer(path: Path, buffer: bytes, size: int) -> Header | None:
    if buffer[128:132] != b"DICM":
        return None
    syntax, position = _file_meta(buffer)
    compressed = syntax.startswith(COMPRESSED)
    if syntax not in NATIVE and not compressed:
        return None
    explicit = syntax != IMPLICIT_LITTLE_ENDIAN
    found: dict[int, bytes] = {}
    location: PixelLocation | None = None
    encapsulated_offset: int | None = None
    elements, long_vrs = ELEMENTS, _LONG_VRS
    previous, vr = 0, b"UN"
    while position < size:
        if explicit:
            group, element, vr, length = _explicit_header(buffer, position)
            if vr in long_vrs:
                (length,) = _long_length(buffer, position + 8)
                position += 12
            else:
                position += 8
        else:
            group, element, length = _implicit_header(buffer, position)
            position += 8
        tag = group << 16 | element
        if tag <= previous:  # elements ascend
            return None
        previous = tag
        if tag >= PIXEL_DATA:
            if tag == PIXEL_DATA:
                if (length == UNDEFINED_LENGTH) is not compressed:
                    return None
                if compressed:
                    encapsulated_offset = position
                else:
                    location = PixelLocation(offset=position, length=min(length, size - position))
            break
        if length == UNDEFINED_LENGTH:
            position = _after_sequence(buffer, position, explicit=explicit and vr != b"UN")
            continue
        if tag in elements:
            found[tag] = buffer[position : position + length]
        position += length
        if position > size:
            return None
        if position > len(buffer):
            raise struct.error
    values, malformed = converted(found)
    return Header(
        path=path,
        transfer_syntax_uid=syntax,
        values=values,
        has_pixel_data=location is not None or encapsulated_offset is not None,
        pixel_location=location,
        encapsulated_offset=encapsulated_offset,
        malformed=malformed,
    )


def _after_sequence(buffer: bytes, position: int, *, explicit: bool) -> int:
    """Return the offset behind a sequence of undefined length whose first item begins at ``position``."""
    while True:
        group, element, length = _implicit_header(buffer, position)
        position += 8
        tag = group << 16 | element
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise _NotWalkableError
        if length == UNDEFINED_LENGTH:
            position = _after_item(buffer, position, explicit=explicit)
        else:
            position += length


def _after_item(buffer: bytes, position: int, *, explicit: bool) -> int:
    """Return the offset behind an item of undefined length whose first element begins at ``position``."""
    while True:
        group, element, length = _implicit_header(buffer, position)
        if group << 16 | element == _ITEM_END:
            return position + 8
        vr = b"UN"
        if explicit:
            group, element, vr, length = _explicit_header(buffer, position)
            if vr in _LONG_VRS:
                (length,) = _long_length(buffer, position + 8)
                position += 4
        position += 8
        if length == UNDEFINED_LENGTH:  # within UN the values are implicit, whatever the file is
            position = _after_sequence(buffer, position, explicit=explicit and vr != b"UN")
        else:
            position += length


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
            syntax = text(buffer[position : position + length])
        position += length
    return syntax, position
