"""Processes that write the same SQLite file take turns.

SQLite lets a writer that finds the file locked sleep for 1, 2, 5, 10 and more milliseconds: longer than a
commit takes, and whoever comes by in between goes first. The lock of a file next to the database wakes the
next one at once. A process that dies gives it back.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from sqlalchemy import Engine


class Turn:
    """The turn to write the database of ``engine``; a database server needs none."""

    def __init__(self, engine: Engine) -> None:
        name = engine.url.database
        on_file = engine.dialect.name == "sqlite" and name and name != ":memory:"
        self._path = Path(f"{name}-turn") if on_file else None
        self._fd = -1

    def __enter__(self) -> None:
        if self._path is None:
            return
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back; the next turn opens another."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
