"""The 128 byte preamble and file meta information (PS3.10 7.1) in front of a dataset kept as received."""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

IMPLEMENTATION_CLASS_UID = UID("2.25.262486931164327391487431853180474327415")
IMPLEMENTATION_VERSION = "VOXTRIAL_0"

PREAMBLE_BYTES = 132
MAGIC = b"DICM"
META_GROUP, TRANSFER_SYNTAX = b"\x02\x00", b"\x10\x00"
MAXIMUM_META = 1 << 20
"""Bytes of one element of the file meta group; real ones are shorter than a line."""

_VERSION_ELEMENT = struct.pack("<HH2sHL", 0x0002, 0x0001, b"OB", 0, 2) + b"\x00\x01"


def prefix(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = ""
) -> bytes:
    """Return preamble, magic word and group 0002 in Explicit VR Little Endian."""
    before, after = _around_instance(sop_class_uid, transfer_syntax_uid, source_ae_title)
    body = before + _element(0x0003, b"UI", sop_instance_uid) + after
    return b"\0" * 128 + MAGIC + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(body)) + body


@lru_cache
def _around_instance(
    sop_class_uid: str, transfer_syntax_uid: str, source_ae_title: str
) -> tuple[bytes, bytes]:
    """Return the elements before and after the SOP Instance UID: a whole study shares them."""
    before = _VERSION_ELEMENT + _element(0x0002, b"UI", sop_class_uid)
    after = (
        _element(0x0010, b"UI", transfer_syntax_uid)
        + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID)
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION)
        + (_element(0x0016, b"AE", source_ae_title) if source_ae_title else b"")
    )
    return before, after


def _element(element: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    if len(raw) % 2:
        raw += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(raw)) + raw


def open_dataset(path: Path) -> tuple[BinaryIO, str]:
    """Open a Part 10 file at the first byte of its dataset.

    Returns
    -------
    tuple
        The open file, and the transfer syntax UID of the dataset.

    Raises
    ------
    InvalidDicomError
        The file is no Part 10 file, or names no transfer syntax.
    """
    handle = path.open("rb")
    try:
        transfer_syntax_uid, beyond = read_meta(handle)
        handle.seek(-len(beyond), os.SEEK_CUR)
    except InvalidDicomError:
        handle.close()
        raise
    return handle, transfer_syntax_uid


def read_meta(stream: BinaryIO) -> tuple[str, bytes]:
    """Read preamble and file meta group from a stream that cannot go back.

    The group is walked element by element, since group lengths are wrong in the field.

    Returns
    -------
    tuple
        The transfer syntax UID, and the bytes of the dataset that were read already.

    Raises
    ------
    InvalidDicomError
        This is no Part 10 file, or it names no transfer syntax.
    """
    if stream.read(PREAMBLE_BYTES)[-4:] != MAGIC:
        raise InvalidDicomError("no DICOM file")
    transfer_syntax = b""
    while (header := stream.read(8))[:2] == META_GROUP:
        try:
            length = struct.unpack_from("<H", header, 6)[0]
            if header[4:6] in (b"OB", b"UN"):
                length = struct.unpack("<L", stream.read(4))[0]
        except struct.error as error:
            raise InvalidDicomError("a damaged file meta group") from error
        if length > MAXIMUM_META:
            raise InvalidDicomError("a damaged file meta group")
        value = stream.read(length)
        if header[2:4] == TRANSFER_SYNTAX:
            transfer_syntax = value
    if not transfer_syntax:
        raise InvalidDicomError("a DICOM file that names no transfer syntax")
    return transfer_syntax.decode("ascii", "replace").strip("\0 "), header
