"""What dies and when: the processes of a site, armed to die at the commit of a chosen transition.

The product knows nothing of this: a process is armed by watching the events that its transactions are about
to commit. Every process leads a group of its own, which is killed as a whole.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pydicom import dcmread
from sqlalchemy import Engine

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.intake import Offer, intake_of
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect

LEASE_SECONDS = 1.0


@dataclass(frozen=True)
class KillPoint:
    """The commit of a transition: the process dies right before it, or right after it."""

    subject: str
    before: str
    after: str
    moment: str

    @property
    def role(self) -> str:
        """The process that makes this transition."""
        if self.subject == "study" and not self.before:
            return "listen"
        worker = self.subject == "job" and "RUNNING" in (self.before, self.after)
        return "work" if worker or (self.before == "" and self.subject == "delivery") else "tend"

    def __str__(self) -> str:
        return f"{self.moment} {self.subject} {self.before or 'nothing'} -> {self.after}"


TRANSITIONS = (
    ("study", "", "RECEIVING"),
    ("study", "RECEIVING", "ASSUMED"),
    ("study", "ASSUMED", "READY"),
    ("job", "", "QUEUED"),
    ("job", "QUEUED", "RUNNING"),
    ("job", "RUNNING", "WAITING"),
    ("job", "WAITING", "RUNNING"),
    ("job", "RUNNING", "SUCCEEDED"),
    ("delivery", "", "PENDING"),
    ("delivery", "PENDING", "SENT"),
    ("delivery", "SENT", "CONFIRMED"),
)
EVERY_POINT = tuple(
    KillPoint(*transition, moment) for transition in TRANSITIONS for moment in ("before", "after")
)


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["kill_points", "voxtrial.daemon.duties", "stand_ins"])


def start_role(role: str, settings: Settings, target: str, point: KillPoint | None = None) -> BaseProcess:
    """Start the listener (``listen``), the duties (``tend``) or the worker (``work``), armed or not."""
    return start(be, role, settings.model_dump(mode="json"), target, point)


def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run a function in a process of its own, forked from a warm server."""
    process = CONTEXT.Process(target=function, args=arguments, daemon=False)
    process.start()
    return process


def be(role: str, document: dict[str, Any], target: str, point: KillPoint | None) -> None:
    """Be a role of the daemon, with short intervals, on an engine that is armed."""
    _lead_a_group()
    settings = Settings(**document)
    if role == "listen":
        from voxtrial.daemon.network import prefork

        prefork.run(settings)
    elif role == "tend":
        from voxtrial.daemon import duties
        from voxtrial.daemon.services import deliverer

        duties.ASSEMBLE_EVERY = duties.DELIVER_EVERY = duties.RESCUE_EVERY = timedelta(seconds=0.05)
        deliverer.LEASE = timedelta(seconds=LEASE_SECONDS)
        duties.connect = lambda url: _armed(connect(url), point)  # type: ignore[assignment]  # watches commits
        duties.run(settings)
    else:
        from voxtrial.daemon import worker
        from voxtrial.db.engine import claiming_engine

        # The server of jobs imports the stand-in once
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        worker.claiming_engine = lambda engine: _armed(claiming_engine(engine), point)  # watches commits
        engine = _armed(connect(settings.database_url), point)
        worker.Worker(settings, engine, target=target, poll_seconds=0.05).run(threading.Event())


def receive(settings: Settings, engine: Engine, files: Sequence[Path]) -> None:
    """Let the listener's intake take files; every one must be acknowledged."""
    intake = intake_of(settings, engine)
    for path in files:
        header = dcmread(path)
        offer = Offer(
            sop_class_uid=header.SOPClassUID,
            sop_instance_uid=header.SOPInstanceUID,
            transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
            origin=Origin(calling_ae="SCANNER"),
        )
        reception = intake.begin(offer)
        file, _ = part10.open_dataset(path)
        with file:
            reception.write(file.read())
        assert reception.finish().status == 0


def receive_and_die(document: dict[str, Any], files: Sequence[Path], commit_number: int, moment: str) -> None:
    """Receive files, and die right before or right after a commit, which is the one of a row."""
    from voxtrial.daemon.network.joining import Joining

    _lead_a_group()
    settings = Settings(**document)
    engine = connect(settings.database_url)
    join = Joining.join
    commits = count(1)

    def dying(commit: Callable[[], None]) -> None:
        due = next(commits) == commit_number
        if due and moment == "before":
            _die()
        commit()
        if due:
            _die()

    class Watched:
        """The driver's connection, whose commits the short way of the ledger calls itself."""

        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def commit(self) -> None:
            dying(self._connection.commit)

    commit = engine.dialect.do_commit
    engine.dialect.do_commit = lambda connection: dying(lambda: commit(connection))  # type: ignore[method-assign]  # the engine is this process's own
    Joining.join = lambda self, connection, batch: join(self, Watched(connection), batch)  # type: ignore[method-assign]  # as above
    receive(settings, engine, files)


def _armed(engine: Engine, point: KillPoint | None) -> Engine:
    """Let the process die at the commit of a transaction that has written the event of ``point``."""
    if point is None:
        return engine
    commit = engine.dialect.do_commit
    wanted = (point.subject, point.before, point.after)
    seen: dict[str, int] = {}

    def do_commit(connection: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT id, subject, before, after FROM events ORDER BY id DESC LIMIT 50")
        rows = cursor.fetchall()
        cursor.close()
        newest = rows[0][0] if rows else 0
        hit = "last" in seen and any(row[0] > seen["last"] and tuple(row[1:]) == wanted for row in rows)
        seen["last"] = max(newest, seen.get("last", newest))
        if hit and point.moment == "before":
            _die()
        commit(connection)
        if hit:
            _die()

    engine.dialect.do_commit = do_commit  # type: ignore[method-assign]  # the engine is this process's own
    return engine


def _lead_a_group() -> None:
    """Be killed with all that this process starts, and with the test."""
    os.setsid()
    importlib.import_module("voxtrial.daemon.with_parent").tie()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
