"""What the statistics read: reference standards, clinical outcomes, protocols, validation runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from voxtrial.db.base import Base, utc_now


class ReferenceReading(Base):
    """What one reader said of one study: a mask on disk, a value, or a class.

    A correction is a new row with the next version; nothing is overwritten.
    """

    __tablename__ = "reference_readings"
    __table_args__ = (
        UniqueConstraint(
            *("study_instance_uid", "reader", "kind", "label", "version"),
            name="uq_reference_readings_reading",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(64), default="")
    """Patient, as the statistics group by it; pseudonymised where the source is."""
    site: Mapped[str] = mapped_column(String(64), default="")
    """Scanner or site factor of the study, when the truth names one."""
    reader: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    """``mask``, ``value`` or ``class``."""
    label: Mapped[str] = mapped_column(String(64), default="")
    version: Mapped[int] = mapped_column(default=1)
    adjudicated: Mapped[bool] = mapped_column(default=False)
    value: Mapped[float | None]
    unit: Mapped[str] = mapped_column(String(32), default="")
    path: Mapped[str] = mapped_column(default="")
    """Mask below the data folder."""
    sha256: Mapped[str] = mapped_column(String(64), default="")
    source: Mapped[str] = mapped_column(String(255), default="")
    imported_at: Mapped[datetime] = mapped_column(default=utc_now)


class ClinicalOutcome(Base):
    """What happened to a patient: an event or censoring after some days."""

    __tablename__ = "clinical_outcomes"
    __table_args__ = (UniqueConstraint("subject", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(64))
    value: Mapped[float | None]
    time_days: Mapped[float | None]
    event: Mapped[bool | None]
    imported_at: Mapped[datetime] = mapped_column(default=utc_now)


class Protocol(Base):
    """An analysis plan as registered: locked by its digest before the first outcome is read."""

    __tablename__ = "protocols"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(128), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    document: Mapped[dict[str, Any]]
    registered_at: Mapped[datetime] = mapped_column(default=utc_now)
    first_outcome_access_at: Mapped[datetime | None]


class ValidationRun(Base):
    """One report made from one protocol."""

    __tablename__ = "validation_runs"

    id: Mapped[int] = mapped_column(primary_key=True)
    protocol_id: Mapped[int] = mapped_column(ForeignKey("protocols.id"), index=True)
    cohort_digest: Mapped[str] = mapped_column(String(64))
    report_sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=utc_now)
