"""Why a job or a delivery is where it is, in one sentence: what it waits for, who holds it, what ended it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Protocol

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Job, Offer
from voxtrial.db.queue.leases import inline
from voxtrial.db.queue.offers import offers
from voxtrial.db.results import Delivery
from voxtrial.db.states import DeliveryState, JobState

IsOpen = Callable[[str, datetime], bool]
"""Whether a processing window (cron expression) is open at a time."""


class JobFacts(Protocol):
    """The columns of a job that decide."""

    id: int
    state: str
    reason: str
    model_digest: str
    model_name: str
    available_at: datetime
    window: str
    concurrency: int
    planned_peak_mib: int
    gpus: int
    attempts: int
    step: str
    lease_owner: str
    lease_expires_at: datetime | None
    cancel_requested: bool


class DeliveryFacts(Protocol):
    """The columns of a delivery that decide."""

    id: int
    state: str
    reason: str
    available_at: datetime
    attempts: int
    lease_owner: str
    lease_expires_at: datetime | None


JOB_FACTS = tuple(getattr(Job, name) for name in JobFacts.__annotations__)
DELIVERY_FACTS = tuple(getattr(Delivery, name) for name in DeliveryFacts.__annotations__)


class Why:
    """Answers for the jobs of one listing; what they share is read once.

    Parameters
    ----------
    is_open
        Whether a processing window is open.
    """

    def __init__(self, session: Session, *, now: datetime, is_open: IsOpen) -> None:
        self._session = session
        self.now = now
        self._is_open = is_open

    def of(self, job: JobFacts) -> str:
        """Return why the job is where it is; empty when it has succeeded."""
        match job.state:
            case JobState.QUEUED:
                return self._waits_for(job)
            case JobState.WAITING:
                return f"{job.reason} {self._waits_for(job)}"
            case JobState.RUNNING:
                return self._runs(job)
            case JobState.DEAD:
                where = f"Dead in step {job.step}" if job.step else "Dead"
                return f"{where}: {job.reason} When that is mended: voxtrial jobs retry {job.id}."
        return job.reason

    def _waits_for(self, job: JobFacts) -> str:
        """Say what keeps a claimable job from being claimed now, the lasting obstacles first."""
        if not self._offers:
            return "Waits for a worker: none is running."
        memory = max(self._offers, key=lambda offer: offer.memory_mib)
        if job.planned_peak_mib > memory.memory_mib:
            return (
                f"Fits no worker: the model plans for {job.planned_peak_mib} MiB, the largest "
                f"({memory.worker}) has {memory.memory_mib} MiB; "
                "start a larger one or raise compute.memory_mib."
            )
        if job.gpus > max(offer.gpus for offer in self._offers):
            return (
                f"Fits no worker: the model needs {_gpus(job.gpus)}, no worker has as many; "
                "set compute.gpus or start a worker that has."
            )
        if not any(o.memory_mib >= job.planned_peak_mib and o.gpus >= job.gpus for o in self._offers):
            return (
                f"Fits no worker: none has both {job.planned_peak_mib} MiB and {_gpus(job.gpus)}; "
                "start one that has."
            )
        if job.available_at > self.now:
            return f"Tried again at {clock(job.available_at)}, attempt {job.attempts + 1}."
        if job.window and not self._is_open(job.window, self.now):
            return f"Waits for its window ({job.window})."
        running = self._running.get(job.model_digest, 0)
        if job.concurrency and running >= job.concurrency:
            return f"Waits for its model; jobs of it that are running: {running}, as many as may be."
        return f"Waits for its turn; jobs that are running: {sum(self._running.values())}."

    def _runs(self, job: JobFacts) -> str:
        worker = job.lease_owner.rpartition("#")[0]
        if job.lease_expires_at is not None and job.lease_expires_at < self.now:
            since = clock(job.lease_expires_at)
            return f"Worker {worker} is silent, its lease ended at {since}; the job will be taken back."
        where = f"in step {job.step}" if job.step else "starting"
        what = f"Being cancelled ({job.reason})" if job.cancel_requested else "Runs"
        return f"{what} on {worker}, attempt {job.attempts}, {where}."

    @cached_property
    def _offers(self) -> list[Offer]:
        return offers(self._session, self.now)

    @cached_property
    def _running(self) -> dict[str, int]:
        """Count the running jobs by model."""
        running = Job.state.in_(inline(JobState.RUNNING))
        counts = select(Job.model_digest, func.count()).where(running).group_by(Job.model_digest)
        return dict(self._session.execute(counts).all())


def of_delivery(delivery: DeliveryFacts, now: datetime) -> str:
    """Return why a delivery is where it is; empty when it is confirmed."""
    worker = delivery.lease_owner.rpartition("#")[0]
    held = worker and delivery.lease_expires_at is not None and delivery.lease_expires_at >= now
    match delivery.state:
        case DeliveryState.PENDING:
            return f"Being sent by {worker}." if held else "To be sent."
        case DeliveryState.SENT:
            looked = "now" if held else f"at {clock(delivery.available_at)}"
            return f"{delivery.reason} Sent; its confirmation is looked for {looked}.".strip()
        case DeliveryState.WAITING:
            when = "now" if held else f"at {clock(delivery.available_at)}"
            return f"{delivery.reason} Sent again {when}, attempt {delivery.attempts + (not held)}."
        case DeliveryState.DEAD:
            return f"Dead: {delivery.reason} When that is mended: voxtrial deliveries retry {delivery.id}."
    return delivery.reason


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' if number > 1 else ''}"


def clock(at: datetime) -> str:
    """Return the local time as these sentences say it."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
