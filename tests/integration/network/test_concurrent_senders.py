"""Many senders at once: one row an object, one content a UID, and everybody is served."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import peers
import pytest
from network_load import numbered, uid
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import Closed, Wire

from voxtrial.daemon.network.pdata import Framer
from voxtrial.daemon.network.reactor import EventDrivenAssociation, EventDrivenDUL
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.service import Service
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.db.studies import Instance


def test_the_same_object_on_eight_associations_at_once_is_one_row(
    listener: Listener, engine: Engine, body: bytes
) -> None:
    statuses: list[int] = []

    def send() -> None:
        with Wire(listener.port).associate() as connection:
            statuses.append(connection.store(body, uid(0)))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 8
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == 1


def test_two_contents_under_one_uid_at_once_keep_one(listener: Listener, engine: Engine, body: bytes) -> None:
    statuses: list[int] = []
    other = body[:-2] + b"\x7f\x7f"

    def send(content: bytes) -> None:
        with Wire(listener.port).associate() as connection:
            statuses.append(connection.store(content, uid(0)))

    threads = [threading.Thread(target=send, args=(c,)) for c in (body, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [0] * 4 + [0xC111] * 4
    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    assert dataset_digest(listener.settings.site.data / row.path) == row.sha256


def test_a_hundred_associations_at_once_all_succeed(listener: Listener, engine: Engine, body: bytes) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(listener.port)).associate() for _ in range(100)]
        assert [w.store(numbered(body, n), uid(n)) for n, w in enumerate(wires, 1)] == [0] * 100
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == 100


def test_associations_that_ended_give_memory_and_sockets_back(
    serve: Callable[..., Listener], body: bytes
) -> None:
    """Each has a buffer of 256 KiB, and the cyclic collector counts objects, not bytes."""
    gc.collect()
    gc.disable()
    try:
        listener = serve(accept=[{"ae_title": "WIRE"}])
        listener.intake.ledger.engine.connect().close()  # the pool keeps it
        open_before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(20):
            with Wire(listener.port).associate() as stores:
                assert stores.store(numbered(body, number), uid(number)) == 0
                stores.release()
            with Wire(listener.port).associate() as vanishes:
                vanishes.echo()
            with Wire(listener.port) as stranger, suppress(Closed):
                stranger.associate(calling="STRANGER")
        peers.wait_until(lambda: not _kept(), 10, "end of every association")
        listener.stop()
        assert len(list(Path("/proc/self/fd").iterdir())) <= open_before
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "fails", [(EventDrivenDUL, "__init__"), (Association, "start")], ids=["made", "begun"]
)
def test_an_association_that_cannot_begin_leaves_no_share_behind(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, fails: tuple[type, str]
) -> None:
    def out_of_threads(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(*fails, out_of_threads)
        with Wire(listener.port) as wire, pytest.raises((Closed, OSError)):
            wire.associate()
    assert list(listener._share._counts) == [0]
    with Wire(listener.port).associate() as wire:
        assert wire.echo() == 0
        wire.release()


def test_an_association_that_is_over_can_be_aborted(listener: Listener, body: bytes) -> None:
    """As the end of the listener does, which may have seen it a moment before; events put ``abort`` anew."""
    with Wire(listener.port).associate() as wire:
        assert wire.store(numbered(body, 1), uid(1)) == 0
        (association,) = listener._served
        abort = association.abort
    association.join(10)
    assert not association.is_released  # else pynetdicom itself would do nothing
    abort()
    association.abort()


def _kept() -> list[object]:
    """Return what an association that is over leaves behind.

    ``isinstance`` would ask proxies of other libraries for the class that they pretend to be.
    """
    kinds = (EventDrivenAssociation, DULServiceProvider, Framer, Service)
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
