"""Who did what: append-only rows, each bound to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from sqlalchemy import String, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from voxtrial.db.base import Base, utc_now


class AuditRow(Base):
    """One action. ``hash`` covers the row and the hash before it, so that a changed row breaks the chain."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(128), default="")
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64), unique=True)


def record(session: Session, *, actor: str, action: str, subject: str = "", **detail: Any) -> AuditRow:
    """Append one row to the chain; it commits with the caller's transaction.

    Two writers take turns: SQLite's write lock and PostgreSQL's advisory lock hold until the commit.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(7861)"))
    previous = session.scalar(select(AuditRow.hash).order_by(AuditRow.id.desc()).limit(1)) or "0" * 64
    row = AuditRow(
        at=utc_now(), actor=actor, action=action, subject=subject, detail=detail, previous_hash=previous
    )
    row.hash = _digest(row)
    session.add(row)
    session.flush()
    return row


def first_broken(session: Session) -> int | None:
    """Return the id of the first row whose hash does not hold, or None when the whole chain does."""
    previous = "0" * 64
    for row in session.scalars(select(AuditRow).order_by(AuditRow.id)).yield_per(1000):
        if row.previous_hash != previous or row.hash != _digest(row):
            return row.id
        previous = row.hash
    return None


def _digest(row: AuditRow) -> str:
    body = [row.at.isoformat(), row.actor, row.action, row.subject, row.detail, row.previous_hash]
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
