"""Senders that repeat their association request: the same answer, and the same questions asked before it."""

from __future__ import annotations

from collections.abc import Callable

import peers
import pytest
from network_load import numbered, uid
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import EXPLICIT_LITTLE_ENDIAN, Closed, Wire, associate_request

from voxtrial.daemon.network.scp import Listener
from voxtrial.db.studies import Instance

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MAXIMUM_LENGTH_ITEM = b"\x51\x00\x00\x04"
"""PS3.8 D.1: item type and length, before the value."""
PRIVATE_CLASS = "1.2.826.0.1.3680043.8.498.99"


def acceptance(port: int, *contexts: tuple[str, str]) -> bytes:
    """Return the body of the answer to a request."""
    with Wire(port) as wire:
        wire.socket.sendall(associate_request(contexts))
        kind, body = wire.receive()
        assert kind == 0x02
        wire.release()
    return body


def test_a_repeated_request_is_accepted_in_the_same_bytes(listener: Listener) -> None:
    contexts = [(CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN), (PRIVATE_CLASS, EXPLICIT_LITTLE_ENDIAN)]
    first = acceptance(listener.port, *contexts)
    assert [acceptance(listener.port, *contexts) for _ in range(3)] == [first] * 3
    assert acceptance(listener.port, contexts[0]) != first


def test_every_association_of_one_request_stores(listener: Listener, engine: Engine, body: bytes) -> None:
    for number in range(4):
        with Wire(listener.port).associate() as wire:
            assert wire.store(numbered(body, number), uid(number)) == 0
            assert wire.echo() == 0
            wire.release()
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == 4


def test_a_known_request_is_rejected_while_too_many_are_served(serve: Callable[..., Listener]) -> None:
    listener = serve(maximum_associations=1)
    with Wire(listener.port).associate() as first:
        with Wire(listener.port) as second, pytest.raises(Closed, match="PDU 03"):
            second.associate()
        first.release()
    peers.wait_until(lambda: not listener._served, what="end of the association")
    with Wire(listener.port).associate() as third:
        assert third.echo() == 0


def test_two_listeners_answer_a_request_each_by_its_own_settings(
    serve: Callable[..., Listener],
) -> None:
    contexts = (CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN)
    small, large = serve(maximum_pdu=16_384), serve(maximum_pdu=65_536)
    for _ in range(2):
        assert MAXIMUM_LENGTH_ITEM + (16_384).to_bytes(4, "big") in acceptance(small.port, contexts)
        assert MAXIMUM_LENGTH_ITEM + (65_536).to_bytes(4, "big") in acceptance(large.port, contexts)
