"""Audit what is turned away: the first time at once, what repeats itself once a minute with its count.

A node that is set up wrongly asks again every few seconds, a port scanner a thousand times a second: with a
row for each, anybody could fill the disk and bury the audit trail. A kill loses the counts of one minute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from voxtrial.daemon.network.ledger import Origin

WINDOW_SECONDS = 60.0
MOST_KINDS = 1000
"""Different refusals that are told apart within a window; titles and addresses can be made up."""


@dataclass(frozen=True)
class Refusal:
    """What was turned away, whose it was, and why."""

    action: str
    reason: str
    origin: Origin


Write = Callable[[Refusal, int], None]
"""Writes the row of a refusal that happened so many times."""


class Refusals:
    """The refusals of one process; any thread may tell."""

    def __init__(self, write: Write, window_seconds: float = WINDOW_SECONDS) -> None:
        self._write = write
        self._window_seconds = window_seconds
        self._repeated: dict[Refusal, int] = {}
        """Of this window: how often each came after its row was written."""
        self._lock = threading.Lock()
        self._window: threading.Timer | None = None

    def tell(self, refusal: Refusal) -> None:
        """Write a row, or count when an equal one was written within the window."""
        with self._lock:
            if refusal not in self._repeated and len(self._repeated) >= MOST_KINDS:
                reason = f"more than {MOST_KINDS} different refusals within {self._window_seconds:g} s"
                refusal = Refusal("association refused", reason, Origin())
            if refusal in self._repeated:
                self._repeated[refusal] += 1
                return
            if not self._repeated:
                self._begin_window()
            self._repeated[refusal] = 0
        self._write(refusal, 1)

    def flush(self) -> None:
        """End the window: write what was counted."""
        with self._lock:
            repeated, self._repeated = self._repeated, {}
            if self._window is not None:
                self._window.cancel()
        for refusal, times in repeated.items():
            if times:
                self._write(refusal, times)

    def _begin_window(self) -> None:
        self._window = threading.Timer(self._window_seconds, self.flush)
        self._window.daemon = True
        self._window.start()
