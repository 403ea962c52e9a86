"""Several listener processes on one port: the parent binds, sweeps and watches, the workers accept.

A Python process uses one core; workers that share the listening socket use the others. A worker that dies is
replaced; when the parent dies, its workers end.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import Self

from voxtrial.daemon.errors import Fatal
from voxtrial.daemon.network.intake import intake_of
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.server import listening_socket
from voxtrial.daemon.network.shares import Share, Shares
from voxtrial.daemon.network.sweep import sweep
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect

LOGGER = logging.getLogger(__name__)
RESTART_PAUSE_SECONDS = 1.0
START_SECONDS = 60.0
STOP_SECONDS = 15.0

OnReady = Callable[[int, int | None], None]
"""Takes the port, and the TLS port where there is one."""


def run(settings: Settings, on_ready: OnReady | None = None) -> None:
    """Listen with ``[listener] workers`` processes until SIGTERM or SIGINT.

    Call it in the main thread of a process that has no other threads: it forks.
    """
    config = settings.listener
    ports = [config.port, *([] if config.tls_port is None else [config.tls_port])]
    sockets = tuple(listening_socket(config.host, port) for port in ports)
    _sweep(settings)
    bound = [int(s.getsockname()[1]) for s in sockets]
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopping.set())
    lifeline = os.pipe()
    gc.collect()
    gc.freeze()  # pages that no collection touches stay shared
    shares = Shares(config.workers)
    workers = {_fork(settings, sockets, lifeline, shares.of(place)): place for place in range(config.workers)}
    if on_ready is not None:
        on_ready(bound[0], bound[1] if len(bound) > 1 else None)
    while not stopping.wait(0.2):
        for ended in _ended(workers):
            LOGGER.error("listener process ended and is replaced", extra={"pid": ended})
            place = workers.pop(ended)
            if not stopping.wait(RESTART_PAUSE_SECONDS):
                pid = _fork(settings, sockets, lifeline, shares.of(place), replaces=True)
                workers[pid] = place
    for listening in sockets:
        listening.close()
    _stop(workers)


class ListenerProcess:
    """``run`` in a process of its own, for programs that have threads.

    Raises
    ------
    Fatal
        The process ended before it listened; its own message is on stderr.
    """

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_run_and_tell, args=(settings, sender), name="listener")
        self.port = 0
        self.tls_port: int | None = None
        self._sender = sender

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def start(self) -> Self:
        """Start, and return when associations are accepted."""
        self._process.start()
        self._sender.close()
        with suppress(EOFError):
            if self._receiver.poll(START_SECONDS):
                self.port, self.tls_port = self._receiver.recv()
        if not self.port:
            self.stop()
            raise Fatal("The listener did not start.")
        return self

    def stop(self) -> None:
        """End it: open associations may finish for some seconds."""
        self._process.terminate()
        self._process.join(STOP_SECONDS + 1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _run_and_tell(settings: Settings, sender: Connection) -> None:
    run(settings, lambda port, tls_port: sender.send((port, tls_port)))


def _sweep(settings: Settings) -> None:
    engine = connect(settings.database_url)
    intake = intake_of(settings, engine)
    sweep(intake.spool, intake.ledger)
    intake.ledger.close()
    engine.dispose()


def _fork(
    settings: Settings,
    sockets: tuple[socket.socket, ...],
    lifeline: tuple[int, int],
    share: Share,
    *,
    replaces: bool = False,
) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.close(lifeline[1])  # the parent alone holds the other end
        if replaces:
            _sweep(settings)
        _work(settings, sockets, lifeline[0], share)
        status = 0
    except Exception:
        LOGGER.exception("listener process failed")
    finally:
        os._exit(status)


def _work(settings: Settings, sockets: tuple[socket.socket, ...], lifeline: int, share: Share) -> None:
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent says when

    def follow_parent() -> None:
        os.read(lifeline, 1)  # returns when the parent is gone
        stopping.set()

    threading.Thread(target=follow_parent, daemon=True).start()
    listener = Listener(settings, listening=sockets, share=share).start()
    while not stopping.wait(3600):
        continue
    listener.stop()


def _ended(workers: Iterable[int]) -> list[int]:
    ended = []
    for pid in workers:
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0]:
                ended.append(pid)
    return ended


def _stop(workers: Iterable[int]) -> None:
    for pid in workers:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    left = set(workers)
    while left and time.monotonic() < deadline:
        left.difference_update(_ended(left))
        time.sleep(0.02)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
