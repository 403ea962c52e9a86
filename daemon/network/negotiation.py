"""Association requests that are known already, and what they were answered with.

A sender repeats its request byte for byte. storescu proposes 128 presentation contexts each time; pynetdicom
decodes them, negotiates and encodes its answer in 12 ms, the time of ten images of 512 x 512.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pynetdicom import evt
from pynetdicom.acse import ACSE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

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


@dataclass(frozen=True)
class KnownAnswer:
    """What a request is answered with, for as long as a listener runs."""

    accepted: Mapping[int, PresentationContext]
    rejected: Sequence[PresentationContext]
    pdu: bytes
    """The whole A-ASSOCIATE-AC."""


class Answers:
    """The answers of one listener, by the bytes of the request.

    The answer follows from the request and the configuration alone, so that it may be given again. Whether
    the association is accepted at all is asked each time, before.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, KnownAnswer] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, request: bytes) -> KnownAnswer | None:
        """Return what ``request`` was answered with."""
        return self._known.get(request)

    def remember(self, request: bytes, answer: KnownAnswer) -> None:
        """Keep an answer that accepts something; others are audited, and made, each time."""
        if not answer.accepted or not request:
            return
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[request] = answer


class RememberingACSE(ACSE):
    """Negotiates a known request by looking up its answer.

    Parameters
    ----------
    association
        An ``EventDrivenAssociation``, whose ``known_answer`` is looked up when its request has come.
    """

    def __init__(self, association: Any) -> None:
        super().__init__(association)
        self._association = association

    def _negotiate_as_acceptor(self) -> None:
        association, known = self._association, self._association.known_answer
        if known is None:
            super()._negotiate_as_acceptor()
            return
        request = association.requestor.primitive
        association.requestor.ae_title = request.calling_ae_title
        association._accepted_cx, association._rejected_cx = known.accepted, known.rejected
        primitive = A_ASSOCIATE()  # the upper layer sends the known bytes for it
        primitive.application_context_name = request.application_context_name
        primitive.calling_ae_title = request.calling_ae_title
        primitive.called_ae_title = request.called_ae_title
        primitive.result, primitive.result_source = 0x00, 0x01
        primitive.user_information = association.acceptor.user_information
        association.acceptor.primitive = primitive
        association.dul.send_pdu(primitive)
        evt.trigger(association, evt.EVT_ACCEPTED, {})
        association.is_established = True
        evt.trigger(association, evt.EVT_ESTABLISHED, {})
