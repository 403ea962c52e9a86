"""Send result objects that are due, and confirm those that were sent.

A delivery is CONFIRMED when the peer gave the object back equal, or committed itself to it, or both, as the
destination asks. What a peer answers decides what happens next: see ``network.status``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network import commitment, scu
from voxtrial.daemon.network.address import node_of
from voxtrial.daemon.network.scu import StoreOutcome
from voxtrial.daemon.network.status import Verdict
from voxtrial.daemon.services.leasing import kept
from voxtrial.daemon.services.readback import ReadBack, read_back
from voxtrial.daemon.settings import Destination, Settings
from voxtrial.db import queue
from voxtrial.db.jobs import Job
from voxtrial.db.queue import LeaseLost
from voxtrial.db.queue.deliveries import UNSENT
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState

log = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
"""Prolonged for as long as the peer takes; what a killed sender held is due again after it."""
BATCH = 10
"""Deliveries of one association."""
COMMITMENT_WAIT_SECONDS = 2.0
COMMITMENT_POLL = timedelta(seconds=5)
COMMITMENT_PATIENCE = timedelta(minutes=5)
"""After this without a report the request is repeated, or the read-back decides alone."""

Batch = Sequence[tuple[Delivery, ResultObject]]


class _Clock:
    """Time that goes on from a given moment."""

    def __init__(self, now: datetime) -> None:
        self._now, self._begun = now, time.monotonic()

    def __call__(self) -> datetime:
        return self._now + timedelta(seconds=time.monotonic() - self._begun)


class Deliverer:
    """The duty that empties the outbox.

    Parameters
    ----------
    name
        Name of this process in leases and events.
    destination
        Serve this one alone, so that a slow one holds up nobody else; empty: whichever is due first.
    """

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], name: str, *, destination: str = ""
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._name = name
        self._destination_name = destination

    def run_once(self, now: datetime) -> int:
        """Send and confirm what is due; return how many deliveries were touched.

        Parameters
        ----------
        now
            Time at the start: a slow peer may keep us for minutes, in which it goes on.
        """
        clock = _Clock(now)
        touched = 0
        for states, handle in ((UNSENT, self._send), ((DeliveryState.SENT,), self._confirm)):
            begun = clock()
            while batch := self._claim(begun, clock, states):
                with kept([d for d, _ in batch], self._sessions, lease=LEASE, clock=clock):
                    handle(batch, clock)
                touched += len(batch)
        return touched

    def _claim(self, begun: datetime, clock: _Clock, states: tuple[DeliveryState, ...]) -> Batch:
        """Take what was due when the pass began, so that nothing is tried twice; the lease begins now."""
        with self._sessions.begin() as session:
            claimed = queue.claim_deliveries(
                session,
                self._name,
                begun,
                clock() - begun + LEASE,
                destination=self._destination_name,
                states=states,
                limit=BATCH,
            )
            return [(d, session.get_one(ResultObject, d.result_object_id)) for d in claimed]

    def _send(self, batch: Batch, clock: _Clock) -> None:
        destination = self._destination(batch, clock())
        if destination is None:
            return
        data = self._settings.site.data
        deliveries = {data / stored.path: delivery for delivery, stored in batch}

        def may_be_sent(path: Path) -> bool:
            return self._may_be_sent(deliveries[path], clock())

        for outcome in scu.store_each(
            list(deliveries),
            node_of(destination),
            ae_title=self._settings.listener.ae_title,
            still_wanted=may_be_sent,
        ):
            delivery = deliveries[outcome.path]
            log.info(
                "delivery %d to %s: %s %s", delivery.id, destination.name, outcome.verdict, outcome.reason
            )
            with self._holding(delivery) as session:
                self._record_sent(session, delivery, outcome, clock())

    def _may_be_sent(self, delivery: Delivery, now: datetime) -> bool:
        """Return whether the delivery is still ours, and its job not superseded while it waited."""
        may = False
        with self._holding(delivery) as session:
            queue.heartbeat_delivery(session, delivery, now, LEASE)
            stored = session.get_one(ResultObject, delivery.result_object_id)
            job = session.get_one(Job, stored.job_id)
            may = job.state != JobState.SUPERSEDED
            if not may:
                queue.cancel_delivery(session, delivery.id, now=now, actor=self._name, reason=job.reason)
        return may

    @staticmethod
    def _record_sent(session: Session, delivery: Delivery, outcome: StoreOutcome, now: datetime) -> None:
        if outcome.stored:
            queue.mark_sent(session, delivery, now=now)
            return
        # A wrong AE title or an unknown caller is a matter of configuration: sent again when it is mended.
        permanent = outcome.verdict in (Verdict.PERMANENT, Verdict.OTHER_ENCODING)
        status = "no answer" if outcome.status is None else f"status {outcome.status:04X}"
        reason = f"{outcome.reason} ({status})" if outcome.reason else status
        queue.fail_delivery(session, delivery, permanent=permanent, reason=reason, now=now)

    def _confirm(self, batch: Batch, clock: _Clock) -> None:
        now = clock()
        destination = self._destination(batch, now)
        if destination is None:
            return
        try:
            reports = self._commitments(batch, destination, now) if destination.commitment else {}
            open_deliveries = [(d, o) for d, o in batch if reports.get(d.id) != _PENDING]
            held = self._read_back([o for _, o in open_deliveries], destination)
        except Retryable as error:
            for delivery, _ in batch:
                with self._holding(delivery) as session:
                    until = clock() + COMMITMENT_POLL
                    queue.defer_delivery(session, delivery, until=until, reason=str(error))
            return
        for delivery, stored in open_deliveries:
            with self._holding(delivery) as session:
                self._record_confirmed(
                    session,
                    delivery,
                    held.get(stored.sop_instance_uid),
                    reports.get(delivery.id, ""),
                    clock(),
                )

    @staticmethod
    def _record_confirmed(
        session: Session, delivery: Delivery, held: ReadBack | None, committed: str, now: datetime
    ) -> None:
        """Confirm, or send again: a missing object is sent again, a different one is for a person."""
        if held is not None and held.problem:
            permanent = "another object" in held.problem
            queue.fail_delivery(session, delivery, permanent=permanent, reason=held.problem, now=now)
        elif committed.startswith(_REFUSED):
            queue.fail_delivery(session, delivery, permanent=False, reason=committed, now=now)
        else:
            bases = [b for b in (held.basis if held else "", committed) if b]
            queue.mark_confirmed(session, delivery, basis="+".join(bases) or "c-store", now=now)

    def _read_back(self, objects: Sequence[ResultObject], destination: Destination) -> dict[str, ReadBack]:
        if not destination.read_back or not objects:
            return {}
        return read_back(
            objects,
            self._settings.site.data,
            node_of(destination),
            ae_title=self._settings.listener.ae_title,
        )

    def _commitments(self, batch: Batch, destination: Destination, now: datetime) -> dict[int, str]:
        """Return the word on each delivery: committed, refused, none, or pending (then it is deferred)."""
        answers: dict[int, str] = {}
        asked = [(d, o) for d, o in batch if d.transaction_uid]
        fresh = [(d, o) for d, o in batch if not d.transaction_uid]
        for delivery, stored in asked:
            with self._sessions() as session:
                report = commitment.reported(session, delivery.transaction_uid)
            if report is None and now - (delivery.sent_at or now) < COMMITMENT_PATIENCE:
                self._defer(delivery, delivery.transaction_uid, now, _AWAITED)
                answers[delivery.id] = _PENDING
            else:
                answers[delivery.id] = _word(report, stored)
        if fresh:
            answers |= self._request(fresh, destination, now)
        return answers

    def _request(self, fresh: Batch, destination: Destination, now: datetime) -> dict[int, str]:
        try:
            transaction, report = commitment.request(
                [(o.sop_class_uid, o.sop_instance_uid) for _, o in fresh],
                node_of(destination),
                ae_title=self._settings.listener.ae_title,
                wait_seconds=COMMITMENT_WAIT_SECONDS,
            )
        except Fatal as error:
            log.info("%s: %s", destination.name, error)
            return {d.id: "" for d, _ in fresh}
        except Retryable as error:
            # A PACS that does not know our AE title aborts: the read-back must not wait for it for ever.
            patient = [d for d, _ in fresh if now - (d.sent_at or now) < COMMITMENT_PATIENCE]
            for delivery in patient:
                self._defer(delivery, "", now, str(error))
            return {d.id: _PENDING if d in patient else "" for d, _ in fresh}
        if report is not None:
            return {d.id: _word(report, o) for d, o in fresh}
        for delivery, _ in fresh:
            self._defer(delivery, transaction, now, _AWAITED)
        return {d.id: _PENDING for d, _ in fresh}

    def _defer(self, delivery: Delivery, transaction_uid: str, now: datetime, reason: str) -> None:
        with self._holding(delivery) as session:
            queue.defer_delivery(
                session,
                delivery,
                until=now + COMMITMENT_POLL,
                transaction_uid=transaction_uid,
                reason=reason,
            )

    def _destination(self, batch: Batch, now: datetime) -> Destination | None:
        """Return the destination of a batch; without one the deliveries are DEAD until it is configured."""
        try:
            return self._settings.destination(batch[0][0].destination)
        except Misconfigured as error:
            for delivery, _ in batch:
                with self._holding(delivery) as session:
                    queue.fail_delivery(session, delivery, permanent=True, reason=str(error), now=now)
            return None

    @contextmanager
    def _holding(self, delivery: Delivery) -> Iterator[Session]:
        """Change a delivery in a transaction of its own; when its lease is lost, somebody else has it."""
        try:
            with self._sessions.begin() as session:
                yield session
        except LeaseLost:
            log.warning("delivery %d was taken by another process", delivery.id)


_PENDING = "pending"
_AWAITED = "waiting for the commitment report"
_REFUSED = "commitment refused"


def _word(report: commitment.CommitmentReport | None, stored: ResultObject) -> str:
    if report is None:
        return ""
    if stored.sop_instance_uid in report.committed:
        return "commitment"
    reason = report.failed.get(stored.sop_instance_uid)
    return f"{_REFUSED}: reason {reason:04X}" if reason is not None else f"{_REFUSED}: not listed"
