"""How an attempt ends: one transaction writes the state, the event and everything that came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Job
from voxtrial.db.queue.leases import Held, held_job
from voxtrial.db.queue.policy import JOBS, RetryPolicy
from voxtrial.db.results import Delivery, Measurement, ResultObject
from voxtrial.db.states import JobState
from voxtrial.db.studies import StudyVersion
from voxtrial.db.transitions import move, opened


class ErrorClass(StrEnum):
    """What an error decides; ``jobs.error_class`` holds it."""

    REFUSED = "Refused"
    """This input is not for the model: the job is REFUSED."""
    RETRYABLE = "Retryable"
    """The world may improve: the job waits for its next attempt, while the policy allows one."""
    FATAL = "Fatal"
    """The same input will fail again: the job is DEAD until a person retries it."""


class DuplicateResult(RuntimeError):
    """Another job has stored an object under the same SOP Instance UID."""


def succeed(
    session: Session,
    job: Held,
    *,
    objects: Sequence[Mapping[str, Any]],
    measurements: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    provenance: Mapping[str, Any],
    now: datetime,
) -> Job:
    """Store what the job gave back, open one delivery for each object and destination, and finish the job.

    A repeated call under the same lease changes nothing: the first commit may have been done although its
    answer was lost.

    Parameters
    ----------
    objects
        Columns of ``ResultObject`` by name, without the job and the study; paths below the data folder.
        Deliveries are claimed in this order.
    measurements
        Columns of ``Measurement`` by name, without the job.
    seconds
        By pipeline step.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    DuplicateResult
        Another job has stored an object under the same SOP Instance UID.
    """
    stored = session.get(Job, job.id)
    if stored is not None and stored.state == JobState.SUCCEEDED and stored.lease_owner == job.lease_owner:
        return stored
    row = held_job(session, job)
    _forbid_duplicates(session, [values["sop_instance_uid"] for values in objects])
    study = session.get_one(StudyVersion, row.study_version_id)
    for values in objects:
        result = ResultObject(
            job_id=row.id, study_instance_uid=study.study_instance_uid, created_at=now, **values
        )
        session.add(result)
        session.flush()
        for destination in row.destinations:
            delivery = Delivery(result_object_id=result.id, destination=destination, available_at=now)
            session.add(delivery)
            opened(session, delivery, now=now, actor=row.lease_owner)
    session.add_all(Measurement(job_id=row.id, **values) for values in measurements)
    row.seconds, row.provenance = dict(seconds), dict(provenance)
    row.error_class = row.rule = row.reason = ""
    return _finish(session, row, JobState.SUCCEEDED, now=now)


def refuse(session: Session, job: Held, *, rule: str, reason: str, now: datetime) -> Job:
    """Finish a job whose input the model does not accept.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    row = held_job(session, job)
    row.error_class, row.rule, row.reason = ErrorClass.REFUSED.value, rule, reason
    return _finish(session, row, JobState.REFUSED, now=now)


def fail(
    session: Session,
    job: Held,
    *,
    error_class: ErrorClass,
    reason: str,
    rule: str = "",
    now: datetime,
    policy: RetryPolicy = JOBS,
) -> Job:
    """Let a failed job wait for its next attempt, or declare it DEAD.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    row = held_job(session, job)
    row.error_class, row.rule, row.reason = error_class.value, rule, reason
    if error_class is ErrorClass.REFUSED:
        return _finish(session, row, JobState.REFUSED, now=now)
    exhausted = policy.exhausted(attempts=row.attempts, since=row.due_at, now=now)
    if error_class is ErrorClass.FATAL:
        return _finish(session, row, JobState.DEAD, now=now)
    if exhausted:
        row.reason = f"{reason} ({exhausted})"
        return _finish(session, row, JobState.DEAD, now=now)
    row.available_at = now + policy.delay(key=row.id, attempts=row.attempts)
    return _leave(session, row, JobState.WAITING, now=now)


def release(session: Session, job: Held, *, reason: str, now: datetime) -> Job:
    """Give an unfinished job back, for another worker to take at once; the attempt does not count.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    row = held_job(session, job)
    row.attempts -= 1
    row.available_at, row.reason = now, reason
    return _leave(session, row, JobState.WAITING, now=now)


def cancelled(session: Session, job: Held, *, now: datetime) -> Job:
    """Finish a job whose cancellation its worker has carried out.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    return _finish(session, held_job(session, job), JobState.CANCELLED, now=now)


def _finish(session: Session, row: Job, after: JobState, *, now: datetime) -> Job:
    """End the job; its last owner stays on record."""
    row.finished_at = now
    return _leave(session, row, after, now=now)


def _leave(session: Session, row: Job, after: JobState, *, now: datetime) -> Job:
    reason = f"{row.rule}: {row.reason}" if row.rule else row.reason
    if row.step and after in (JobState.WAITING, JobState.DEAD):
        reason = f"{reason} (in step {row.step})"
    move(session, row, after, now=now, actor=row.lease_owner, reason=reason)
    row.lease_expires_at = None
    session.flush()
    return row


def _forbid_duplicates(session: Session, uids: Sequence[str]) -> None:
    taken = session.execute(
        select(ResultObject.sop_instance_uid, ResultObject.job_id)
        .where(ResultObject.sop_instance_uid.in_(uids))
        .limit(1)
    ).one_or_none()
    if taken is not None:
        raise DuplicateResult(f"{taken.sop_instance_uid} is a result of job {taken.job_id} already.")
