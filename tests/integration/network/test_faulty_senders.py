"""Senders that die, fall silent or talk nonsense: no trace of them stays, and the others are served."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
import phantoms
import pytest
import wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from network_load import parts, uid
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import COMMAND, LAST, Wire

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, echo, store
from voxtrial.db.studies import Instance


@pytest.mark.parametrize("after", [0, 1, 60_000, 131_000])
def test_a_sender_that_dies_inside_an_object_leaves_nothing(
    listener: Listener, engine: Engine, body: bytes, after: int
) -> None:
    with Wire(listener.port).associate() as connection:
        connection.send(wire.pdv(1, COMMAND | LAST, wire.store_request(uid(1))))
        if after:
            connection.send(wire.pdv(1, 0, body[:after]))
        peers.wait_until(lambda: len(parts(listener)) == 1, 5, "the part")
    peers.wait_until(lambda: parts(listener) == [], 5, "the part's removal")
    with Session(engine) as session:
        assert session.scalars(select(Instance)).all() == []
    echo(Peer("127.0.0.1", listener.port, "VOXTRIAL"))


@pytest.mark.faults
@pytest.mark.peer("dcmtk")
def test_storescu_that_is_killed_inside_an_object_leaves_nothing(
    listener: Listener, engine: Engine, tmp_path: Path
) -> None:
    (path,) = phantoms.ct_series(tmp_path, np.zeros((1, 8192, 8192), np.int16))  # 128 MiB
    command = [peers.DCMTK / "storescu", "-aec", "VOXTRIAL", "127.0.0.1", str(listener.port), path]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as sender:
        peers.wait_until(lambda: len(parts(listener)) == 1, 20, "the part")
        sender.kill()
        assert sender.wait() == -signal.SIGKILL
    peers.wait_until(lambda: parts(listener) == [], 5, "the part's removal")
    with Session(engine) as session:
        assert session.scalars(select(Instance)).all() == []
    echo(Peer("127.0.0.1", listener.port, "VOXTRIAL"))


def test_an_abort_inside_an_object_leaves_nothing(listener: Listener, body: bytes) -> None:
    with Wire(listener.port).associate() as connection:
        connection.send(wire.pdv(1, COMMAND | LAST, wire.store_request(uid(1))), wire.pdv(1, 0, body[:5000]))
        connection.socket.sendall(wire.pdu(0x07, b"\0\0\0\0"))
        assert connection.ended()
    peers.wait_until(lambda: parts(listener) == [], 5, "the part's removal")


def test_a_silent_sender_is_aborted_and_its_part_removed(serve: Callable[..., Listener], body: bytes) -> None:
    listener = serve(idle_seconds=0.5)
    with Wire(listener.port).associate() as connection:
        connection.send(wire.pdv(1, COMMAND | LAST, wire.store_request(uid(1))), wire.pdv(1, 0, body[:5000]))
        assert connection.ended()
    peers.wait_until(lambda: parts(listener) == [], 5, "the part's removal")


@pytest.mark.parametrize(
    "message",
    [
        wire.pdv(7, COMMAND | LAST, wire.store_request("1.2.3")),  # a context that was not accepted
        wire.pdv(1, COMMAND | LAST, b"no command set"),
        wire.pdv(1, COMMAND | LAST, wire.store_request("1.2.3")) * 2,  # a command inside a dataset
        wire.pdv(1, COMMAND | LAST, wire.store_request("1.2.3")) + wire.pdv(3, LAST, b"x"),
        wire.pdv(1, COMMAND, b"\0" * 60_000) * 2,
    ],
)
def test_messages_out_of_place_abort_the_association_and_no_other(listener: Listener, message: bytes) -> None:
    with Wire(listener.port).associate() as other, Wire(listener.port).associate() as connection:
        for at in range(0, len(message), 60_006):
            connection.send(message[at : at + 60_006])
        assert connection.ended()
        assert other.echo() == 0
    peers.wait_until(lambda: parts(listener) == [], 5, "no part")


def test_a_class_that_is_not_of_its_context_is_answered_0122(listener: Listener, body: bytes) -> None:
    with Wire(listener.port).associate() as connection:
        assert connection.store(body, uid(0), sop_class_uid="1.2.840.10008.5.1.4.1.1.4") == 0x0122
        assert connection.echo() == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=400), st.booleans())
def test_garbage_on_the_wire_never_stops_the_listener(
    listener: Listener, garbage: bytes, associated: bool
) -> None:
    with Wire(listener.port, timeout=5) as connection:
        if associated:
            connection.associate()
        try:
            connection.socket.sendall(garbage)
            connection.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert connection.ended()
    with Wire(listener.port) as connection:
        assert connection.associate().echo() == 0


def test_a_torn_file_is_refused_with_the_reason(listener: Listener, tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "empty.dcm"
    path.write_bytes(
        part10.prefix(
            sop_class_uid=wire.CT_IMAGE_STORAGE,
            sop_instance_uid="1.2.3",
            transfer_syntax_uid=wire.EXPLICIT_LITTLE_ENDIAN,
        )
        + body[: len(body) // 2]
    )
    (outcome,) = store([path], Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    assert outcome.status == 0xC000
    assert "ends" in outcome.reason
