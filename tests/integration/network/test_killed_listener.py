"""Kill -9 of the listener: no acknowledged instance is lost, torn or without its row, and no part stays."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import peers
import pytest
from network_load import numbered, uid
from wire import Closed, Wire

from voxtrial.daemon.network.spool import dataset_digest


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


def test_every_worker_writes_at_its_end_how_often_it_refused(tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(
        f'[site]\ndata = "{tmp_path}"\n[listener]\nport = 0\nworkers = 2\naccept = [{{ ae_title = "CT1" }}]\n'
    )
    with listen(configuration) as (process, port):
        for _ in range(30):
            with Wire(port) as stranger, pytest.raises(Closed):
                stranger.associate(calling="NOBODY")
        process.terminate()
        assert process.wait(20) == 0
    with sqlite3.connect(tmp_path / "voxtrial.db") as database:
        details = [json.loads(detail) for (detail,) in database.execute("SELECT detail FROM audit")]
    assert sum(detail["times"] for detail in details) == 30
    assert len(details) <= 4


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]
