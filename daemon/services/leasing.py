"""Keep deliveries ours for as long as a peer takes: a thread prolongs their leases beside the sending."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from voxtrial.db import queue
from voxtrial.db.queue import LeaseLost
from voxtrial.db.results import Delivery

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 3


@contextmanager
def kept(
    deliveries: Sequence[Delivery],
    sessions: sessionmaker[Session],
    *,
    lease: timedelta,
    clock: Callable[[], datetime],
) -> Iterator[None]:
    """Prolong the leases of ``deliveries`` until the block ends.

    A delivery that was marked in the meantime, cancelled, or taken by somebody else is let go.
    """
    done = threading.Event()
    held = list(deliveries)

    def beat() -> None:
        while held and not done.wait(lease.total_seconds() / BEATS_PER_LEASE):
            held[:] = [delivery for delivery in held if _prolonged(delivery, sessions, clock(), lease)]

    thread = threading.Thread(target=beat, name="leases of deliveries", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _prolonged(delivery: Delivery, sessions: sessionmaker[Session], now: datetime, lease: timedelta) -> bool:
    """Return whether the delivery may still be ours."""
    try:
        with sessions.begin() as session:
            queue.heartbeat_delivery(session, delivery, now, lease)
    except LeaseLost:
        return False
    except SQLAlchemyError:
        log.warning("lease of delivery %d not prolonged: the database does not answer", delivery.id)
    return True
