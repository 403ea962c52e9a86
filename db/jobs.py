"""What is to be done: models by digest, jobs under leases, and the event rows of every transition."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from voxtrial.db.base import Base, utc_now
from voxtrial.db.states import JobState

# Partial indexes leave out what has succeeded: they stay as small as the backlog and the dead letters. None
# covers the state of every job, because SQLite would take it and sort the backlog at every claim.
_CLAIMABLE = text("state IN ('QUEUED', 'WAITING')")
_RUNNING = text("state IN ('RUNNING')")
_ENDED_WITHOUT_RESULT = text("state IN ('REFUSED', 'DEAD', 'CANCELLED', 'SUPERSEDED')")


class Model(Base):
    """A locked model as jobs name it: by digest. The manifest is kept so that a report can print it."""

    __tablename__ = "models"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), index=True)
    version: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(default=dict)
    added_at: Mapped[datetime] = mapped_column(default=utc_now)


class Job(Base):
    """One model over one study version: at most one row ever, which the unique constraint enforces."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("study_version_id", "model_digest", "recipe_digest"),
        Index("ix_jobs_claimable", "due_at", "id", sqlite_where=_CLAIMABLE, postgresql_where=_CLAIMABLE),
        Index("ix_jobs_running", "model_digest", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
        Index(
            "ix_jobs_ended_without_result",
            *("state", "id"),
            sqlite_where=_ENDED_WITHOUT_RESULT,
            postgresql_where=_ENDED_WITHOUT_RESULT,
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_version_id: Mapped[int] = mapped_column(ForeignKey("study_versions.id"))
    model_digest: Mapped[str] = mapped_column(ForeignKey("models.digest"))
    model_name: Mapped[str] = mapped_column(String(128))
    recipe_digest: Mapped[str] = mapped_column(String(64))
    destinations: Mapped[list[Any]] = mapped_column(default=list)
    state: Mapped[str] = mapped_column(String(16), default=JobState.QUEUED.value)
    priority: Mapped[int] = mapped_column(default=1)
    """0 urgent, 1 routine, 2 batch."""
    window: Mapped[str] = mapped_column(String(64), default="")
    concurrency: Mapped[int] = mapped_column(default=0)
    planned_peak_mib: Mapped[int] = mapped_column(default=0)
    gpus: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    available_at: Mapped[datetime] = mapped_column(default=utc_now)
    due_at: Mapped[datetime] = mapped_column(default=utc_now)
    """Order of claims: when it was queued, plus the head start that more urgent work has over it."""
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    step: Mapped[str] = mapped_column(String(64), default="")
    error_class: Mapped[str] = mapped_column(String(32), default="")
    rule: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    first_started_at: Mapped[datetime | None]
    """Start of the first attempt: the timestamp that result objects carry on every re-run."""
    finished_at: Mapped[datetime | None]
    seconds: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Seconds by pipeline step of the last attempt."""
    provenance: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Selected series by input role, recipe record, code version, device."""


class Offer(Base):
    """What a worker has for jobs, renewed while it lives: so that somebody can say why a job waits."""

    __tablename__ = "offers"

    worker: Mapped[str] = mapped_column(String(128), primary_key=True)
    memory_mib: Mapped[int]
    gpus: Mapped[int]
    expires_at: Mapped[datetime]


class Event(Base):
    """A transition that happened, written in the same transaction as the transition."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_subject_subject_id_id", "subject", "subject_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    subject: Mapped[str] = mapped_column(String(16))
    """``study``, ``job`` or ``delivery``."""
    subject_id: Mapped[int]
    before: Mapped[str] = mapped_column(String(16), default="")
    after: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(String(128), default="")
    reason: Mapped[str] = mapped_column(default="")
