"""A site whose processes are killed: by SIGKILL, at a chosen transition or at any moment.

A scanner sends studies to the listener, and sends again what was not acknowledged; the duties (assembler,
deliverer, rescuer) and the worker run in processes of their own, forked from a warm server; a small PACS
takes the results. ``kill_daemon`` does the same to a real ``voxtrial serve``.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import kill_points
import numpy as np
import phantoms
from kill_points import LEASE_SECONDS, KillPoint
from peers import free_port
from pydicom import dcmread
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect
from voxtrial.db.jobs import Event, Job
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion

SLICES = 4
SETTLE_SECONDS = 240.0
"""What is open for so long after the last kill is stuck."""
PATIENCE_SECONDS = 60.0
"""How long a process may take to come to its kill point, and an instance to its acknowledgement."""
QUIET_SECONDS = 0.3
"""On a busy machine a study may come in more slowly than this: its slices then make two versions."""
RESEND_SECONDS = 0.1
ENDS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (StudyVersion, (StudyState.READY, StudyState.REFUSED)),
    (Job, (JobState.SUCCEEDED, JobState.SUPERSEDED)),
    (Delivery, (DeliveryState.CONFIRMED, DeliveryState.CANCELLED)),
)


@dataclass
class Verdict:
    """What is wrong after everything has settled; all zero is the claim of the design."""

    studies: int = 0
    versions: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    stuck: int = 0
    attempts: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        kills = ", ".join(f"{n} {victim}" for victim, n in sorted(self.kills.items()))
        attempts = ", ".join(f"{jobs} jobs {n}" for n, jobs in sorted(self.attempts.items()))
        return (
            f"{self.kills.total()} kills ({kills}), {self.studies} studies in {self.versions} versions: "
            f"{self.lost} lost, {self.duplicated} duplicated, {self.stuck} stuck; attempts: {attempts}"
        )


class Scanner(threading.Thread):
    """Sends studies in turn, and again what was not acknowledged, until all of it is."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(daemon=True)
        self._peer = peer
        self._studies: queue.SimpleQueue[list[Path]] = queue.SimpleQueue()

    def send(self, files: list[Path]) -> None:
        """Send a study when those before it have been sent."""
        self._studies.put(files)

    def finish(self) -> None:
        """Wait until everything has been acknowledged."""
        self._studies.put([])
        self.join()

    def run(self) -> None:
        while files := self._studies.get():
            while files := [one.path for one in store(files, self._peer) if not one.stored]:
                time.sleep(RESEND_SECONDS)


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
            listener={"port": free_port(), "workers": 1, "watermark_mib": 0},
            completeness={"quiet_seconds": quiet_seconds},
            destinations=[
                {"name": "pacs", "port": self.pacs.port, "ae_title": "SMALLPACS", "commitment": False}
            ],
            routes=[{"model": "otsu", "destinations": ["pacs"]}],
            compute={
                "workers": 2,
                "lease_seconds": lease_seconds,
                "retry_seconds": 0.2,
                "longest_retry_seconds": 2.0,
                "maximum_attempts": 100_000,
                "memory_mib": 2000,
            },
        )
        self.engine = connect(database_url)
        self.kills: Counter[str] = Counter()
        self.fed: list[str] = []
        self._rest: list[Path] = []

    def feed(
        self, count: int = 1, *, slices: int = SLICES, received: int | None = None, seed: str = ""
    ) -> None:
        """Receive new studies; the slices past ``received`` stay at the scanner until ``feed_rest``."""
        for _ in range(count):
            files = self._scan(seed or str(len(self.fed)), slices)
            self._rest = files[received:] if received is not None else []
            kill_points.receive(self.settings, self.engine, files[:received])

    def feed_rest(self) -> None:
        """Receive what ``feed`` left at the scanner."""
        kill_points.receive(self.settings, self.engine, self._rest)

    def _scan(self, seed: str, slices: int = SLICES) -> list[Path]:
        """Return the files of a study at the scanner; the same seed gives the same study."""
        pixels = np.zeros((slices, 8, 8), np.int16)
        files = phantoms.ct_series(self.data / "scanner" / seed, pixels, seed=seed)
        uid = str(dcmread(files[0]).StudyInstanceUID)
        if uid not in self.fed:
            self.fed.append(uid)
        return files

    def start_receiver(
        self, seed: str, *, slices: int = SLICES, killed_at_row: int = 1, moment: str = "before"
    ) -> BaseProcess:
        """Receive a study in a process that dies before or after the commit of a row, without an answer."""
        files = self._scan(seed, slices)
        document = self.settings.model_dump(mode="json")
        return kill_points.start(kill_points.receive_and_die, document, files, killed_at_row, moment)

    def start(self, role: str, point: KillPoint | None = None) -> BaseProcess:
        """Start a role of the site, armed or not; see ``kill_points.start_role``."""
        return kill_points.start_role(role, self.settings, self.target, point)

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
        if point.role == "listen":
            seed = str(point)
            victim = self.start_receiver(seed, moment=point.moment)
            victim.join(PATIENCE_SECONDS)
            happened = victim.exitcode == -signal.SIGKILL
            self.feed(seed=seed)  # the scanner heard nothing and sends again
        else:
            self.feed()
            other = "tend" if point.role == "work" else "work"
            with self.running(other):
                happened = self._dies_at(point)
            self.kills[other] += 1  # at whatever it was doing
        assert happened, f"{point} did not happen: {self.verdict()}"
        self.kills[point.role] += 1

    def _dies_at(self, point: KillPoint) -> bool:
        """Start a process and feed it until it has died at the point."""
        victim = self.start(point.role, point)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while victim.is_alive() and time.monotonic() < deadline:
            victim.join(2.0)
            if victim.is_alive():
                self.feed()  # e.g. only every third job fails
        happened = victim.exitcode == -signal.SIGKILL
        kill(victim)
        return happened

    def kill_at_random(self, kills: int, generator: random.Random) -> None:
        """Kill the listener, the worker, the duties, or all of them, again and again, at any moment."""
        roles = ("listen", "tend", "work")
        scanner = Scanner(Peer("127.0.0.1", self.settings.listener.port, self.settings.listener.ae_title))
        scanner.start()
        processes = {role: self.start(role) for role in roles}
        try:
            while self.kills.total() < kills:
                if generator.random() < 0.5:
                    scanner.send(self._scan(str(len(self.fed))))
                time.sleep(generator.uniform(0.0, 0.6))
                victims = generator.choice((*((role,) for role in roles), ("tend", "work"), roles))
                for role in victims:
                    kill(processes[role])
                    self.kills[role] += 1
                for role in victims:
                    processes[role] = self.start(role)
            scanner.finish()
        finally:
            for process in processes.values():
                kill(process)

    def settle(self) -> Verdict:
        """Let everything run undisturbed until nothing is open, or nothing happens any more, and judge."""
        with self.running("tend", "work"):
            settle(self.engine)
        return self.verdict()

    def verdict(self) -> Verdict:
        """Compare what was sent with what stands in the rows and at the PACS."""
        at_pacs: dict[str, set[str]] = {}
        for path in self.pacs.objects():
            at_pacs.setdefault(path.parent.parent.name, set()).add(path.stem)
        return judge(self.engine, dict.fromkeys(self.fed, SLICES), at_pacs, self.kills)

    def close(self) -> None:
        """Stop the PACS and leave the database."""
        self.pacs.stop()
        self.engine.dispose()


