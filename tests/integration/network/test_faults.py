"""Nothing that was acknowledged is lost, nothing that was not is kept, and the daemon goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
import peers
import phantoms
import pytest
import wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import COMMAND, LAST, Wire

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, echo, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.db.studies import Instance

ROOT_UID = "1.2.826.0.1.3680043.8.498.7"


def body_of(path: Path) -> bytes:
    handle, _ = part10.open_dataset(path)
    with handle:
        return handle.read()


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A CT dataset of 128 KiB whose SOP Instance UID can be replaced."""
    folder = tmp_path_factory.mktemp("ct")
    ds = phantoms.ct_slice(
        np.random.default_rng(3).integers(-1000, 1000, (256, 256)).astype(np.int16),
        (0, 0, 0),
        study_instance_uid="1.2.3.4",
        series_instance_uid="1.2.3.4.5",
        sop_instance_uid=uid(0),
    )
    ds.save_as(folder / "one.dcm", enforce_file_format=True)
    return body_of(folder / "one.dcm")


def uid(number: int) -> str:
    return f"{ROOT_UID}.{number + 100_000_000}"


def numbered(body: bytes, number: int) -> bytes:
    """Return the dataset under another SOP Instance UID."""
    return body.replace(uid(0).encode(), uid(number).encode())


# --- kill -9 ----------------------------------------------------------------------------------------------


@contextmanager
def listen(configuration: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``voxtrial listen``; yields the process, leader of its own group, and the port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "voxtrial.daemon", "listen", "--config", str(configuration)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield process, json.loads(line)["port"]
    finally:
        _kill_group(process)
        process.stdout.close()


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Sender(threading.Thread):
    """Stores numbered instances until it is cut off; remembers what was acknowledged."""

    def __init__(self, port: int, body: bytes, numbers: Iterator[int], acknowledged: set[str]) -> None:
        super().__init__(daemon=True)
        self.port, self.body, self.numbers, self.acknowledged = port, body, numbers, acknowledged

    def run(self) -> None:
        try:
            with Wire(self.port).associate() as connection:
                for number in self.numbers:
                    if connection.store(numbered(self.body, number), uid(number)) == 0:
                        self.acknowledged.add(uid(number))
        except OSError:
            return  # killed, as the test wants


def _kill_during_load(folder: Path, body: bytes, *, kills: int, instances: int, senders: int = 3) -> None:
    data = folder / "data"
    configuration = folder / "voxtrial.toml"
    configuration.write_text(
        f'[site]\ndata = "{data}"\n[listener]\nport = 0\nworkers = 2\nwatermark_mib = 0\n'
    )
    chance = random.Random(7)
    acknowledged: set[str] = set()
    lanes = [iter(range(1 + lane, 1_000_000, senders)) for lane in range(senders)]
    for kill in range(kills):
        wanted = instances * (kill + 1) // kills
        with listen(configuration) as (process, port):
            threads = [Sender(port, body, lane, acknowledged) for lane in lanes]
            for thread in threads:
                thread.start()
            while len(acknowledged) < wanted and any(t.is_alive() for t in threads):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
            _kill_group(process)
            for thread in threads:
                thread.join(30)
    with listen(configuration) as (process, port), Wire(port).associate() as connection:
        assert connection.echo() == 0

    assert len(acknowledged) >= instances
    database = sqlite3.connect(data / "voxtrial.db")
    rows = dict(database.execute("SELECT sop_instance_uid, path FROM instances"))
    digests = dict(database.execute("SELECT sop_instance_uid, sha256 FROM instances"))
    database.close()
    assert acknowledged <= rows.keys(), "acknowledged without a row"
    files = {path.stem for path in (data / "spool").rglob("*.dcm")}
    assert files == rows.keys(), "files and rows differ"
    for name, path in rows.items():
        assert dataset_digest(data / path) == digests[name], "torn"
    assert list((data / "spool" / "incoming").iterdir()) == []


@pytest.mark.faults
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, body: bytes) -> None:
    _kill_during_load(tmp_path, body, kills=2, instances=80)


@pytest.mark.nightly
@pytest.mark.faults
def test_twenty_kills_during_two_thousand_instances(tmp_path: Path, body: bytes) -> None:
    _kill_during_load(tmp_path, body, kills=20, instances=2000, senders=6)


@pytest.mark.faults
def test_a_worker_that_dies_is_replaced(tmp_path: Path, body: bytes) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path}"\n[listener]\nport = 0\nworkers = 1\n')
    with listen(configuration) as (process, port):
        (worker,) = _children(process.pid)
        os.kill(worker, signal.SIGKILL)
        peers.wait_until(lambda: _children(process.pid) not in ([], [worker]), what="a new worker")
        with Wire(port).associate() as connection:
            assert connection.store(numbered(body, 1), uid(1)) == 0


def test_sigterm_lets_an_open_association_finish(tmp_path: Path, body: bytes) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path}"\n[listener]\nport = 0\nworkers = 2\n')
    with listen(configuration) as (process, port), Wire(port).associate() as connection:
        assert connection.store(numbered(body, 1), uid(1)) == 0
        process.terminate()
        time.sleep(0.5)
        assert connection.store(numbered(body, 2), uid(2)) == 0
        connection.release()
        assert process.wait(20) == 0


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


# --- the sender -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 60_000, 131_000])
def test_a_sender_that_dies_inside_an_object_leaves_nothing(
    listener: Listener, engine: Engine, body: bytes, after: int
) -> None:
    with Wire(listener.port).associate() as connection:
        connection.send(wire.pdv(1, COMMAND | LAST, wire.store_request(uid(1))))
        if after:
            connection.send(wire.pdv(1, 0, body[:after]))
        peers.wait_until(lambda: len(_parts(listener)) == 1, 5, "the part")
    peers.wait_until(lambda: _parts(listener) == [], 5, "the part's removal")
    with Session(engine) as session:
        assert session.scalars(select(Instance)).all() == []
    echo(Peer("127.0.0.1", listener.port, "VOXTRIAL"))


