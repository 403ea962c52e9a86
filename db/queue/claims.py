"""Who works on what: jobs are queued, claimed under a lease, kept alive, and taken back from the dead."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    String,
    any_,
    bindparam,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from voxtrial.db.jobs import Event, Job, Model
from voxtrial.db.queue.control import supersede_predecessors
from voxtrial.db.queue.leases import LeaseLost, inline
from voxtrial.db.queue.policy import HEAD_START, JOBS, RetryPolicy
from voxtrial.db.states import JOB_TRANSITIONS, JobState
from voxtrial.db.transitions import move, opened

CLAIMABLE = tuple(state for state, afters in JOB_TRANSITIONS.items() if JobState.RUNNING in afters)
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a worker can take on at the moment.

    Parameters
    ----------
    memory_mib
        Memory that no running job has planned for.
    memory_limit_mib
        Memory that the worker has in all. A job that plans for more is claimed, for the worker to say so.
    gpus
        Free GPUs.
    open_windows
        Processing windows (cron expressions, as the jobs carry them) that are open now.
    """

    memory_mib: int = NO_LIMIT
    memory_limit_mib: int = NO_LIMIT
    gpus: int = NO_LIMIT
    open_windows: Collection[str] = ()


ANYTHING = Capacity()


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


def claim(
    session: Session, worker: str, now: datetime, lease: timedelta, capacity: Capacity = ANYTHING
) -> Job | None:
    """Take the job that is due first among those that fit, hold it under a lease, and return it.

    Parameters
    ----------
    worker
        Name of the worker. The lease's owner is this name and a token that is new for every claim.
    """
    parameters = {
        "now": now,
        "owner": f"{worker}#{secrets.token_hex(4)}",
        "expires": now + lease,
        "windows": ["", *capacity.open_windows],
        "memory_mib": capacity.memory_mib,
        "memory_limit_mib": capacity.memory_limit_mib,
        "free_gpus": capacity.gpus,
    }
    if session.get_bind().dialect.name == "postgresql":
        return _take_at_once(session, parameters)
    return _take_in_turn(session, parameters)


def heartbeat(session: Session, job: Job, now: datetime, lease: timedelta) -> bool:
    """Prolong the lease; return whether somebody asked to cancel the job.

    Raises
    ------
    LeaseLost
        The job is not ours any more.
    """
    return bool(_update_held(session, job, Job.cancel_requested, lease_expires_at=now + lease))


def set_step(session: Session, job: Job, step: str) -> None:
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


def _update_held(session: Session, job: Job, result: InstrumentedAttribute[Any], **values: Any) -> Any:
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


def _take_in_turn(session: Session, parameters: dict[str, Any]) -> Job | None:
    """Claim where the transaction holds the one write lock: look, then change."""
    candidate = session.execute(_candidate(_is_among), {**parameters, "passed": [""]}).one_or_none()
    if candidate is None:
        return None
    job = session.get_one(Job, candidate.id, populate_existing=True)
    move(session, job, JobState.RUNNING, now=parameters["now"], actor=parameters["owner"])
    job.attempts += 1
    job.first_started_at = job.first_started_at or parameters["now"]
    job.lease_owner, job.lease_expires_at = parameters["owner"], parameters["expires"]
    job.step = ""
    session.flush()
    return job


def _take_at_once(session: Session, parameters: dict[str, Any]) -> Job | None:
    """Claim among many claimers, in one statement.

    A model with a limit takes a second one: two claimers that count its running jobs at the same time would
    both find room. The statement leaves such a candidate alone until this claimer holds the lock of its
    model, and passes over models that somebody else is claiming at this moment. The lock lasts until the
    claim can be seen: to the end of the transaction, or without one to the end of the statement.
    """
    options = session.connection().get_execution_options()
    without_transaction = options.get("isolation_level") == "AUTOCOMMIT"
    lock = func.pg_try_advisory_lock if without_transaction else func.pg_try_advisory_xact_lock
    locked: list[str] = []
    passed: list[str] = []
    try:
        while True:
            found = session.execute(
                _claim_statement(),
                {**parameters, "locked": locked, "passed": passed},
                execution_options={"populate_existing": True},
            ).one_or_none()
            if found is None or found[1] is not None:
                return found and found[1]
            is_ours = session.scalar(select(lock(func.hashtextextended(found[0], 0))))
            (locked if is_ours else passed).append(found[0])
    finally:
        for model in locked if without_transaction else ():
            session.execute(select(func.pg_advisory_unlock(func.hashtextextended(model, 0))))


def _is_among(column: InstrumentedAttribute[str], name: str) -> ColumnElement[bool]:
    """Compare with a parameter that holds several values, on databases that know no arrays."""
    return column.in_(bindparam(name, expanding=True))


def _is_any(column: InstrumentedAttribute[str], name: str) -> ColumnElement[bool]:
    """Compare with a parameter that is an array: text and plan of the statement stay the same."""
    return column == any_(bindparam(name, type_=ARRAY(String)))


@cache
def _candidate(
    among: Callable[[InstrumentedAttribute[str], str], ColumnElement[bool]],
) -> Select[int, str, str]:
    """Select the claimable job that is due first and fits."""
    running = aliased(Job)
    running_of_model = (
        select(func.count())
        .where(running.state.in_(inline(JobState.RUNNING)), running.model_digest == Job.model_digest)
        .correlate(Job)
        .scalar_subquery()
    )
    return (
        select(Job.id, Job.state, Job.model_digest)
        .where(
            Job.state.in_(inline(*CLAIMABLE)),
            Job.available_at <= bindparam("now"),
            among(Job.window, "windows"),
            or_(
                Job.planned_peak_mib <= bindparam("memory_mib"),
                Job.planned_peak_mib > bindparam("memory_limit_mib"),
            ),
            Job.gpus <= bindparam("free_gpus"),
            or_(Job.concurrency == 0, running_of_model < Job.concurrency),
            ~among(Job.model_digest, "passed"),
        )
        .order_by(Job.due_at, Job.id)
        .limit(1)
    )


@cache
def _claim_statement() -> Select[str, Job | None]:
    """Lock the candidate that no other claimer holds, move it to RUNNING, write the event.

    Returns the candidate's model, and the job unless the model has a limit and is not locked.
    """
    candidate = _candidate(_is_any).with_for_update(skip_locked=True).cte("candidate")
    claimed = (
        update(Job)
        .where(
            Job.id == candidate.c.id,
            or_(Job.concurrency == 0, _is_any(Job.model_digest, "locked")),
        )
        .values(
            state=JobState.RUNNING.value,
            attempts=Job.attempts + 1,
            first_started_at=func.coalesce(Job.first_started_at, bindparam("now", type_=Job.created_at.type)),
            lease_owner=bindparam("owner"),
            lease_expires_at=bindparam("expires"),
            step="",
        )
        .returning(*Job.__table__.columns)
        .cte("claimed")
    )
    event = select(
        bindparam("now", type_=Event.at.type),
        literal("job"),
        claimed.c.id,
        candidate.c.state,
        literal(JobState.RUNNING.value),
        bindparam("owner", type_=Event.actor.type),
        literal(""),
    ).where(candidate.c.id == claimed.c.id)
    columns = ["at", "subject", "subject_id", "before", "after", "actor", "reason"]
    written = insert(Event).from_select(columns, event).cte("written")
    found = candidate.outerjoin(claimed, candidate.c.id == claimed.c.id)
    return select(candidate.c.model_digest, aliased(Job, claimed)).select_from(found).add_cte(written)
