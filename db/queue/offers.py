"""What the workers that live have for jobs."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Offer


def offer(
    session: Session, worker: str, *, memory_mib: int, gpus: int, now: datetime, lease: timedelta
) -> None:
    """Say what a worker has in all; the word holds for ``lease``. Forget the workers whose word does not."""
    session.execute(delete(Offer).where(Offer.expires_at < now))
    values = {"memory_mib": memory_mib, "gpus": gpus, "expires_at": now + lease}
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Offer).values(worker=worker, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Offer.worker], set_=values))


def withdraw(session: Session, worker: str) -> None:
    """Say that a worker has stopped."""
    session.execute(delete(Offer).where(Offer.worker == worker))


def offers(session: Session, now: datetime) -> list[Offer]:
    """Return what the workers that live have."""
    return list(session.scalars(select(Offer).where(Offer.expires_at >= now).order_by(Offer.worker)))
