"""Walk a dataset while it arrives: keep the attributes that rows need, and know whether it is whole.

The walk looks at element headers only and skips values, so a CT image costs tens of microseconds. A dataset
is whole when its last byte ends an element and every sequence is closed (PS3.5 7.1, 7.5): one that announces
more than it holds is never acknowledged.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

MAXIMUM_DEPTH = 64
MAXIMUM_VALUE = 16_384
"""Bytes of an attribute that is kept; a longer one is no UID, name or description."""
INFLATE_STEP = 1 << 20
JOINED = MAXIMUM_VALUE + 12
"""Bytes that are joined to an unfinished element: its header and value, but never the pixels behind it."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
CHARACTER_SET = 0x00080005
KEPT = {
    CHARACTER_SET: "specific_character_set",
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x00080020: "study_date",
    0x00080050: "accession_number",
    0x00080060: "modality",
    0x00081030: "study_description",
    0x00100020: "patient_id",
    0x00100021: "issuer_of_patient_id",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
}
LAST_KEPT = max(KEPT)
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
SHORT_VRS = frozenset(
    {
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT"),
        *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    }
)
_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_UIDS = ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid")
_LIMITS = {"modality": 16, "study_date": 8, "study_description": 255}
_LIMIT = 64


class Malformed(ValueError):
    """The bytes are no dataset in the transfer syntax that was negotiated."""


class _Headers:
    """Element headers in one byte order."""

    def __init__(self, order: str) -> None:
        self.explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self.implicit = struct.Struct(f"{order}HHL").unpack_from
        self.length = struct.Struct(f"{order}L").unpack_from


_LITTLE_ENDIAN, _BIG_ENDIAN = _Headers("<"), _Headers(">")


class Identity(NamedTuple):
    """What a row needs to know of an object; texts are decoded, cut to their column, and free of NUL."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""


def is_uid(value: str) -> bool:
    """Return whether ``value`` is a UID: digits and dots, 64 characters at most (PS3.5 9.1).

    Nothing else may name a file: no slash, no leading dot, no ``..``.
    """
    return len(value) <= 64 and _UID.fullmatch(value) is not None


class Scanner:
    """Follow one dataset through pieces of any size.

    Parameters
    ----------
    transfer_syntax_uid
        As negotiated; deflated datasets are inflated in bounded steps.
    """

    def __init__(self, transfer_syntax_uid: str) -> None:
        self._headers = _BIG_ENDIAN if transfer_syntax_uid == ExplicitVRBigEndian else _LITTLE_ENDIAN
        self._implicit = [transfer_syntax_uid == ImplicitVRLittleEndian]  # one entry for each open level
        deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if deflated else None
        self._skip = 0
        self._carry = b""
        self._values: dict[int, bytes] = {}

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next piece.

        Raises
        ------
        Malformed
            An element header that cannot be one.
        """
        if self._inflater is None:
            self._walk(data)
            return
        try:
            plain = self._inflater.decompress(data, INFLATE_STEP)
            while plain:
                self._walk(plain)
                plain = self._inflater.decompress(self._inflater.unconsumed_tail, INFLATE_STEP)
        except zlib.error as error:
            raise Malformed(f"the deflated dataset cannot be inflated: {error}") from error

    def seen(self) -> dict[str, str]:
        """Return the texts of the kept attributes so far, by name; empty where there is none yet."""
        return {name: self._text(tag) for tag, name in KEPT.items() if tag != CHARACTER_SET}

    def identity(self) -> Identity:
        """Check that the dataset is whole and return who it is.

        Raises
        ------
        Malformed
            The dataset ends inside an element or sequence, or a UID is missing or no UID.
        """
        if self._skip or self._carry or len(self._implicit) > 1:
            raise Malformed(f"the dataset ends {self._skip or 'some'} bytes before its last element does")
        if self._inflater is not None and not self._inflater.eof:
            raise Malformed("the deflated dataset ends early")
        values = self.seen()
        for name in _UIDS:
            if not is_uid(values[name]):
                raise Malformed(f"{name} {values[name][:64]!r} is not a UID")
        return Identity(**{name: value[: _LIMITS.get(name, _LIMIT)] for name, value in values.items()})

    def _text(self, tag: int) -> str:
        raw = self._values.get(tag, b"")
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            names = [n.strip() for n in self._text(CHARACTER_SET).split("\\")] if tag != CHARACTER_SET else []
            try:
                text = decode_bytes(raw, convert_encodings(names or ""), set())
            except (LookupError, ValueError):
                text = raw.decode("latin-1")
        return text.strip(" \0").replace("\0", "")

    def _walk(self, data: bytes | memoryview) -> None:
        if self._skip >= len(data):  # inside a long value
            self._skip -= len(data)
            return
        rest = memoryview(data)[self._skip :]
        self._skip = 0
        while self._carry and rest:
            joined = self._carry + rest[:JOINED]
            rest, self._carry = rest[JOINED:], b""
            self._step(joined)
        if self._skip >= len(rest):
            self._skip -= len(rest)
            return
        rest, self._skip = rest[self._skip :], 0
        self._step(rest)

    def _step(self, data: bytes | memoryview) -> None:
        """Walk from the start of an element; leave what to skip or what to carry."""
        explicit_at, implicit_at, length_at = (
            self._headers.explicit,
            self._headers.implicit,
            self._headers.length,
        )
        implicit = self._implicit[-1]
        at, end = 0, len(data)
        while end - at >= 8:
            value = at + 8
            vr = b""
            if implicit:
                group, element, length = implicit_at(data, at)
            else:
                group, element, vr, length = explicit_at(data, at)
                if vr not in SHORT_VRS and group != 0xFFFE:
                    if vr not in LONG_VRS:
                        raise Malformed(f"element {group:04X}{element:04X} has no value representation")
                    value = at + 12
                    if end < value:
                        break
                    length = length_at(data, at + 8)[0]
            tag = group << 16 | element
            if group == 0xFFFE:  # items have no value representation
                length = length_at(data, at + 4)[0]
                if tag in (ITEM_END, SEQUENCE_END):
                    self._close(tag, length)
                    implicit, at = self._implicit[-1], value
                    continue
                if tag != ITEM or len(self._implicit) == 1:
                    raise Malformed(f"tag {tag:08X} outside a sequence")
            if length == UNDEFINED:
                # PS3.5 6.2.2: the content of UN of undefined length is implicit VR
                implicit = implicit or vr == b"UN"
                self._open(implicit=implicit)
                at = value
                continue
            if tag <= LAST_KEPT and tag in KEPT and len(self._implicit) == 1:
                if length > MAXIMUM_VALUE:
                    raise Malformed(f"element {tag:08X} announces {length} bytes")
                if end - value < length:
                    break
                self._values[tag] = bytes(data[value : value + length])
            at = value + length
        if at > end:
            self._skip = at - end
        else:
            self._carry = bytes(data[at:end])

    def _open(self, *, implicit: bool) -> None:
        if len(self._implicit) > MAXIMUM_DEPTH:
            raise Malformed(f"sequences are nested deeper than {MAXIMUM_DEPTH} levels")
        self._implicit.append(implicit)

    def _close(self, tag: int, length: int) -> None:
        if length or len(self._implicit) == 1:
            raise Malformed(f"delimiter {tag:08X} closes nothing")
        self._implicit.pop()
