"""Association requests that are known already.

A sender repeats its request byte for byte. storescu proposes 128 presentation contexts each time, and
pynetdicom decodes them in 6 ms, the time of three images of 512 x 512.
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

ASSOCIATE_REQUEST = 0x01
REQUEST_RECEIVED = "Evt6"
REMEMBERED = 64
LONGEST_REMEMBERED = 1 << 15
"""Bytes: a request is some 10 KiB; nobody fills the memory with longer ones."""


class KnownRequest(A_ASSOCIATE_RQ):
    """An A-ASSOCIATE-RQ that is decoded once for all associations that bring the same bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.decode(data)
        self._primitive = super().to_primitive()

    def to_primitive(self) -> A_ASSOCIATE:
        """Return a copy for one association: the state machine may write its result there."""
        return copy(self._primitive)


def is_remembered(data: bytes) -> bool:
    """Return whether the PDU is an association request of an ordinary length."""
    return data[0] == ASSOCIATE_REQUEST and len(data) <= LONGEST_REMEMBERED


known_request = lru_cache(maxsize=REMEMBERED)(KnownRequest)
