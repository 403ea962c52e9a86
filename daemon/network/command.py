"""DIMSE command sets by hand: read requests, write the responses to C-STORE and C-ECHO (PS3.7 6.3, 9.3).

Command sets are always Implicit VR Little Endian. A response leaves as one P-DATA-TF in one piece: two small
writes would meet the sender's delayed acknowledgement.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from voxtrial.daemon.network.pdata import HEADER, P_DATA_TF, VALUE_HEADER

COMMAND, LAST = 0x01, 0x02
"""Bits of a message control header (PS3.8 E.2)."""

C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

AFFECTED_SOP_CLASS, FIELD, MESSAGE_ID, RESPONDED_TO = 0x0002, 0x0100, 0x0110, 0x0120
DATA_SET_TYPE, STATUS, COMMENT, AFFECTED_SOP_INSTANCE = 0x0800, 0x0900, 0x0902, 0x1000

COMMENT_LENGTH = 64
_ELEMENT = struct.Struct("<HHL")
_U16 = struct.Struct("<H")


class BadCommand(ValueError):
    """The bytes are no command set."""


class Command(NamedTuple):
    """What we serve ourselves needs to know of a request."""

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def parse(data: bytes | bytearray) -> Command:
    """Read a command set.

    Raises
    ------
    BadCommand
        An element does not fit, is of another group, or the command field or message ID is missing.
    """
    values: dict[int, bytes | bytearray] = {}
    at = 0
    while at < len(data):
        if at + _ELEMENT.size > len(data):
            raise BadCommand("the command set ends inside an element")
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group != 0 or at + length > len(data):
            raise BadCommand(f"element ({group:04X},{element:04X}) of {length} bytes")
        values[element] = data[at : at + length]
        at += length
    return Command(
        field=_number(values, FIELD),
        message_id=_number(values, MESSAGE_ID if MESSAGE_ID in values else RESPONDED_TO),
        sop_class_uid=_text(values, AFFECTED_SOP_CLASS),
        sop_instance_uid=_text(values, AFFECTED_SOP_INSTANCE),
        has_data_set=_number(values, DATA_SET_TYPE) != NO_DATA_SET,
    )


def response(context_id: int, request: Command, status: int, comment: str = "") -> bytes:
    """Return the P-DATA-TF that answers ``request``."""
    body = b"".join(
        (
            _element(AFFECTED_SOP_CLASS, _padded(request.sop_class_uid, b"\0")),
            _element(FIELD, _U16.pack(request.field | RESPONSE)),
            _element(RESPONDED_TO, _U16.pack(request.message_id)),
            _element(DATA_SET_TYPE, _U16.pack(NO_DATA_SET)),
            _element(STATUS, _U16.pack(status)),
            _element(COMMENT, _padded(comment[:COMMENT_LENGTH], b" ")) if comment else b"",
            _element(AFFECTED_SOP_INSTANCE, _padded(request.sop_instance_uid, b"\0"))
            if request.sop_instance_uid
            else b"",
        )
    )
    command = _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body
    value = VALUE_HEADER.pack(len(command) + 2, context_id, COMMAND | LAST) + command
    return HEADER.pack(P_DATA_TF, 0, len(value)) + value


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value


def _padded(text: str, pad: bytes) -> bytes:
    raw = text.encode("ascii", "replace")
    return raw + pad if len(raw) % 2 else raw


def _number(values: dict[int, bytes | bytearray], element: int) -> int:
    raw = values.get(element, b"")
    if len(raw) != _U16.size:
        raise BadCommand(f"element (0000,{element:04X}) is missing or no number")
    return int(_U16.unpack(raw)[0])


def _text(values: dict[int, bytes | bytearray], element: int) -> str:
    return bytes(values.get(element, b"")).decode("ascii", "replace").strip("\0 ")
