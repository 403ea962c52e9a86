"""Send result objects that are due, and confirm those that were sent.

A delivery is CONFIRMED when the peer gave the object back equal, or committed itself to it, or both, as the
destination asks. What a peer answers decides what happens next: see ``network.status``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy.orm import Session, sessionmaker

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network import commitment, scu
from voxtrial.daemon.network.scu import Peer, StoreOutcome
from voxtrial.daemon.network.status import Verdict
from voxtrial.daemon.services.readback import ReadBack, read_back
from voxtrial.daemon.settings import Destination, Settings
from voxtrial.db import queue
from voxtrial.db.queue import LeaseLost
from voxtrial.db.queue.deliveries import UNSENT
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=2)
BATCH = 10
"""Deliveries under one lease: few enough to be sent within it, so that a killed sender holds little up."""
COMMITMENT_WAIT_SECONDS = 2.0
COMMITMENT_POLL = timedelta(seconds=5)
COMMITMENT_PATIENCE = timedelta(minutes=5)
"""After this without a report the request is repeated, or the read-back decides alone."""


class Deliverer:
    """The duty that empties the outbox.

    Parameters
    ----------
    name
        Name of this process in leases and events.
    """

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], name: str) -> None:
        self._settings = settings
        self._sessions = sessions
        self._name = name

    def run_once(self, now: datetime) -> int:
        """Send and confirm what is due at ``now``; return how many deliveries were touched."""
        touched = 0
        while batch := self._claim(now, UNSENT):
            self._send(batch, now)
            touched += len(batch)
        while batch := self._claim(now, (DeliveryState.SENT,)):
            self._confirm(batch, now)
            touched += len(batch)
        return touched

    def _claim(self, now: datetime, states: tuple[DeliveryState, ...]) -> list[tuple[Delivery, ResultObject]]:
        with self._sessions.begin() as session:
            claimed = queue.claim_deliveries(session, self._name, now, LEASE, states=states, limit=BATCH)
            return [(d, session.get_one(ResultObject, d.result_object_id)) for d in claimed]

    def _send(self, batch: Sequence[tuple[Delivery, ResultObject]], now: datetime) -> None:
        destination = self._destination(batch, now)
        if destination is None:
            return
        paths = [self._settings.site.data / stored.path for _, stored in batch]
        ae_title = self._settings.listener.ae_title
        for (delivery, _), outcome in zip(
            batch, scu.store(paths, peer_of(destination), ae_title=ae_title), strict=True
        ):
            log.info(
                "delivery %d to %s: %s %s", delivery.id, destination.name, outcome.verdict, outcome.reason
            )
            with self._holding(delivery) as session:
                self._record_sent(session, delivery, outcome, now)

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

    def _confirm(self, batch: Sequence[tuple[Delivery, ResultObject]], now: datetime) -> None:
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
                    queue.defer_delivery(session, delivery, until=now + COMMITMENT_POLL, reason=str(error))
            return
        for delivery, stored in open_deliveries:
            with self._holding(delivery) as session:
                self._record_confirmed(
                    session, delivery, held.get(stored.sop_instance_uid), reports.get(delivery.id, ""), now
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
            peer_of(destination),
            ae_title=self._settings.listener.ae_title,
        )

    def _commitments(
        self, batch: Sequence[tuple[Delivery, ResultObject]], destination: Destination, now: datetime
    ) -> dict[int, str]:
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

    def _request(
        self, fresh: Sequence[tuple[Delivery, ResultObject]], destination: Destination, now: datetime
    ) -> dict[int, str]:
        try:
            transaction, report = commitment.request(
                [(o.sop_class_uid, o.sop_instance_uid) for _, o in fresh],
                peer_of(destination),
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

    def _destination(
        self, batch: Sequence[tuple[Delivery, ResultObject]], now: datetime
    ) -> Destination | None:
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


def peer_of(destination: Destination) -> Peer:
    """Return the node behind a destination."""
    return Peer(destination.host, destination.port, destination.ae_title, destination.tls)