def test_an_abort_inside_an_object_leaves_nothing(listener: Listener, body: bytes) -> None:
    with Wire(listener.port).associate() as connection:
        connection.send(wire.pdv(1, COMMAND | LAST, wire.store_request(uid(1))), wire.pdv(1, 0, body[:5000]))
        connection.socket.sendall(wire.pdu(0x07, b"\0\0\0\0"))
        assert connection.ended()
    peers.wait_until(lambda: _parts(listener) == [], 5, "the part's removal")


def test_a_silent_sender_is_aborted_and_its_part_removed(serve: Callable[..., Listener], body: bytes) -> None:
    listener = serve(idle_seconds=0.5)
    with Wire(listener.port).associate() as connection:
        connection.send(wire.pdv(1, COMMAND | LAST, wire.store_request(uid(1))), wire.pdv(1, 0, body[:5000]))
        assert connection.ended()
    peers.wait_until(lambda: _parts(listener) == [], 5, "the part's removal")


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
    peers.wait_until(lambda: _parts(listener) == [], 5, "no part")


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


def _parts(listener: Listener) -> list[Path]:
    return list(listener.intake.spool.incoming.iterdir())


# --- the disk and the database ----------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a file system of a few MiB; skip where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "voxtrial-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.faults
def test_a_disk_that_fills_is_a700_until_there_is_room_again(
    tmp_path: Path, configure: Callable[..., object], engine: Engine, body: bytes
) -> None:
    from voxtrial.daemon.settings import Settings

    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4))
        site = Settings(
            site={"data": disk},  # type: ignore[arg-type]  # pydantic reads dicts
            listener={"port": 0, "watermark_mib": 0},  # type: ignore[arg-type]  # pydantic reads dicts
        )
        listener = stack.enter_context(Listener(site, engine))
        with Wire(listener.port).associate() as connection:
            statuses = [connection.store(numbered(body, n), uid(n)) for n in range(1, 61)]
            stored = [n for n, status in enumerate(statuses, 1) if status == 0]
            assert set(statuses) == {0x0000, 0xA700}
            for path in list((disk / "spool").rglob("*.dcm"))[:10]:
                path.unlink()  # somebody makes room
            assert connection.store(numbered(body, 100), uid(100)) == 0
            connection.release()
        with Session(engine) as session:
            rows = session.scalars(select(Instance)).all()
        assert {row.sop_instance_uid for row in rows} == {uid(n) for n in [*stored, 100]}
        for row in rows:
            if (disk / row.path).exists():
                assert dataset_digest(disk / row.path) == row.sha256
        assert _parts(listener) == []


def test_a_write_that_comes_back_short_is_never_acknowledged(
    listener: Listener, engine: Engine, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills in the middle of a write returns short first, and fails at the next."""
    real_write, room = os.write, [90_000]

    def write(descriptor: int, data: bytes | memoryview) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix != ".part":
            return real_write(descriptor, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = min(room[0], len(data))
        room[0] -= taken
        return real_write(descriptor, memoryview(data)[:taken])

    monkeypatch.setattr(os, "write", write)
    with Wire(listener.port).associate() as connection:
        assert connection.store(body, uid(0)) == 0xA700
        room[0] = 10**9
        assert connection.store(body, uid(0)) == 0
    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    assert dataset_digest(listener.settings.site.data / row.path) == row.sha256


def _hold_database(path: Path, seconds: float) -> threading.Thread:
    """Lock the database from another connection; returns once it is locked."""
    locked = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        locked.set()
        time.sleep(seconds)
        connection.execute("ROLLBACK")
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    return thread


def _store_while_locked(listener: Listener, engine: Engine, body: bytes, seconds: float) -> None:
    holder = _hold_database(listener.settings.site.data / "voxtrial.db", seconds)
    begin = time.monotonic()
    with Wire(listener.port, timeout=60).associate() as connection:
        assert connection.store(body, uid(0)) == 0
    assert time.monotonic() - begin > seconds * 0.8
    holder.join()
    with Session(engine) as session:
        assert session.scalars(select(Instance)).one().sop_instance_uid == uid(0)


@pytest.mark.faults
def test_a_locked_database_delays_the_answer(listener: Listener, engine: Engine, body: bytes) -> None:
    _store_while_locked(listener, engine, body, 1.5)


@pytest.mark.nightly
@pytest.mark.faults
def test_a_database_locked_for_ten_seconds_delays_the_answer(
    listener: Listener, engine: Engine, body: bytes
) -> None:
    _store_while_locked(listener, engine, body, 10)


@pytest.mark.faults
def test_a_database_that_is_gone_is_a700_and_the_next_try_succeeds(
    listener: Listener, engine: Engine, body: bytes
) -> None:
    """The file keeps its name without a row; the sender's next try finds it and adds the row."""
    database = listener.settings.site.data / "voxtrial.db"
    with Wire(listener.port).associate() as connection:
        assert connection.store(numbered(body, 1), uid(1)) == 0
        listener.intake.ledger.close()
        engine.dispose()
        hidden = database.rename(database.with_suffix(".gone"))
        database.mkdir()
        assert connection.store(numbered(body, 2), uid(2)) == 0xA700
        database.rmdir()
        hidden.rename(database)
        assert connection.store(numbered(body, 2), uid(2)) == 0
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == 2


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
