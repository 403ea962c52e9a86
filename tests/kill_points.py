"""What dies and when: the processes of a site, armed to die at the commit of a chosen transition.

The product knows nothing of this: a process is armed by watching the events that its transactions are about
to commit. It writes down what everybody else sees of the row at that moment, and dies. Every process leads a
group of its own, which is killed as a whole.
"""

from __future__ import annotations

import importlib
import json
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
from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session
from state_machine import MACHINES, Transition

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.intake import Offer, intake_of
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import WITHOUT_TRANSACTION, connect
from voxtrial.db.jobs import Event

LEASE_SECONDS = 1.0
WITNESS = "witness.json"


@dataclass(frozen=True)
class KillPoint:
    """The commit of a transition by a role: the process dies right before it, or right after it."""

    transition: Transition
    role: str
    moment: str

    def __str__(self) -> str:
        return f"{self.role} dies {self.moment} {self.transition}"


@dataclass(frozen=True)
class Armed:
    """A point, and the folder of the site, for the witness."""

    point: KillPoint
    data: Path


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["kill_points", "voxtrial.daemon.duties", "voxtrial.daemon.commands.site", "stand_ins"]
)


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
    armed = Armed(point, settings.site.data) if point else None
    if role == "listen":
        from voxtrial.daemon.network import prefork

        prefork.run(settings)
    elif role == "tend":
        from voxtrial.daemon import duties
        from voxtrial.daemon.services import deliverer

        duties.ASSEMBLE_EVERY = duties.DELIVER_EVERY = duties.RESCUE_EVERY = timedelta(seconds=0.05)
        deliverer.LEASE = timedelta(seconds=LEASE_SECONDS)
        duties.connect = lambda url: _arm(connect(url), armed)  # type: ignore[assignment]  # watches commits
        duties.run(settings)
    else:
        from voxtrial.daemon import worker
        from voxtrial.db.engine import claiming_engine

        # The server of jobs imports the stand-in once
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        engine = _arm(connect(settings.database_url), armed)
        claiming = claiming_engine(engine)
        worker.claiming_engine = lambda _: claiming if claiming is engine else _arm(claiming, armed)
        worker.Worker(settings, engine, target=target, poll_seconds=0.05).run(threading.Event())


def command(document: dict[str, Any], arguments: Sequence[str], point: KillPoint | None) -> None:
    """Be a person's ``voxtrial ARGUMENTS`` on the site, on an engine that is armed."""
    _lead_a_group()
    from voxtrial.daemon.cli import app
    from voxtrial.db import engine as engines

    settings = Settings(**document)
    configuration = settings.site.data / "command.toml"
    configuration.write_text(
        f'[site]\ndata = "{settings.site.data}"\n[database]\nurl = "{settings.database_url}"\n'
    )
    armed = Armed(point, settings.site.data) if point else None
    engines.connect = lambda url, **options: _arm(connect(url, **options), armed)
    app([*arguments, "--config", str(configuration)])


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


def receive_armed(document: dict[str, Any], files: Sequence[Path], point: KillPoint) -> None:
    """Receive files on an engine that is armed."""
    _lead_a_group()
    settings = Settings(**document)
    receive(settings, _arm(connect(settings.database_url), Armed(point, settings.site.data)), files)


def receive_and_die(document: dict[str, Any], files: Sequence[Path], commit_number: int) -> None:
    """Receive files, and die right before a commit, which is the one of a row."""
    from voxtrial.daemon.network.joining import Joining

    _lead_a_group()
    settings = Settings(**document)
    engine = connect(settings.database_url)
    join = Joining.join
    commits = count(1)

    def dying(commit: Callable[[], None]) -> None:
        if next(commits) == commit_number:
            _die()
        commit()

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


def newest_event(engine: Engine) -> int:
    """Return the number of the event that was written last."""
    with engine.connect().execution_options(read_only=True) as connection:
        return connection.scalar(select(func.coalesce(func.max(Event.id), 0))) or 0


def _arm(engine: Engine, armed: Armed | None) -> Engine:
    """Let the process die at the commit of a transaction that has made the transition of the point.

    A claim on PostgreSQL is one statement that commits itself, so that its work is done and committed at
    once. To die in between, the statement gets a transaction around it; after the commit it is left alone.
    """
    if armed is None:
        return engine
    point, last = armed.point, newest_event(engine)
    if point.moment == "before" and engine.get_execution_options().get(WITHOUT_TRANSACTION):
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    wanted = " AND ".join(f"{key} = '{value}'" for key, value in point.transition._asdict().items())
    if point.role == "work":
        wanted += " AND actor <> 'rescuer'"  # who may make the same transition meanwhile
    query = f"SELECT id, subject_id FROM events WHERE id > {last} AND {wanted} ORDER BY id LIMIT 1"
    commit = engine.dialect.do_commit
    dying = threading.Lock()  # of the duties' threads one dies for all

    def die(made: tuple[int, int]) -> None:
        with dying:
            _testify(engine, armed, *made)
            _die()

    def do_commit(connection: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(query)
        made = cursor.fetchone()
        cursor.close()
        if made and point.moment == "before":
            die(made)
        commit(connection)
        if made:
            die(made)

    engine.dialect.do_commit = do_commit  # type: ignore[method-assign]  # the engine is this process's own
    return engine


def _testify(engine: Engine, armed: Armed, event_id: int, subject_id: int) -> None:
    """Write down what another connection sees: the state of the row, and its events from this one on."""
    table = MACHINES[armed.point.transition.subject][0]
    others = connect(engine.url.render_as_string(hide_password=False))
    with Session(others.connect().execution_options(read_only=True)) as session:
        events = select(Event.after).where(
            Event.subject == armed.point.transition.subject,
            Event.subject_id == subject_id,
            Event.id >= event_id,
        )
        seen = {
            "state": session.scalar(select(table.state).where(table.id == subject_id)) or "",
            "events": list(session.scalars(events.order_by(Event.id))),
        }
    (armed.data / WITNESS).write_text(json.dumps(seen))


def _lead_a_group() -> None:
    """Be killed with all that this process starts, and with the test."""
    os.setsid()
    importlib.import_module("voxtrial.daemon.with_parent").tie()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
