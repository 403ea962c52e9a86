"""Move a row from one state to the next: ask the table, write the event, in the caller's transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from voxtrial.db.jobs import Event, Job
from voxtrial.db.results import Delivery
from voxtrial.db.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    STUDY_TRANSITIONS,
    DeliveryState,
    JobState,
    StudyState,
    require,
)
from voxtrial.db.studies import StudyVersion

Subject = StudyVersion | Job | Delivery


def subject_of(row: Subject) -> str:
    """Return the name under which the events of this row stand."""
    if isinstance(row, StudyVersion):
        return "study"
    return "job" if isinstance(row, Job) else "delivery"


def opened(session: Session, row: Subject, *, now: datetime, actor: str, reason: str = "") -> None:
    """Write the event of a row that has just come into being; flushes it first, so that it has an id."""
    session.flush()
    session.add(_event(row, "", row.state, now=now, actor=actor, reason=reason))


def move(
    session: Session,
    row: Subject,
    after: StudyState | JobState | DeliveryState,
    *,
    now: datetime,
    actor: str,
    reason: str = "",
) -> None:
    """Set the state of a row that the caller has locked, and write the event.

    Raises
    ------
    ForbiddenTransition
        The table of this kind of row does not list the transition.
    """
    if isinstance(row, StudyVersion):
        require(STUDY_TRANSITIONS, StudyState(row.state), StudyState(after))
    elif isinstance(row, Job):
        require(JOB_TRANSITIONS, JobState(row.state), JobState(after))
    else:
        require(DELIVERY_TRANSITIONS, DeliveryState(row.state), DeliveryState(after))
    session.add(_event(row, row.state, after.value, now=now, actor=actor, reason=reason))
    row.state = after.value


def _event(row: Subject, before: str, after: str, *, now: datetime, actor: str, reason: str) -> Event:
    return Event(
        at=now,
        subject=subject_of(row),
        subject_id=row.id,
        before=before,
        after=after,
        actor=actor,
        reason=reason,
    )
