"""What came in: study versions, their instances and series, and what was quarantined."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from voxtrial.db.base import Base, utc_now
from voxtrial.db.states import StudyState

UID = String(64)


class StudyVersion(Base):
    """One closed or still open set of instances of a study.

    Version n holds every instance that joined in versions 1 to n: late instances open version n + 1, they
    never join a closed one. At most one version of a study is RECEIVING, which a unique index enforces.
    """

    __tablename__ = "study_versions"
    __table_args__ = (
        UniqueConstraint("study_instance_uid", "version"),
        Index(
            "uq_study_versions_receiving",
            "study_instance_uid",
            unique=True,
            sqlite_where=text("state = 'RECEIVING'"),
            postgresql_where=text("state = 'RECEIVING'"),
        ),
        Index("ix_study_versions_state_id", "state", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(UID)
    version: Mapped[int]
    predecessor_id: Mapped[int | None] = mapped_column(ForeignKey("study_versions.id"))
    state: Mapped[str] = mapped_column(String(16), default=StudyState.RECEIVING.value)
    reason: Mapped[str] = mapped_column(default="")
    rule: Mapped[str] = mapped_column(String(64), default="")
    """Rule that refused, as in ``errors.Refused.rule``; empty otherwise."""
    basis: Mapped[str] = mapped_column(String(32), default="")
    """What completeness rests on: ``quiet``, ``c-find``, ``qido``, ``cap``, ``import``."""
    instances: Mapped[int] = mapped_column(default=0)
    """Instances of this version, predecessors' included; written when it closes."""
    expected_instances: Mapped[int | None]
    missing_uids: Mapped[list[Any]] = mapped_column(default=list)
    patient_id: Mapped[str] = mapped_column(String(64), default="", index=True)
    issuer_of_patient_id: Mapped[str] = mapped_column(String(64), default="")
    accession_number: Mapped[str] = mapped_column(String(64), default="")
    study_date: Mapped[str] = mapped_column(String(8), default="")
    study_description: Mapped[str] = mapped_column(String(255), default="")
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    called_ae: Mapped[str] = mapped_column(String(16), default="")
    peer_address: Mapped[str] = mapped_column(String(64), default="")
    first_instance_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_instance_at: Mapped[datetime] = mapped_column(default=utc_now)
    closed_at: Mapped[datetime | None]


class Instance(Base):
    """One stored object; its row is committed before the sender hears success.

    Every index is one more page that each commit writes: a study's instances are found by its versions.
    """

    __tablename__ = "instances"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID, unique=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    study_instance_uid: Mapped[str] = mapped_column(UID)
    series_instance_uid: Mapped[str] = mapped_column(UID)
    study_version_id: Mapped[int] = mapped_column(ForeignKey("study_versions.id"), index=True)
    """Version that it joined in."""
    modality: Mapped[str] = mapped_column(String(16), default="")
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    path: Mapped[str]
    """Below the data folder."""
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the dataset as received, without preamble and file meta."""
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    received_at: Mapped[datetime] = mapped_column(default=utc_now)
    deleted_at: Mapped[datetime | None]
    """Pixel data left the disk by retention; the row stays."""


class Series(Base):
    """A series of a study version as the geometry gate saw it; written when the version closes."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_version_id", "series_instance_uid", "part"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_version_id: Mapped[int] = mapped_column(ForeignKey("study_versions.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(UID)
    part: Mapped[int] = mapped_column(default=0)
    """Volumes of one series (phases, acquisitions) count from 0."""
    modality: Mapped[str] = mapped_column(String(16), default="")
    description: Mapped[str] = mapped_column(String(255), default="")
    instances: Mapped[int] = mapped_column(default=0)
    accepted: Mapped[bool] = mapped_column(default=False)
    rule: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(default="")
    acquisition: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Quarantined(Base):
    """An object that was not taken: a conflicting duplicate, or a file that cannot be read."""

    __tablename__ = "quarantined"

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(UID, default="", index=True)
    path: Mapped[str]
    """Below the data folder; empty when nothing was kept."""
    sha256: Mapped[str] = mapped_column(String(64), default="")
    stored_sha256: Mapped[str] = mapped_column(String(64), default="")
    """Digest of the object that holds the UID."""
    reason: Mapped[str]
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    at: Mapped[datetime] = mapped_column(default=utc_now)
