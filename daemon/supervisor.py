"""``voxtrial serve``: one process a role, started again when it dies, stopped together.

A role that crashes takes nothing else down: what it was doing is in SQL and on disk. When the supervisor
itself is killed, the kernel stops its children (PR_SET_PDEATHSIG), so that no half daemon stays behind.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A role that ran this long starts again without a pause."""
DRAIN_SECONDS = 90.0


@dataclass
class Role:
    """One child process and how often it had to be started."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    due: float = field(default=0.0)

    def start(self) -> None:
        """Start the process; it is stopped when this process dies."""
        self.process = subprocess.Popen(self.command, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no threads here
        self.started = time.monotonic()
        log.info("role started", extra={"role": self.name, "pid": self.process.pid})

    def tend(self, now: float) -> None:
        """Start the process when it is due, and make it due when it has died."""
        if self.process is None:
            if now >= self.due:
                self.start()
            return
        status = self.process.poll()
        if status is None:
            return
        log.error("role died", extra={"role": self.name, "status": status})
        self.pause = (
            FIRST_PAUSE_SECONDS
            if now - self.started > STEADY_SECONDS
            else min(self.pause * 2, LONGEST_PAUSE_SECONDS)
        )
        self.process, self.due = None, now + self.pause


def serve(roles: Sequence[str], configuration: Path | None) -> None:
    """Run ``roles`` until SIGTERM or SIGINT, then let them drain.

    Parameters
    ----------
    roles
        Names of roles of the command line: ``listen``, ``work``, ``tend``, ``web``.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    arguments = [] if configuration is None else ["--config", str(configuration)]
    children = [Role(name, [sys.executable, "-m", "voxtrial.daemon", name, *arguments]) for name in roles]
    while not stop.wait(0.2):
        for child in children:
            child.tend(time.monotonic())
    _stop(children)


def _stop(children: Sequence[Role]) -> None:
    running = {c.name: c.process for c in children if c.process is not None and c.process.poll() is None}
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + DRAIN_SECONDS
    for name, process in running.items():
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            log.warning("role did not drain and is killed", extra={"role": name})
            process.kill()


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
