"""What a person asks for, and what a newer version of a study does to the jobs of the one before."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Job
from voxtrial.db.queue.policy import HEAD_START
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import JOB_TRANSITIONS, DeliveryState, JobState
from voxtrial.db.studies import StudyVersion
from voxtrial.db.transitions import move

SUPERSEDABLE = tuple(state for state, afters in JOB_TRANSITIONS.items() if JobState.SUPERSEDED in afters)


def cancel(session: Session, job_id: int, *, now: datetime, actor: str, reason: str = "") -> Job:
    """Stop a job: at once while it waits; a running one when its worker hears of it with the next heartbeat.

    Raises
    ------
    ForbiddenTransition
        The job is finished.
    """
    job = _locked(session, job_id)
    if job.state == JobState.RUNNING:
        job.cancel_requested = True
        job.reason = reason or f"Cancelled by {actor}."
    else:
        move(session, job, JobState.CANCELLED, now=now, actor=actor, reason=reason)
        job.reason = reason or f"Cancelled by {actor}."
        job.finished_at = now
    session.flush()
    return job


def retry(session: Session, job_id: int, *, now: datetime, actor: str, reason: str = "") -> Job:
    """Queue a DEAD or CANCELLED job again, with all its attempts; it keeps its first start.

    Raises
    ------
    ForbiddenTransition
        The job is in another state.
    """
    job = _locked(session, job_id)
    move(session, job, JobState.QUEUED, now=now, actor=actor, reason=reason)
    job.available_at = now
    job.due_at = now + HEAD_START[job.priority]
    job.attempts = 0
    job.cancel_requested = False
    job.error_class = job.rule = job.reason = job.step = job.lease_owner = ""
    job.finished_at = None
    session.flush()
    return job


def supersede(session: Session, job: Job, *, now: datetime, actor: str, reason: str) -> None:
    """Let a newer job take the place of one whose row the caller has locked.

    A worker that runs it loses its lease. Deliveries that nobody is sending are cancelled.
    """
    move(session, job, JobState.SUPERSEDED, now=now, actor=actor, reason=reason)
    job.reason, job.finished_at = reason, job.finished_at or now
    job.lease_owner, job.lease_expires_at = "", None
    waiting = session.scalars(
        select(Delivery)
        .join(ResultObject)
        .where(
            ResultObject.job_id == job.id,
            Delivery.state.in_((DeliveryState.PENDING, DeliveryState.WAITING)),
            or_(Delivery.lease_expires_at.is_(None), Delivery.lease_expires_at < now),
        )
        .with_for_update(of=Delivery, skip_locked=True)
    )
    for delivery in waiting:
        move(session, delivery, DeliveryState.CANCELLED, now=now, actor=actor, reason=reason)
        delivery.reason = reason


def supersede_predecessors(session: Session, job: Job, *, now: datetime, actor: str) -> None:
    """Supersede the jobs of the same model over every earlier version of the study."""
    version = session.get_one(StudyVersion, job.study_version_id)
    earlier = session.scalars(
        select(Job)
        .join(StudyVersion)
        .where(
            StudyVersion.study_instance_uid == version.study_instance_uid,
            StudyVersion.version < version.version,
            Job.model_name == job.model_name,
            Job.state.in_(SUPERSEDABLE),
        )
        .order_by(Job.id)
        .with_for_update(of=Job)
    )
    for old in earlier:
        supersede(
            session, old, now=now, actor=actor, reason=f"Version {version.version} of the study is ready."
        )


def _locked(session: Session, job_id: int) -> Job:
    return session.get_one(Job, job_id, with_for_update=True, populate_existing=True)
