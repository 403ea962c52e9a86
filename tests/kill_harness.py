"""A site whose processes are killed: by SIGKILL, at a chosen transition or at any moment.

Studies come in through the intake of the listener; the duties (assembler, deliverer, rescuer) and the worker
run in processes of their own, forked from a warm server; a small PACS takes the results. The product knows
nothing of all this: a process is armed by watching the events that its transactions are about to commit.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
from pydicom import dcmread
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.intake import Offer, intake_of
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect
from voxtrial.db.jobs import Event, Job
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion

SLICES = 4
SETTLE_SECONDS = 240.0
PATIENCE_SECONDS = 60.0
LEASE_SECONDS = 1.0
QUIET_SECONDS = 0.3
"""On a busy machine a study may come in more slowly than this: its slices then make two versions."""


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
        worker = self.subject == "job" and "RUNNING" in (self.before, self.after)
        return "work" if worker or (self.before == "" and self.subject == "delivery") else "tend"

    def __str__(self) -> str:
        return f"{self.moment} {self.subject} {self.before or 'nothing'} -> {self.after}"


TRANSITIONS = (
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


@dataclass
class Verdict:
    """What is wrong after everything has settled; all zero is the claim of the design."""

    studies: int = 0
    versions: int = 0
    kills: int = 0
    lost: int = 0
    duplicated: int = 0
    stuck: int = 0
    attempts: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        attempts = ", ".join(f"{jobs} jobs {n}" for n, jobs in sorted(self.attempts.items()))
        return (
            f"{self.kills} kills, {self.studies} studies in {self.versions} versions: {self.lost} lost, "
            f"{self.duplicated} duplicated, {self.stuck} stuck; attempts: {attempts}"
        )


class Site:
    """A site, its PACS, and the processes that are killed.

    Parameters
    ----------
    data
        Folder of the site.
    database_url
        Database with the tables of this version.
    target
        What a job is, as ``Worker`` takes it.
    lease_seconds
        Short, so that what a kill has stranded is soon taken up.
    quiet_seconds
        Quiet period after which a study is closed.
    """

    def __init__(
        self,
        data: Path,
        database_url: str,
        *,
        target: str = "stand_ins:reports_at_the_second_attempt",
        lease_seconds: float = LEASE_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self.data = data
        self.target = target
        self.pacs = SmallPACS(data / "pacs").start()
        self.settings = Settings(
            site={"data": data},
            database={"url": database_url},
            completeness={"quiet_seconds": quiet_seconds},
            destinations=[
                {"name": "pacs", "port": self.pacs.port, "ae_title": "SMALLPACS", "commitment": False}
            ],
            routes=[{"model": "otsu", "destinations": ["pacs"]}],
            compute={
                "workers": 2,
                "lease_seconds": lease_seconds,
                "retry_seconds": 0.2,
                "maximum_attempts": 100_000,
                "memory_mib": 2000,
            },
        )
        self.engine = connect(database_url)
        self.kills = 0
        self.fed: list[str] = []
        self._rest: list[Path] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["kill_harness", "voxtrial.daemon.duties", "stand_ins"])

    def feed(
        self, count: int = 1, *, slices: int = SLICES, received: int | None = None, seed: str = ""
    ) -> None:
        """Receive new studies; the slices past ``received`` stay at the scanner until ``feed_rest``."""
        for _ in range(count):
            files = _scan(self.data, seed or str(len(self.fed)), slices)
            self._rest = files[received:] if received is not None else []
            _receive(self.settings, self.engine, files[:received])
            self.fed.append(str(dcmread(files[0]).StudyInstanceUID))

    def feed_rest(self) -> None:
        """Receive what ``feed`` left at the scanner."""
        _receive(self.settings, self.engine, self._rest)

    def start_receiver(self, *, slices: int, killed_at_row: int) -> BaseProcess:
        """Receive a study in a process that dies with the file written and the row not committed."""
        process = self._context.Process(
            target=_receive_and_die,
            args=(self.settings.model_dump(mode="json"), slices, killed_at_row),
            daemon=False,
        )
        process.start()
        return process

    def start(self, role: str, point: KillPoint | None = None) -> BaseProcess:
        """Start the duties (``tend``) or the worker (``work``), armed or not."""
        process = self._context.Process(
            target=_run_role,
            args=(role, self.settings.model_dump(mode="json"), self.target, point),
            daemon=False,
        )
        process.start()
        return process

    @contextmanager
    def running(self, *roles: str) -> Iterator[dict[str, BaseProcess]]:
        """Run roles unarmed; they are killed at the end."""
        processes = {role: self.start(role) for role in roles}
        try:
            yield processes
        finally:
            for process in processes.values():
                kill(process)

    def kill_at(self, point: KillPoint) -> None:
        """Bring a process to the point and let it die there, while the other role works."""
        self.feed()
        other = "tend" if point.role == "work" else "work"
        with self.running(other):
            victim = self.start(point.role, point)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while victim.is_alive() and time.monotonic() < deadline:
                victim.join(2.0)
                if victim.is_alive():
                    self.feed()  # e.g. only every third job fails
            happened = victim.exitcode == -signal.SIGKILL
            kill(victim)
            assert happened, f"{point} did not happen: {self.verdict()}"
        self.kills += 2  # the victim, and the other role at whatever it was doing

    def kill_at_random(self, kills: int, generator: random.Random) -> None:
        """Kill the worker, the duties, or both, again and again, each time at any moment."""
        processes = {role: self.start(role) for role in ("tend", "work")}
        try:
            while self.kills < kills:
                if generator.random() < 0.5:
                    self.feed()
                time.sleep(generator.uniform(0.0, 0.6))
                victims = generator.choice((("work",), ("tend",), ("tend", "work")))
                for role in victims:
                    kill(processes[role])
                    self.kills += 1
                for role in victims:
                    processes[role] = self.start(role)
        finally:
            for process in processes.values():
                kill(process)

    def settle(self) -> Verdict:
        """Let everything run undisturbed until nothing is open, and judge."""
        deadline = time.monotonic() + SETTLE_SECONDS
        with self.running("tend", "work"):
            while self.open_rows() and time.monotonic() < deadline:
                time.sleep(0.1)
        return self.verdict()

    def verdict(self) -> Verdict:
        """Compare what came in with what stands in the rows and at the PACS."""
        verdict = Verdict(studies=len(self.fed), kills=self.kills, stuck=self.open_rows())
        at_pacs = Counter(path.parent.parent.name for path in self.pacs.objects())
        with Session(self.engine) as session:
            for uid in self.fed:
                versions = session.scalars(
                    select(StudyVersion)
                    .where(StudyVersion.study_instance_uid == uid)
                    .order_by(StudyVersion.version)
                ).all()
                stored = Instance.study_instance_uid == uid
                instances = session.scalar(select(func.count()).where(stored, Instance.deleted_at.is_(None)))
                complete = bool(versions) and (versions[-1].state, versions[-1].instances) == (
                    "READY",
                    SLICES,
                )
                verdict.lost += not complete or instances != SLICES or at_pacs[uid] == 0
                verdict.duplicated += at_pacs[uid] > len(versions)
                verdict.versions += len(versions)
            jobs = session.scalars(select(Job)).all()
            verdict.attempts = Counter(job.attempts for job in jobs)
            for job in jobs:
                succeeded = select(func.count()).where(
                    Event.subject == "job", Event.subject_id == job.id, Event.after == "SUCCEEDED"
                )
                objects = select(func.count()).where(ResultObject.job_id == job.id)
                verdict.duplicated += (session.scalar(succeeded) or 0) > 1
                verdict.duplicated += (session.scalar(objects) or 0) > 1
            verdict.duplicated += max(len(jobs) - verdict.versions, 0)
        return verdict

    def close(self) -> None:
        """Stop the PACS and leave the database."""
        self.pacs.stop()
        self.engine.dispose()

    def open_rows(self) -> int:
        """Count what is not at its end."""
        ends: list[tuple[Any, tuple[str, ...]]] = [
            (StudyVersion, (StudyState.READY, StudyState.REFUSED)),
            (Job, (JobState.SUCCEEDED, JobState.SUPERSEDED)),
            (Delivery, (DeliveryState.CONFIRMED, DeliveryState.CANCELLED)),
        ]
        with Session(self.engine) as session:
            return sum(
                session.scalar(select(func.count()).select_from(table).where(table.state.not_in(final))) or 0
                for table, final in ends
            )


def kill(process: BaseProcess) -> None:
    """Kill -9 and wait for the end."""
    process.kill()
    process.join()


def _scan(data: Path, seed: str, slices: int) -> list[Path]:
    """Return the files of a study at the scanner; the same seed gives the same study."""
    return phantoms.ct_series(data / "scanner" / seed, np.zeros((slices, 8, 8), np.int16), seed=seed)


def _receive(settings: Settings, engine: Engine, files: Sequence[Path]) -> None:
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


def _receive_and_die(document: dict[str, Any], slices: int, killed_at_row: int) -> None:
    from voxtrial.daemon.network.joining import Joining

    settings = Settings(**document)
    engine = connect(settings.database_url)
    commit, join = engine.dialect.do_commit, Joining.join
    commits = count(1)

    def die_when_due() -> None:
        if next(commits) == killed_at_row:
            os.kill(os.getpid(), signal.SIGKILL)

    def do_commit(connection: Any) -> None:
        die_when_due()
        commit(connection)

    class Watched:
        """The driver's connection, whose commits the short way of the ledger calls itself."""

        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def commit(self) -> None:
            die_when_due()
            self._connection.commit()

    engine.dialect.do_commit = do_commit  # type: ignore[method-assign]  # the engine is this process's own
    Joining.join = lambda self, connection, batch: join(self, Watched(connection), batch)  # type: ignore[method-assign]  # as above
    _receive(settings, engine, _scan(settings.site.data, "receiver", slices))


def _run_role(role: str, document: dict[str, Any], target: str, point: KillPoint | None) -> None:
    """Be a role, with short intervals, on an engine that is armed."""
    settings = Settings(**document)
    if role == "tend":
        from voxtrial.daemon import duties
        from voxtrial.daemon.services import deliverer

        duties.ASSEMBLE_EVERY = duties.DELIVER_EVERY = duties.RESCUE_EVERY = timedelta(seconds=0.05)
        deliverer.LEASE = timedelta(seconds=LEASE_SECONDS)
        duties.connect = lambda url: _armed(connect(url), point)  # type: ignore[assignment]  # watches commits
        duties.run(settings)
    else:
        from voxtrial.daemon.worker import Worker

        os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # the server of jobs imports the stand-in once
        engine = _armed(connect(settings.database_url), point)
        Worker(settings, engine, target=target, poll_seconds=0.05).run(threading.Event())


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
            os.kill(os.getpid(), signal.SIGKILL)
        commit(connection)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)

    engine.dialect.do_commit = do_commit  # type: ignore[method-assign]  # the engine is this process's own
    return engine