def kill(process: BaseProcess) -> None:
    """Kill -9 a process with its group, and wait for the end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()  # it may not have led its group yet
    process.join()


def settle(engine: Engine) -> None:
    """Wait until nothing is open, for four minutes at most."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while open_rows(engine) and time.monotonic() < deadline:
        time.sleep(0.2)


def open_rows(engine: Engine) -> list[str]:
    """Return what is not at its end, and why."""
    with Session(engine) as session:
        return [
            f"{row.__tablename__} {row.id}: {row.state} ({row.reason})"
            for table, final in ENDS
            for row in session.scalars(select(table).where(table.state.not_in(final)))
        ]


def judge(
    engine: Engine, sent: Mapping[str, int], at_pacs: Mapping[str, set[str]], kills: Counter[str]
) -> Verdict:
    """Compare what was sent with what stands in the rows and at the PACS.

    Parameters
    ----------
    sent
        Number of acknowledged instances by Study Instance UID.
    at_pacs
        SOP Instance UIDs of the results that the PACS holds, by Study Instance UID.
    """
    verdict = Verdict(studies=len(sent), kills=kills, stuck=len(open_rows(engine)))
    with Session(engine) as session:
        for uid, slices in sent.items():
            newest = select(StudyVersion).where(StudyVersion.study_instance_uid == uid)
            versions = session.scalars(newest.order_by(StudyVersion.version)).all()
            stored = Instance.study_instance_uid == uid
            instances = session.scalar(select(func.count()).where(stored, Instance.deleted_at.is_(None)))
            complete = [(v.state, v.instances) for v in versions[-1:]] == [(StudyState.READY, slices)]
            confirmed = session.scalars(
                select(ResultObject.sop_instance_uid)
                .join(Delivery)
                .where(ResultObject.study_instance_uid == uid, Delivery.state == DeliveryState.CONFIRMED)
            ).all()
            results = session.scalars(
                select(ResultObject.sop_instance_uid).where(ResultObject.study_instance_uid == uid)
            ).all()
            held = at_pacs.get(uid, set())
            verdict.lost += not (complete and instances == slices and confirmed and held >= set(confirmed))
            verdict.duplicated += len(held - set(results))
            verdict.versions += len(versions)
        verdict.duplicated += _done_twice(session)
        verdict.attempts = Counter(session.scalars(select(Job.attempts)))
    return verdict


def _done_twice(session: Session) -> int:
    """Count jobs beyond one a version, successes beyond one a job, and objects beyond one of a kind a job."""
    doubled = (
        select(Job.study_version_id).group_by(Job.study_version_id, Job.model_digest),
        select(Event.subject_id)
        .where(Event.subject == "job", Event.after == JobState.SUCCEEDED)
        .group_by(Event.subject_id),
        select(ResultObject.job_id).group_by(ResultObject.job_id, ResultObject.kind),
    )
    return sum(len(session.scalars(query.having(func.count() > 1)).all()) for query in doubled)
