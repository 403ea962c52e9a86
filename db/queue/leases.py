"""Only the holder of a lease may finish the work."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import ColumnElement, String, literal_column
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery
from voxtrial.db.states import DeliveryState, JobState


@dataclass(frozen=True)
class Held:
    """A job under a lease: what its worker needs to run it, and to say that it is the holder."""

    id: int
    study_version_id: int
    model_digest: str
    model_name: str
    recipe_digest: str
    planned_peak_mib: int
    gpus: int
    attempts: int
    first_started_at: datetime
    lease_owner: str


HELD = tuple(field.name for field in fields(Held))


class LeaseLost(RuntimeError):
    """The work is not held under this lease any more: somebody took it back, cancelled or superseded it."""

    def __init__(self, row: Held | Delivery) -> None:
        kind = "Job" if isinstance(row, Held) else "Delivery"
        super().__init__(f"{kind} {row.id} is no longer held by {row.lease_owner}.")


def held_job(session: Session, job: Held) -> Job:
    """Lock and return the row of a job that is still RUNNING under the lease of ``job``.

    Raises
    ------
    LeaseLost
        It is not.
    """
    row = session.get(Job, job.id, with_for_update=True, populate_existing=True)
    if row is None or row.state != JobState.RUNNING or row.lease_owner != job.lease_owner:
        raise LeaseLost(job)
    return row


def held_delivery(session: Session, delivery: Delivery) -> Delivery:
    """Lock and return the row of a delivery that is still held under the lease of ``delivery``.

    Raises
    ------
    LeaseLost
        It is not.
    """
    owner = delivery.lease_owner  # `delivery` may be the very object that is refreshed on the next line
    row = session.get(Delivery, delivery.id, with_for_update=True, populate_existing=True)
    if row is None or not owner or row.lease_owner != owner:
        raise LeaseLost(delivery)
    return row


def inline(*states: JobState | DeliveryState) -> list[ColumnElement[str]]:
    """Return states that are written into the SQL text, so that a partial index on them can be used."""
    return [literal_column(f"'{state.value}'", String) for state in states]
