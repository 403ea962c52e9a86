"""The outbox: one row for each object and destination, sent, confirmed, sent again from the same bytes."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from voxtrial.db.queue.leases import LeaseLost, held_delivery, inline
from voxtrial.db.queue.policy import DELIVERIES, RetryPolicy
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState
from voxtrial.db.transitions import move

OPEN = (DeliveryState.PENDING, DeliveryState.WAITING, DeliveryState.SENT)
UNSENT = (DeliveryState.PENDING, DeliveryState.WAITING)


def claim_deliveries(
    session: Session,
    worker: str,
    now: datetime,
    lease: timedelta,
    *,
    destination: str = "",
    states: tuple[DeliveryState, ...] = OPEN,
    limit: int = 50,
) -> list[Delivery]:
    """Hold the open deliveries to one destination that are due, oldest first, under one lease.

    The destination is the given one, or that of the delivery that is due first. PENDING and WAITING ones are
    to be sent, SENT ones to be confirmed. A lease is no state: when it runs out, the delivery is simply due.
    """
    due = (
        select(Delivery)
        .where(
            Delivery.state.in_(inline(*OPEN)),
            Delivery.available_at <= now,
            or_(Delivery.lease_expires_at.is_(None), Delivery.lease_expires_at < now),
        )
        .order_by(Delivery.available_at, Delivery.id)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if states != OPEN:
        due = due.where(Delivery.state.in_(states))
    if not destination:
        first = session.scalars(due.limit(1)).one_or_none()
        if first is None:
            return []
        destination = first.destination
    deliveries = list(session.scalars(due.where(Delivery.destination == destination).limit(limit)))
    owner = f"{worker}#{secrets.token_hex(4)}"
    for delivery in deliveries:
        delivery.lease_owner, delivery.lease_expires_at = owner, now + lease
        delivery.attempts += delivery.state in UNSENT
    session.flush()
    return deliveries


def claim_delivery(session: Session, worker: str, now: datetime, lease: timedelta) -> Delivery | None:
    """Hold the open delivery that is due first."""
    deliveries = claim_deliveries(session, worker, now, lease, limit=1)
    return deliveries[0] if deliveries else None


def heartbeat_delivery(session: Session, delivery: Delivery, now: datetime, lease: timedelta) -> None:
    """Prolong the lease of a delivery.

    Raises
    ------
    LeaseLost
        The delivery is not ours any more.
    """
    held = update(Delivery).where(Delivery.id == delivery.id, Delivery.lease_owner == delivery.lease_owner)
    prolonged = session.execute(
        held.values(lease_expires_at=now + lease).returning(Delivery.id),
        execution_options={"synchronize_session": False},
    )
    if prolonged.one_or_none() is None:
        raise LeaseLost(delivery)


def mark_sent(
    session: Session,
    delivery: Delivery,
    *,
    now: datetime,
    transaction_uid: str = "",
    confirm_after: timedelta = timedelta(0),
) -> Delivery:
    """Record that the peer answered success; confirmation is due after ``confirm_after``.

    Raises
    ------
    LeaseLost
        The delivery is not ours any more.
    """
    row = held_delivery(session, delivery)
    actor = _release(row)
    row.sent_at, row.available_at = now, now + confirm_after
    row.transaction_uid, row.reason = transaction_uid, ""
    move(session, row, DeliveryState.SENT, now=now, actor=actor)
    session.flush()
    return row


def mark_confirmed(session: Session, delivery: Delivery, *, basis: str, now: datetime) -> Delivery:
    """Record that the peer committed the object or gave it back equal; ``basis`` says which.

    Raises
    ------
    LeaseLost
        The delivery is not ours any more.
    """
    row = held_delivery(session, delivery)
    actor = _release(row)
    row.confirmed_at, row.basis, row.reason = now, basis, ""
    move(session, row, DeliveryState.CONFIRMED, now=now, actor=actor, reason=basis)
    session.flush()
    return row


def defer_delivery(
    session: Session,
    delivery: Delivery,
    *,
    until: datetime,
    transaction_uid: str | None = None,
    reason: str = "",
) -> Delivery:
    """Give a delivery back unchanged, due again at ``until``: its confirmation has not arrived yet.

    Raises
    ------
    LeaseLost
        The delivery is not ours any more.
    """
    row = held_delivery(session, delivery)
    _release(row)
    row.available_at, row.reason = until, reason
    if transaction_uid is not None:
        row.transaction_uid = transaction_uid
    session.flush()
    return row


def fail_delivery(
    session: Session,
    delivery: Delivery,
    *,
    permanent: bool,
    reason: str,
    now: datetime,
    policy: RetryPolicy = DELIVERIES,
) -> Delivery:
    """Let a delivery wait for its next attempt, or declare it DEAD.

    Parameters
    ----------
    permanent
        The peer would refuse the same bytes again.

    Raises
    ------
    LeaseLost
        The delivery is not ours any more.
    """
    row = held_delivery(session, delivery)
    actor = _release(row)
    since = session.get_one(ResultObject, row.result_object_id).created_at
    exhausted = policy.exhausted(attempts=row.attempts, since=since, now=now)
    row.reason = f"{reason} ({exhausted})" if exhausted else reason
    row.transaction_uid = ""
    if permanent or exhausted:
        move(session, row, DeliveryState.DEAD, now=now, actor=actor, reason=row.reason)
    else:
        row.available_at = now + policy.delay(key=row.id, attempts=row.attempts)
        if row.state != DeliveryState.WAITING:
            move(session, row, DeliveryState.WAITING, now=now, actor=actor, reason=row.reason)
    session.flush()
    return row


def retry_delivery(
    session: Session, delivery_id: int, *, now: datetime, actor: str, reason: str = ""
) -> Delivery:
    """Send a DEAD or CANCELLED delivery again, from the same bytes.

    Raises
    ------
    ForbiddenTransition
        The delivery is in another state.
    """
    row = _locked(session, delivery_id)
    move(session, row, DeliveryState.PENDING, now=now, actor=actor, reason=reason)
    row.attempts, row.available_at, row.reason = 0, now, ""
    _release(row)
    session.flush()
    return row


def cancel_delivery(
    session: Session, delivery_id: int, *, now: datetime, actor: str, reason: str = ""
) -> Delivery:
    """Stop a delivery that has not been sent; whoever is sending it has lost it.

    Raises
    ------
    ForbiddenTransition
        The delivery has been sent, or is finished.
    """
    row = _locked(session, delivery_id)
    row.reason = reason or f"Cancelled by {actor}."
    move(session, row, DeliveryState.CANCELLED, now=now, actor=actor, reason=row.reason)
    _release(row)
    session.flush()
    return row


def _locked(session: Session, delivery_id: int) -> Delivery:
    return session.get_one(Delivery, delivery_id, with_for_update=True, populate_existing=True)


def _release(row: Delivery) -> str:
    """End the lease and return who held it."""
    owner = row.lease_owner
    row.lease_owner, row.lease_expires_at = "", None
    return owner
