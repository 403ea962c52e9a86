"""Worker processes share out the associations that arrive on their one port.

Whoever wakes up first accepts a connection. With a handful of senders one worker may so take them all, while
the core of another idles: a worker that serves more than another lets that one accept first.
"""

from __future__ import annotations

import mmap
import threading

COUNT_BYTES = 8


class Shares:
    """How many associations each of ``workers`` serves; make it before the workers are forked."""

    def __init__(self, workers: int) -> None:
        self._counts = mmap.mmap(-1, workers * COUNT_BYTES)

    def of(self, worker: int) -> Share:
        """Return the share of one worker, which has no association yet."""
        return Share(self._counts, worker)


class Share:
    """One worker's count, which it alone writes, beside those of the others."""

    def __init__(self, counts: mmap.mmap, worker: int) -> None:
        self._counts = memoryview(counts).cast("q")
        self._worker = worker
        self._lock = threading.Lock()
        self._counts[worker] = 0

    def begin(self) -> None:
        """Count an association that begins."""
        with self._lock:
            self._counts[self._worker] += 1

    def end(self) -> None:
        """Count an association that is over."""
        with self._lock:
            self._counts[self._worker] -= 1

    @property
    def is_ahead(self) -> bool:
        """Whether another worker serves fewer."""
        return self._counts[self._worker] > min(self._counts)
