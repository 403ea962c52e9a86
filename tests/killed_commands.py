"""Commands that are killed while they store, and what they leave."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from voxtrial.daemon.network.spool import dataset_digest

PATIENCE_SECONDS = 60.0


def kill_while_it_stores(arguments: Sequence[str], data: Path, *, at: Sequence[int]) -> int:
    """Run ``voxtrial ARGUMENTS`` and kill -9 it when the site has so many instances; return the kills."""
    kills = 0
    for wanted in at:
        process = subprocess.Popen(
            [sys.executable, "-m", "voxtrial.daemon", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _instances(data) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        kills += process.wait() == -9
    return kills


def stored_without_a_trace_of_the_kills(data: Path) -> int:
    """Return how many instances are stored: each file whole and with its row, and nothing else."""
    with closing(sqlite3.connect(data / "voxtrial.db")) as database:
        rows = database.execute("SELECT path, sha256 FROM instances").fetchall()
        quarantined = database.execute("SELECT count(*) FROM quarantined").fetchone()[0]
    files = {path.relative_to(data).as_posix() for path in (data / "spool").rglob("*.dcm")}
    assert files == {path for path, _ in rows}
    assert all(dataset_digest(data / path) == sha256 for path, sha256 in rows)
    assert list((data / "spool" / "incoming").iterdir()) == []
    assert quarantined == 0
    return len(rows)


def _instances(data: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{data / 'voxtrial.db'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM instances").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # not made yet, or being made
