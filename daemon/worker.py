"""Claim jobs, keep their leases alive, run each in a process of its own, and record how it ended.

One thread owns the leases. Whatever happens to a job's process or to this one, the row decides: an attempt
that has lost its lease is killed, and what it found is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

import psutil
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Fatal, Refused, Retryable
from voxtrial.daemon.executors import Cluster, Placement, ThisHost
from voxtrial.daemon.isolation import Limits
from voxtrial.daemon.job import JobOutput
from voxtrial.daemon.preparation import prepare
from voxtrial.daemon.scheduler import may_start
from voxtrial.daemon.services.rescuer import retry_policy
from voxtrial.daemon.settings import Compute, Settings
from voxtrial.db import queue
from voxtrial.db.base import utc_now
from voxtrial.db.engine import claiming_engine, sessions
from voxtrial.db.queue import Capacity, ErrorClass, Held, LeaseLost

logger = logging.getLogger(__name__)

PIPELINE = "voxtrial.daemon.pipeline:run_job"
PRELOAD = ("torch", "highdicom", "scipy.ndimage", "voxtrial.daemon.warm")
"""What the pipeline imports late; jobs are forked from a process that has it."""
POLL_SECONDS = 0.5
DRAIN_SECONDS = 60.0
NOTICE_SECONDS = 20.0
"""Time between two looks at the windows of jobs, and two words about what this worker has."""
NOTICES_PER_OFFER = 3
BEATS_PER_LEASE = 3
SHARE_OF_HOST_MEMORY = 0.8
MEMORY_OVER_PLAN = 1.5
"""A job is killed when it holds more than this times what its model planned for."""
MIB = 2**20

OUTAGE = (OperationalError, InterfaceError)


@dataclass(kw_only=True)
class _Running:
    """A job that we hold."""

    job: Held
    future: Future[JobOutput] = field(default_factory=Future)
    step: str = ""
    recorded_step: str = ""
    cancel_requested: bool = False
    begun: float = field(default_factory=time.monotonic)

    def report_step(self, step: str) -> None:
        """Take the name of the step that has begun; the next look at the leases records it."""
        self.step = step


class Worker:
    """Runs jobs until it is told to stop.

    Parameters
    ----------
    settings
        Whole configuration; the worker reads ``site`` and ``compute``.
    engine
        Database of the queue.
    name
        Name in leases and events; by default the host's and the process's.
    target
        ``package.module:function`` that does a job; it is called as ``function(JobInput, report_step)``.
    clock
        Tells the time, aware UTC.
    poll_seconds
        Time between two looks at an empty queue.
    drain_seconds
        How long running jobs may take to finish after the word to stop.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        name: str = "",
        target: str = PIPELINE,
        clock: Callable[[], datetime] = utc_now,
        poll_seconds: float = POLL_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        compute = settings.compute
        self.settings = settings
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.lease = timedelta(seconds=compute.lease_seconds)
        self.memory_mib = compute.memory_mib or (queue.NO_LIMIT if compute.cluster else host_memory_mib())
        self._sessions = sessions(engine)
        self._engine = engine
        self._claiming = claiming_engine(engine)
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._drain_seconds = drain_seconds
        self._placement = _placement(compute, target)
        self._running: dict[int, _Running] = {}
        self._windows: list[str] = []
        self._next_beat = 0.0
        self._next_notice = 0.0
        self._database_is_away = False

    @property
    def slots(self) -> int:
        """How many jobs may run at the same time."""
        return self._placement.slots

    def run(self, stop: Event) -> None:
        """Work until ``stop`` is set; then finish what runs, or give it back when that takes too long."""
        logger.info("worker started", extra={"worker": self.name, "slots": self.slots})
        while not stop.is_set():
            self.look()
            self._rest(stop)
        self._withdraw()  # it takes nothing any more: a job that waits must not be told to wait for it
        deadline = time.monotonic() + self._drain_seconds
        while self._running and time.monotonic() < deadline:
            self._collect()
            self._beat()
            self._rest(stop)
        self._give_back()
        self.close()
        logger.info("worker stopped", extra={"worker": self.name})

    def run_until_idle(self) -> None:
        """Work until nothing can be claimed and nothing runs."""
        while self.look() or self._running:
            self._rest(Event())
        self.close()

    def look(self) -> int:
        """Record what has ended, prolong the leases, claim what fits; return how many jobs were claimed."""
        self._collect()
        self._beat()
        self._look_around()
        return self._fill()

    def close(self) -> None:
        """Leave the queue; nothing of ours runs any more."""
        self._withdraw()
        self._placement.close()
        if self._claiming is not self._engine:
            self._claiming.dispose()

    def _rest(self, stop: Event) -> None:
        """Wait until something has ended, or for the next poll."""
        under_way = [held.future for held in self._running.values() if not held.future.done()]
        if under_way and not self._database_is_away:
            wait(under_way, self._poll_seconds, FIRST_COMPLETED)
        elif stop.wait(self._poll_seconds) and self._running:
            time.sleep(self._poll_seconds)  # draining while the database is away

    def _look_around(self) -> None:
        """See which windows jobs wait for, and say what this worker has."""
        if time.monotonic() < self._next_notice:
            return
        with self._patience(), self._sessions.begin() as session:
            self._windows = queue.windows(session)
            queue.offer(
                session,
                self.name,
                memory_mib=self.memory_mib,
                gpus=self.settings.compute.gpus,
                now=self._clock(),
                lease=NOTICES_PER_OFFER * timedelta(seconds=NOTICE_SECONDS),
            )
            self._next_notice = time.monotonic() + NOTICE_SECONDS

    def _withdraw(self) -> None:
        """Take back the word about what this worker has."""
        with self._patience(), self._sessions.begin() as session:
            queue.withdraw(session, self.name)

    def _fill(self) -> int:
        """Claim jobs while there is room for them."""
        claimed = 0
        with self._patience():
            while len(self._running) < self.slots:
                with sessions(self._claiming).begin() as session:
                    job = queue.claim(session, self.name, self._clock(), self.lease, self._capacity())
                if job is None:
                    break
                claimed += 1
                self._start(job)
        return claimed

    def _start(self, job: Held) -> None:
        """Hand a claimed job to its process."""
        held = _Running(job=job)
        self._running[job.id] = held
        logger.info("job started", extra={"job": job.id, "model": job.model_name, "attempt": job.attempts})
        try:
            with self._sessions.begin() as session:
                job_input = prepare(session, job, self.settings)
            held.future = self._placement.submit(
                job_input, self._limits(job), gpus=job.gpus, report_step=held.report_step
            )
        except OUTAGE as error:
            held.future.set_exception(Retryable(f"The database did not answer: {error}"))
        except Exception as error:  # an ending like others, recorded with them
            held.future.set_exception(error)

    def _collect(self) -> None:
        """Record the jobs that have ended; keep those that the database does not take at the moment."""
        for held in [one for one in self._running.values() if one.future.done()]:
            with self._patience():
                self._record(held)
                del self._running[held.job.id]

    def _record(self, held: _Running) -> None:
        """Write how an attempt ended: the one place where every error becomes a row."""
        try:
            try:
                self._record_success(held)
            except (*OUTAGE, LeaseLost):
                raise
            except (Exception, CancelledError) as error:
                self._record_failure(held, error)
        except LeaseLost as lost:
            logger.warning("attempt dropped", extra={"job": held.job.id, "reason": str(lost)})

    def _record_success(self, held: _Running) -> None:
        output = held.future.result()
        objects = [
            asdict(replace(one, path=self._below_data(_durable(Path(one.path))))) for one in output.objects
        ]
        with self._sessions.begin() as session:
            self._record_step(session, held)
            queue.succeed(
                session,
                held.job,
                objects=objects,
                measurements=[asdict(value) for value in output.measurements],
                seconds=output.seconds,
                provenance=output.provenance,
                now=self._clock(),
            )
        seconds = round(time.monotonic() - held.begun, 3)
        logger.info("job succeeded", extra={"job": held.job.id, "seconds": seconds})

    def _record_failure(self, held: _Running, error: BaseException) -> None:
        job, now = held.job, self._clock()
        with self._sessions.begin() as session:
            self._record_step(session, held)
            if isinstance(error, CancelledError) and held.cancel_requested:
                state = queue.cancelled(session, job, now=now).state
            elif isinstance(error, Refused):
                state = queue.refuse(session, job, rule=error.rule, reason=str(error), now=now).state
            else:
                error_class, reason = _judge(error)
                state = queue.fail(
                    session,
                    job,
                    error_class=error_class,
                    reason=reason,
                    now=now,
                    policy=retry_policy(self.settings.compute),
                ).state
        logger.warning("job failed", extra={"job": job.id, "state": state, "step": held.step})

    def _beat(self) -> None:
        """Record new steps, and prolong the leases when it is time; let go of what is not ours any more."""
        due = time.monotonic() >= self._next_beat
        for held in list(self._running.values()):
            with self._patience():
                try:
                    with self._sessions.begin() as session:
                        self._record_step(session, held)
                        if due:
                            held.cancel_requested = queue.heartbeat(
                                session, held.job, self._clock(), self.lease
                            )
                except LeaseLost as lost:
                    logger.warning("attempt dropped", extra={"job": held.job.id, "reason": str(lost)})
                    held.future.cancel()
                    del self._running[held.job.id]
            if held.cancel_requested:
                held.future.cancel()
        if due:
            self._next_beat = time.monotonic() + self.lease.total_seconds() / BEATS_PER_LEASE

    def _record_step(self, session: Session, held: _Running) -> None:
        if held.step != held.recorded_step:
            queue.set_step(session, held.job, held.step)
            held.recorded_step = held.step

    def _give_back(self) -> None:
        """Kill what still runs, for another worker to take at once."""
        for held in self._running.values():
            held.future.cancel()
            with self._patience():
                try:
                    with self._sessions.begin() as session:
                        reason = f"Worker {self.name} was stopped."
                        queue.release(session, held.job, reason=reason, now=self._clock())
                except LeaseLost:
                    pass
        self._running.clear()

    def _capacity(self) -> Capacity:
        """Return what fits beside the jobs that run."""
        running = [held.job for held in self._running.values()]
        return Capacity(
            memory_mib=self.memory_mib - sum(job.planned_peak_mib for job in running),
            gpus=self.settings.compute.gpus - sum(job.gpus for job in running),
            open_windows=[window for window in self._windows if may_start(window, self._clock())],
        )

    def _limits(self, job: Held) -> Limits:
        """Return the limits of a job: by its plan, or an equal share of the host where it has none."""
        share = 0 if self.memory_mib == queue.NO_LIMIT else self.memory_mib // max(self.slots, 1)
        return Limits(
            timeout_seconds=self.settings.compute.timeout_seconds,
            memory_mib=max(int(job.planned_peak_mib * MEMORY_OVER_PLAN), share),
        )

    def _below_data(self, path: Path) -> str:
        return str(path.relative_to(self.settings.site.data.absolute()))

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Go on when the database does not answer: leases and results wait for it."""
        try:
            yield
        except OUTAGE as error:
            if not self._database_is_away:
                logger.warning("database does not answer", extra={"reason": str(error.orig)})
            self._database_is_away = True
        else:
            self._database_is_away = False


def host_memory_mib() -> int:
    """Return the memory that jobs may plan for: a share of what the host, or its container, has free."""
    free = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text))
    return int(free * SHARE_OF_HOST_MEMORY) // MIB


def _placement(compute: Compute, target: str) -> Placement:
    if compute.cluster:
        return Cluster(target, compute.cluster, threads=compute.threads)
    preload = PRELOAD if target == PIPELINE else ()
    return ThisHost(target, slots=compute.workers, threads=compute.threads, preload=preload)


def _judge(error: BaseException) -> tuple[ErrorClass, str]:
    """Return the class and the sentence of an error that is no refusal."""
    if isinstance(error, CancelledError):
        return ErrorClass.RETRYABLE, "The place where the job ran is gone."
    if isinstance(error, Retryable | OSError):
        return ErrorClass.RETRYABLE, str(error)
    if isinstance(error, Fatal | queue.DuplicateResult):
        return ErrorClass.FATAL, str(error)
    logger.error("unexpected error", exc_info=error)
    return ErrorClass.FATAL, f"{type(error).__name__}: {error}"


def _durable(path: Path) -> Path:
    """Bring a result and its folder entry to the disk before a row says that it is there."""
    for one in (path, path.parent):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return path
