"""Many senders at once: one row an object, one content a UID, and everybody is served."""

from __future__ import annotations

import gc
import threading
from contextlib import ExitStack

from network_load import numbered, uid
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import Wire

from voxtrial.daemon.network.reactor import EventDrivenAssociation
from voxtrial.daemon.network.scp import COLLECT_EVERY, Listener
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


def test_many_associations_at_once_all_succeed(listener: Listener, engine: Engine, body: bytes) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(listener.port)).associate() for _ in range(60)]
        assert [w.store(numbered(body, n), uid(n)) for n, w in enumerate(wires, 1)] == [0] * 60
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == 60


def test_associations_that_ended_give_their_memory_back(listener: Listener) -> None:
    """Each is a cycle with a buffer; without our own collection hundreds would wait for the interpreter's."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for _ in range(100):
            with Wire(listener.port).associate() as connection:
                connection.release()
        kept = sum(isinstance(thing, EventDrivenAssociation) for thing in gc.get_objects())
    finally:
        gc.enable()
        gc.unfreeze()
    assert kept <= 2 * COLLECT_EVERY
