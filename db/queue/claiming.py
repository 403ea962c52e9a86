"""Who works on what: take the job that is due first among those that fit, under a lease.

Everything here is Core: a claim is the one query that grows with the number of workers. It is also the one
transition that ``transitions.move`` does not make: on PostgreSQL state and event are parts of one statement,
which no row in a session can be, and SQLite's way writes the same two rows. The table of transitions is asked
all the same, through ``CLAIMABLE``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Select,
    String,
    Update,
    any_,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from voxtrial.db.base import Base
from voxtrial.db.engine import WITHOUT_TRANSACTION
from voxtrial.db.jobs import Event, Job
from voxtrial.db.queue.leases import HELD, Held, inline
from voxtrial.db.states import JOB_TRANSITIONS, JobState

CLAIMABLE = tuple(state for state, afters in JOB_TRANSITIONS.items() if JobState.RUNNING in afters)
NO_LIMIT = 2**31 - 1
JOBS = Base.metadata.tables[Job.__tablename__]
EVENTS = Base.metadata.tables[Event.__tablename__]
(RUNNING,) = inline(JobState.RUNNING)
NOTHING = literal_column("''", String)
ZERO = literal_column("0", Integer)
"""Constants stand in the text of a statement: each parameter would be sent anew with every claim."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a worker can take on at the moment. It leaves what does not fit to others: see ``offers``.

    Parameters
    ----------
    memory_mib
        Memory that no running job has planned for.
    gpus
        Free GPUs.
    open_windows
        Processing windows (cron expressions, as the jobs carry them) that are open now.
    """

    memory_mib: int = NO_LIMIT
    gpus: int = NO_LIMIT
    open_windows: Collection[str] = ()


ANYTHING = Capacity()


def claim(
    session: Session, worker: str, now: datetime, lease: timedelta, capacity: Capacity = ANYTHING
) -> Held | None:
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
        "free_gpus": capacity.gpus,
    }
    if session.get_bind().dialect.name == "postgresql":
        return _take_at_once(session, parameters)
    return _take_in_turn(session, parameters)


def _take_in_turn(session: Session, parameters: dict[str, Any]) -> Held | None:
    """Claim where the transaction holds the one write lock: look, then change."""
    candidate = session.execute(_candidate(_is_among), {**parameters, "passed": [""]}).one_or_none()
    if candidate is None:
        return None
    claimed = session.execute(_to_running().where(JOBS.c.id == candidate.id), parameters).one()
    session.execute(
        insert(EVENTS),
        {
            "at": parameters["now"],
            "subject": "job",
            "subject_id": candidate.id,
            "before": candidate.state,
            "after": JobState.RUNNING.value,
            "actor": parameters["owner"],
        },
    )
    return Held(*claimed)


def _take_at_once(session: Session, parameters: dict[str, Any]) -> Held | None:
    """Claim among many claimers, in one statement.

    A model with a limit takes a second one: two claimers that count its running jobs at the same time would
    both find room. The statement leaves such a candidate alone until this claimer holds the lock of its
    model, and passes over models that somebody else is claiming at this moment. The lock lasts until the
    claim can be seen: to the end of the transaction, or without one until it is given back.
    """
    without_transaction = session.connection().get_execution_options().get(WITHOUT_TRANSACTION, False)
    lock = func.pg_try_advisory_lock if without_transaction else func.pg_try_advisory_xact_lock
    locked: list[str] = []
    passed: list[str] = []
    try:
        while True:
            found = session.execute(
                _claim_statement(), {**parameters, "locked": locked, "passed": passed}
            ).one_or_none()
            if found is None:
                return None
            model, *claimed = found
            if claimed[0] is not None:
                return Held(*claimed)
            is_ours = session.scalar(select(lock(func.hashtextextended(model, 0))))
            (locked if is_ours else passed).append(model)
    finally:
        for model in locked if without_transaction else ():
            session.execute(select(func.pg_advisory_unlock(func.hashtextextended(model, 0))))


def _is_among(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Compare with a parameter that holds several values, on databases that know no arrays."""
    return column.in_(bindparam(name, expanding=True))


def _is_any(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Compare with a parameter that is an array: text and plan of the statement stay the same."""
    return column == any_(bindparam(name, type_=ARRAY(String)))


@cache
def _candidate(
    among: Callable[[ColumnElement[str], str], ColumnElement[bool]],
) -> Select[Any]:
    """Select the claimable job that is due first and fits."""
    running = JOBS.alias()
    running_of_model = (
        select(func.count())
        .where(running.c.state.in_([RUNNING]), running.c.model_digest == JOBS.c.model_digest)
        .correlate(JOBS)
        .scalar_subquery()
    )
    return (
        select(JOBS.c.id, JOBS.c.state, JOBS.c.model_digest)
        .where(
            JOBS.c.state.in_(inline(*CLAIMABLE)),
            JOBS.c.available_at <= bindparam("now"),
            among(JOBS.c.window, "windows"),
            JOBS.c.planned_peak_mib <= bindparam("memory_mib"),
            JOBS.c.gpus <= bindparam("free_gpus"),
            or_(JOBS.c.concurrency == ZERO, running_of_model < JOBS.c.concurrency),
            ~among(JOBS.c.model_digest, "passed"),
        )
        .order_by(JOBS.c.due_at, JOBS.c.id)
        .limit(literal_column("1"))
    )


@cache
def _to_running() -> Update:
    """Move jobs to RUNNING under the lease, and return what their worker needs."""
    return (
        update(JOBS)
        .values(
            state=RUNNING,
            attempts=JOBS.c.attempts + literal_column("1"),
            first_started_at=func.coalesce(
                JOBS.c.first_started_at, bindparam("now", type_=JOBS.c.first_started_at.type)
            ),
            lease_owner=bindparam("owner"),
            lease_expires_at=bindparam("expires"),
            step=NOTHING,
        )
        .returning(*(JOBS.c[name] for name in HELD))
    )


@cache
def _claim_statement() -> Select[Any]:
    """Lock the candidate that no other claimer holds, move it to RUNNING, write the event.

    Returns the candidate's model, and what is held unless the model has a limit and is not locked.
    """
    candidate = _candidate(_is_any).with_for_update(skip_locked=True).cte("candidate")
    claimed = (
        _to_running()
        .where(
            JOBS.c.id == candidate.c.id,
            or_(JOBS.c.concurrency == ZERO, _is_any(JOBS.c.model_digest, "locked")),
        )
        .cte("claimed")
    )
    event = {
        "at": bindparam("now", type_=EVENTS.c.at.type),
        "subject": literal_column("'job'", String),
        "subject_id": claimed.c.id,
        "before": candidate.c.state,
        "after": RUNNING,
        "actor": bindparam("owner", type_=EVENTS.c.actor.type),
        "reason": NOTHING,
    }
    columns = select(*event.values()).where(candidate.c.id == claimed.c.id)
    written = insert(EVENTS).from_select(list(event), columns).cte("written")
    found = candidate.outerjoin(claimed, candidate.c.id == claimed.c.id)
    return select(candidate.c.model_digest, *claimed.c).select_from(found).add_cte(written)
