"""Audit what is turned away: the first time at once, what repeats itself once a minute with its count.

A node that is set up wrongly asks again every few seconds, a port scanner a thousand times a second: with a
row for each, anybody could fill the disk and bury the audit trail. What the database does not take is counted
until it does. A kill loses the counts of one minute.
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


Write = Callable[[Refusal, int], bool]
"""Writes the row of a refusal that happened so many times; returns whether the database took it."""


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
            kind = self._kind_of(refusal)
            if kind in self._repeated:
                self._repeated[kind] += 1
                return
            self._count(kind, 0)
        self._write_all({kind: 1})

    def flush(self) -> None:
        """End the window: write what was counted."""
        with self._lock:
            repeated, self._repeated = self._repeated, {}
            if self._window is not None:
                self._window.cancel()
        self._write_all({refusal: times for refusal, times in repeated.items() if times})

    def _write_all(self, counts: dict[Refusal, int]) -> None:
        """Write a row for each; from the first that is not taken on, count them in the next window."""
        left = dict(counts)
        for refusal, times in counts.items():
            if not self._write(refusal, times):
                break
            del left[refusal]
        with self._lock:
            for refusal, times in left.items():
                self._count(refusal, times)

    def _kind_of(self, refusal: Refusal) -> Refusal:
        """Return what a refusal is counted as: itself, or one of too many."""
        if refusal in self._repeated or len(self._repeated) < MOST_KINDS:
            return refusal
        reason = f"more than {MOST_KINDS} different refusals within {self._window_seconds:g} s"
        return Refusal("association refused", reason, Origin())

    def _count(self, refusal: Refusal, times: int) -> None:
        if not self._repeated:
            self._begin_window()
        kind = self._kind_of(refusal)
        self._repeated[kind] = self._repeated.get(kind, 0) + times

    def _begin_window(self) -> None:
        self._window = threading.Timer(self._window_seconds, self.flush)
        self._window.daemon = True
        self._window.start()
