"""A database that is locked, gone or restarted: answers wait or are A700, and no row of a success is lost."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import daemons
import peers
import postgresql
import pytest
from network_load import numbered, parts, uid
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import Wire

from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect
from voxtrial.db.migrate import upgrade
from voxtrial.db.studies import Instance


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


# --- PostgreSQL -------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    """A server of this test alone, since it is stopped."""
    with postgresql.running("fsync=off") as server:
        yield server


@pytest.fixture
def on_postgresql(
    server: postgresql.Server, configure: Callable[..., Settings]
) -> Iterator[tuple[Listener, Engine]]:
    """A listener whose rows are in the server, and an engine to look at them."""
    url = server.create_database()
    engine = connect(url)
    upgrade(engine)
    with Listener(configure(database={"url": url})) as listener:
        yield listener, engine
    engine.dispose()


def rows(engine: Engine) -> set[str]:
    with Session(engine) as session:
        return set(session.scalars(select(Instance.sop_instance_uid)))


def _stop_while_receiving(
    server: postgresql.Server,
    listener: Listener,
    engine: Engine,
    body: bytes,
    *,
    how: signal.Signals,
    seconds: float,
) -> None:
    """Store on two associations throughout; every answer is success or A700, and success has its row."""
    acknowledged: set[str] = set()
    refused: set[str] = set()
    over = threading.Event()

    def send(lane: int) -> None:
        with Wire(listener.port, timeout=60).associate() as connection:
            for number in range(lane, 1_000_000, 2):
                status = connection.store(numbered(body, number), uid(number))
                assert status in (0x0000, 0xA700)
                (acknowledged if status == 0 else refused).add(uid(number))
                if over.wait(0.02):
                    break
            for again in [n for n in refused if int(n.rpartition(".")[2]) % 2 == lane % 2]:
                number = int(again.rpartition(".")[2]) - 100_000_000
                assert connection.store(numbered(body, number), again) == 0x0000
                acknowledged.add(again)

    threads = [threading.Thread(target=send, args=(lane,)) for lane in (1, 2)]
    for thread in threads:
        thread.start()
    peers.wait_until(lambda: len(acknowledged) > 10, 30, "the first instances")
    server.stop(how)
    peers.wait_until(lambda: len(refused) > 0, 30, "a refusal")
    time.sleep(seconds)
    server.start()
    before = len(acknowledged)
    peers.wait_until(lambda: len(acknowledged) > before + 10, 60, "instances after the restart")
    over.set()
    for thread in threads:
        thread.join(60)
    assert rows(engine) == acknowledged, "acknowledged or refused, and at last all of them"
    assert refused <= acknowledged
    files = {path.stem for path in (listener.settings.site.data / "spool").rglob("*.dcm")}
    assert files == acknowledged
    assert parts(listener) == []


@pytest.mark.faults
@pytest.mark.peer("postgresql")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_postgresql_that_is_restarted_or_crashes_while_receiving_loses_nothing(
    server: postgresql.Server,
    on_postgresql: tuple[Listener, Engine],
    body: bytes,
    how: signal.Signals,
) -> None:
    _stop_while_receiving(server, *on_postgresql, body, how=how, seconds=0.5)


@pytest.mark.nightly
@pytest.mark.faults
@pytest.mark.peer("postgresql")
def test_postgresql_that_is_gone_for_ten_seconds_loses_nothing(
    server: postgresql.Server, on_postgresql: tuple[Listener, Engine], body: bytes
) -> None:
    _stop_while_receiving(server, *on_postgresql, body, how=signal.SIGINT, seconds=10)


@pytest.mark.peer("postgresql")
def test_a_start_without_database_says_so_in_one_sentence(server: postgresql.Server, tmp_path: Path) -> None:
    url = server.create_database()
    server.stop()
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path}"\n[database]\nurl = "{url}"\n')
    done = daemons.voxtrial("listen", "--config", str(configuration))
    server.start()
    assert done.returncode == 1
    assert "database does not answer" in done.stderr
    assert "Traceback" not in done.stderr
