"""What came out: result objects, their deliveries (the outbox), and measurements."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from voxtrial.db.base import Base, utc_now
from voxtrial.db.states import DeliveryState

# Partial indexes leave out what is confirmed; see the indexes of jobs.
_OPEN = text("state IN ('PENDING', 'WAITING', 'SENT')")
_STOPPED = text("state IN ('DEAD', 'CANCELLED')")


class ResultObject(Base):
    """An encoded DICOM object, kept before the first send: retries send the same bytes."""

    __tablename__ = "result_objects"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """``SEG``, ``SR``, ..."""
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    path: Mapped[str]
    """Below the data folder."""
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Delivery(Base):
    """One object on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("result_object_id", "destination"),
        Index("ix_deliveries_open", "available_at", "id", sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_deliveries_stopped", "state", "id", sqlite_where=_STOPPED, postgresql_where=_STOPPED),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    result_object_id: Mapped[int] = mapped_column(ForeignKey("result_objects.id"), index=True)
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), default=DeliveryState.PENDING.value)
    attempts: Mapped[int] = mapped_column(default=0)
    available_at: Mapped[datetime] = mapped_column(default=utc_now)
    lease_owner: Mapped[str] = mapped_column(String(128), default="")
    lease_expires_at: Mapped[datetime | None]
    transaction_uid: Mapped[str] = mapped_column(String(64), default="")
    """Storage commitment transaction in flight; survives a restart."""
    basis: Mapped[str] = mapped_column(String(32), default="")
    """What CONFIRMED rests on: ``read-back``, ``commitment``, or both joined by ``+``."""
    reason: Mapped[str] = mapped_column(default="")
    sent_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]


class Measurement(Base):
    """One number of one region, with the code that says what it is."""

    __tablename__ = "measurements"
    __table_args__ = (UniqueConstraint("job_id", "roi", "concept_scheme", "concept_code"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    roi: Mapped[int]
    """Finding within the job, from 1; 0 for the study as a whole."""
    tracking_id: Mapped[str] = mapped_column(String(64), default="")
    tracking_uid: Mapped[str] = mapped_column(String(64), default="")
    concept_code: Mapped[str] = mapped_column(String(64))
    concept_scheme: Mapped[str] = mapped_column(String(32))
    concept_meaning: Mapped[str] = mapped_column(String(128))
    unit: Mapped[str] = mapped_column(String(32))
    """UCUM."""
    value: Mapped[float]
