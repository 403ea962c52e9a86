"""A site whose processes are killed: by SIGKILL, at a chosen transition or at any moment.

A scanner sends studies to the listener, and sends again what was not acknowledged; the duties (assembler,
deliverer, rescuer), the worker and the commands of a person run in processes of their own, forked from a warm
server; a small PACS takes the results. ``kill_ways`` knows how a site comes to each transition;
``kill_daemon`` does the same to a real ``voxtrial serve``.
"""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import kill_points
import numpy as np
import phantoms
from kill_points import LEASE_SECONDS, WITNESS, KillPoint
from kill_verdict import Verdict, judge, open_rows, settle
from peers import free_port, wait_until
from pydicom import dcmread
from sqlalchemy import select, update
from sqlalchemy.orm import Session, aliased
from state_machine import MACHINES

from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.settings import Settings
from voxtrial.db.base import utc_now
from voxtrial.db.engine import connect
from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.studies import StudyVersion

SLICES = 4
PATIENCE_SECONDS = 60.0
"""How long a process may take to come to its kill point, and an instance to its acknowledgement."""
QUIET_SECONDS = 0.3
"""On a busy machine a study may come in more slowly than this: its slices then make two versions."""
RESEND_SECONDS = 0.1


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

    def settings_with(self, **sections: Any) -> Settings:
        """Return the settings with some values of some sections changed."""
        document = self.settings.model_dump(mode="json")
        for name, changed in sections.items():
            document[name] = {**document[name], **changed} if isinstance(changed, dict) else changed
        return Settings(**document)

    def feed(
        self,
        count: int = 1,
        *,
        slices: int = SLICES,
        received: Collection[int] | None = None,
        seed: str = "",
    ) -> list[Path]:
        """Receive new studies; slices that are not among ``received`` stay at the scanner.

        Returns the received files of the last study.
        """
        for _ in range(count):
            files = self._scan(seed or str(len(self.fed)), slices)
            taken = [file for k, file in enumerate(files) if received is None or k in received]
            self._rest = [file for file in files if file not in taken]
            kill_points.receive(self.settings, self.engine, taken)
        return taken

    def feed_rest(self) -> None:
        """Receive what ``feed`` left at the scanner."""
        kill_points.receive(self.settings, self.engine, self._rest)
        self._rest = []

    def _scan(self, seed: str, slices: int = SLICES) -> list[Path]:
        """Return the files of a study at the scanner; the same seed gives the same study."""
        pixels = np.zeros((slices, 8, 8), np.int16)
        files = phantoms.ct_series(self.data / "scanner" / seed, pixels, seed=seed)
        uid = str(dcmread(files[0]).StudyInstanceUID)
        if uid not in self.fed:
            self.fed.append(uid)
        return files

    def start_receiver(self, seed: str, *, slices: int, killed_at_row: int) -> BaseProcess:
        """Receive a study in a process that dies before the commit of a row, without an answer."""
        files = self._scan(seed, slices)
        document = self.settings.model_dump(mode="json")
        return kill_points.start(kill_points.receive_and_die, document, files, killed_at_row)

    def start(
        self,
        role: str,
        point: KillPoint | None = None,
        *,
        target: str = "",
        settings: Settings | None = None,
    ) -> BaseProcess:
        """Start a role of the site, armed or not; see ``kill_points.start_role``."""
        return kill_points.start_role(role, settings or self.settings, target or self.target, point)

    @contextmanager
    def running(self, *roles: str, **how: Any) -> Iterator[dict[str, BaseProcess]]:
        """Run roles unarmed; they are killed at the end, at whatever they are doing."""
        processes = {role: self.start(role, **how) for role in roles}
        try:
            yield processes
        finally:
            for process in processes.values():
                kill(process)

    def command(self, *arguments: str) -> None:
        """Let a person call ``voxtrial ARGUMENTS``."""
        person = self._command(*arguments)
        person.join(PATIENCE_SECONDS)
        assert person.exitcode == 0, f"voxtrial {' '.join(arguments)} ended with {person.exitcode}"

    def _command(self, *arguments: str, point: KillPoint | None = None) -> BaseProcess:
        document = self.settings.model_dump(mode="json")
        return kill_points.start(kill_points.command, document, arguments, point)

    def kill_at(self, point: KillPoint) -> None:
        """Bring a process to the point, let it die there, and let the site finish everything after it."""
        from kill_ways import WAYS

        WAYS[point.transition, point.role](self, point)
        self.recover()

    @contextmanager
    def victim(self, point: KillPoint, *arguments: str, **how: Any) -> Iterator[None]:
        """Run the process that is to die at the point; the block may do what leads there.

        Parameters
        ----------
        arguments
            Of the command, when the victim is a person's.

        Raises
        ------
        AssertionError
            It did not die, or not at the point: before it everybody must still see the old state, after it
            everybody must see the new one.
        """
        (self.data / WITNESS).unlink(missing_ok=True)
        process = (
            self._command(*arguments, point=point) if arguments else self.start(point.role, point, **how)
        )
        try:
            yield
            process.join(PATIENCE_SECONDS)
            self._examine(point, process)
        finally:
            kill(process)
        self.kills[point.role] += 1

    def dies(self, point: KillPoint, *arguments: str, **how: Any) -> None:
        """Run the process that is to die at the point until it has; see ``victim``."""
        with self.victim(point, *arguments, **how):
            pass

    def receiver_dies(self, point: KillPoint) -> None:
        """Let the listener die at the point; the scanner hears nothing, and sends again."""
        (self.data / WITNESS).unlink(missing_ok=True)
        seed = str(point)
        document = self.settings.model_dump(mode="json")
        receiver = kill_points.start(kill_points.receive_armed, document, self._scan(seed), point)
        receiver.join(PATIENCE_SECONDS)
        self._examine(point, receiver)
        self.kills[point.role] += 1
        self.feed(seed=seed)

    def _examine(self, point: KillPoint, victim: BaseProcess) -> None:
        """Require that the victim died at the point, and that it was where it says."""
        assert victim.exitcode == -signal.SIGKILL, f"{point}: it did not happen: {open_rows(self.engine)}"
        seen = json.loads((self.data / WITNESS).read_text())
        _, before, after = point.transition
        if point.moment == "before":
            assert seen == {"state": before, "events": []}, f"{point}: {seen}"
        else:  # a role that works beside may have moved the row on by now: its events say so
            assert seen["events"][:1] == [after], f"{point}: {seen}"
            assert seen["state"] == seen["events"][-1], f"{point}: {seen}"

    def until(self, subject: str, state: str) -> int:
        """Wait until the newest row of a kind is in a state; return its number."""
        table = MACHINES[subject][0]

        def newest() -> tuple[int, str]:
            with Session(self.engine) as session:
                row = session.execute(
                    select(table.id, table.state).order_by(table.id.desc()).limit(1)
                ).first()
            return (row.id, row.state) if row else (0, "")

        wait_until(lambda: newest()[1] == state, PATIENCE_SECONDS, f"{subject} in state {state}")
        return newest()[0]

    def hurry(self) -> None:
        """Let the time come for what waits for its next attempt."""
        job = update(Job).where(Job.state == "WAITING")
        delivery = update(Delivery).where(Delivery.state == "WAITING", Delivery.lease_owner == "")
        with Session(self.engine) as session, session.begin():
            for waits in (job, delivery):
                session.execute(waits.values(available_at=utc_now()))

    def recover(self) -> None:
        """Let everything run until nothing is open, with the late slices and what a person would retry."""
        self.feed_rest()
        with self.running("tend", "work"):
            settle(self.engine, self._look_after)

    def _look_after(self) -> None:
        """Do what a person does about work that was stopped, and what only waits for its time."""
        self.hurry()
        successor = aliased(StudyVersion)
        newest = ~select(successor.id).where(successor.predecessor_id == StudyVersion.id).exists()
        of_newest = select(StudyVersion.study_instance_uid).join(Job).where(newest)
        delivery = of_newest.join(ResultObject, ResultObject.job_id == Job.id).join(Delivery)
        states = ("DEAD", "CANCELLED")
        with Session(self.engine) as session:
            uids = {
                *session.scalars(of_newest.where(Job.state.in_(states))),
                *session.scalars(delivery.where(Delivery.state.in_(states))),
            }
        for uid in uids:  # a person who comes too late is told so
            self._command("studies", "retry", uid).join(PATIENCE_SECONDS)

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
