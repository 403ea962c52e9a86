"""Wakes a thread that waits in ``poll``, also when something is put into a queue."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any


class Bell:
    """Wakes a thread that waits in ``poll``."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._fd

    def ring(self) -> None:
        """Wake the waiting thread; without effect once it is gone."""
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def silence(self) -> None:
        """Forget the rings so far."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1


class RingingQueue(queue.Queue[Any]):
    """A queue that says when something was put."""

    def __init__(self, ring: Callable[[], object]) -> None:
        super().__init__()
        self._ring = ring

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put and ring."""
        super().put(item, block, timeout)
        self._ring()
