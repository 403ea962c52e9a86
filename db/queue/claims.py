"""What becomes of jobs before and while they run: queued, kept alive, taken back from the dead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from voxtrial.db.jobs import Job, Model
from voxtrial.db.queue.claiming import CLAIMABLE
from voxtrial.db.queue.control import supersede_predecessors
from voxtrial.db.queue.leases import Held, LeaseLost, inline
from voxtrial.db.queue.policy import HEAD_START, JOBS, RetryPolicy
from voxtrial.db.states import JobState
from voxtrial.db.transitions import move, opened


def enqueue(
    session: Session,
    *,
    study_version_id: int,
    model: tuple[str, str, str, Mapping[str, Any]],
    recipe_digest: str,
    destinations: Sequence[str] = (),
    priority: int = 1,
    window: str = "",
    concurrency: int = 0,
    planned_peak_mib: int = 0,
    gpus: int = 0,
    now: datetime,
    actor: str = "assembler",
) -> Job:
    """Queue one model over one study version, and supersede its jobs over the version's predecessors.

    Parameters
    ----------
    model
        Digest, name, version and manifest.
    priority
        0 urgent, 1 routine, 2 batch.

    Returns
    -------
    Job
        The new job, or the one that has been there already: the same work is never queued twice.
    """
    digest, name, version, manifest = model
    _insert_missing(
        session, Model, digest=digest, name=name, version=version, manifest=dict(manifest), added_at=now
    )
    inserted = _insert_missing(
        session,
        Job,
        study_version_id=study_version_id,
        model_digest=digest,
        model_name=name,
        recipe_digest=recipe_digest,
        destinations=list(destinations),
        priority=priority,
        window=window,
        concurrency=concurrency,
        planned_peak_mib=planned_peak_mib,
        gpus=gpus,
        available_at=now,
        due_at=now + HEAD_START[priority],
        created_at=now,
    )
    job = session.scalars(
        select(Job).where(
            Job.study_version_id == study_version_id,
            Job.model_digest == digest,
            Job.recipe_digest == recipe_digest,
        )
    ).one()
    if inserted:
        opened(session, job, now=now, actor=actor)
        supersede_predecessors(session, job, now=now, actor=actor)
        session.flush()
    return job


def heartbeat(session: Session, job: Held, now: datetime, lease: timedelta) -> bool:
    """Prolong the lease; return whether somebody asked to cancel the job.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    return bool(_update_held(session, job, Job.cancel_requested, lease_expires_at=now + lease))


def set_step(session: Session, job: Held, step: str) -> None:
    """Record which step of the pipeline the job is in.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    _update_held(session, job, Job.id, step=step)


def rescue(session: Session, now: datetime, policy: RetryPolicy = JOBS, actor: str = "rescuer") -> list[Job]:
    """Take back the jobs whose lease has run out: their worker is dead or cut off.

    They wait for the next attempt, or are DEAD when ``policy`` allows none, or CANCELLED when that was asked.
    """
    expired = session.scalars(
        select(Job)
        .where(Job.state.in_(inline(JobState.RUNNING)), Job.lease_expires_at < now)
        .with_for_update(skip_locked=True)
    ).all()
    for job in expired:
        lost = f"Lease of {job.lease_owner} ran out in step {job.step or 'start'}"
        exhausted = policy.exhausted(attempts=job.attempts, since=job.due_at, now=now)
        if job.cancel_requested:
            after, job.reason = JobState.CANCELLED, f"Cancelled. {lost}."
        elif exhausted:
            after, job.reason = JobState.DEAD, f"{lost}; {exhausted}."
        else:
            after, job.reason = JobState.WAITING, f"{lost}."
            job.available_at = now + policy.delay(key=job.id, attempts=job.attempts)
        if after is not JobState.WAITING:
            job.finished_at = now
        job.error_class = "" if job.cancel_requested else "Retryable"
        job.lease_owner, job.lease_expires_at = "", None
        move(session, job, after, now=now, actor=actor, reason=job.reason)
    session.flush()
    return list(expired)


def windows(session: Session) -> list[str]:
    """List the processing windows that claimable jobs carry, for the worker to say which of them are open."""
    claimable = Job.state.in_(inline(*CLAIMABLE))
    return list(session.scalars(select(Job.window).where(claimable, Job.window != "").distinct()))


def _insert_missing(session: Session, table: type[Model] | type[Job], **values: Any) -> bool:
    """Insert a row unless a unique constraint forbids it; return whether it was inserted."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(values).on_conflict_do_nothing()
    return session.execute(statement.returning(literal(1))).one_or_none() is not None


def _update_held(session: Session, job: Held, result: InstrumentedAttribute[Any], **values: Any) -> Any:
    """Set values in one statement if the lease still holds, and return the column ``result``."""
    row = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.lease_owner == job.lease_owner, Job.state == JobState.RUNNING)
        .values(values)
        .returning(result),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if row is None:
        raise LeaseLost(job)
    return row[0]
