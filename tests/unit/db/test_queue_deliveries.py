"""The outbox, each test on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rows import LEASE, MONDAY, history, job, result, study
from sqlalchemy import Engine

from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.results import Delivery
from voxtrial.db.states import DeliveryState, ForbiddenTransition

HOUR = timedelta(hours=1)


@pytest.fixture
def outbox(database: Engine) -> Engine:
    """Two objects of one job, each for ``pacs`` and ``research``."""
    with sessions(database).begin() as session:
        job(session, study(session), destinations=["pacs", "research"])
        claimed = queue.claim(session, "worker", MONDAY, LEASE)
        queue.succeed(
            session,
            claimed,
            objects=[result("2.25.501", "SEG"), result("2.25.502", "SR")],
            measurements=[],
            seconds={},
            provenance={},
            now=MONDAY,
        )
    return database


def claim(database: Engine, now=MONDAY, **options) -> list[Delivery]:
    with sessions(database).begin() as session:
        return queue.claim_deliveries(session, "deliverer", now, LEASE, **options)


def test_batch_holds_one_destination_in_the_order_of_the_objects(outbox: Engine) -> None:
    batches = [claim(outbox), claim(outbox), claim(outbox)]
    assert [[(d.destination, d.result_object_id) for d in batch] for batch in batches] == [
        [("pacs", 1), ("pacs", 2)],
        [("research", 1), ("research", 2)],
        [],
    ]
    assert [d.attempts for d in batches[0]] == [1, 1]


def test_batch_for_a_named_destination_and_state(outbox: Engine) -> None:
    assert claim(outbox, states=(DeliveryState.SENT,)) == []
    assert [d.destination for d in claim(outbox, destination="research", limit=1)] == ["research"]


def test_sent_delivery_is_claimed_again_for_confirmation(outbox: Engine) -> None:
    first = claim(outbox)[0]
    with sessions(outbox).begin() as session:
        queue.mark_sent(
            session, first, now=MONDAY, transaction_uid="2.25.3", confirm_after=timedelta(seconds=5)
        )
    assert first.id not in [d.id for d in claim(outbox, now=MONDAY + timedelta(seconds=4))]
    (sent,) = claim(outbox, now=MONDAY + timedelta(seconds=5), states=(DeliveryState.SENT,))
    assert (sent.id, sent.transaction_uid, sent.attempts) == (first.id, "2.25.3", 1)
    with sessions(outbox).begin() as session:
        confirmed = queue.mark_confirmed(session, sent, basis="read-back", now=MONDAY + HOUR)
    assert (confirmed.state, confirmed.basis) == ("CONFIRMED", "read-back")
    expected = [("", "PENDING"), ("PENDING", "SENT"), ("SENT", "CONFIRMED")]
    assert history(outbox, "delivery", first.id) == expected


def test_confirmation_that_has_not_arrived_is_deferred(outbox: Engine) -> None:
    first = claim(outbox)[0]
    with sessions(outbox).begin() as session:
        queue.mark_sent(session, first, now=MONDAY)
        sent = queue.claim_delivery(session, "deliverer", MONDAY, LEASE)
        queue.defer_delivery(session, sent, until=MONDAY + HOUR)
    assert claim(outbox, states=(DeliveryState.SENT,)) == []
    (deferred,) = claim(outbox, now=MONDAY + HOUR, states=(DeliveryState.SENT,))
    assert deferred.state == "SENT"


def test_delivery_of_a_dead_deliverer_is_due_when_its_lease_is_over(outbox: Engine) -> None:
    lost = claim(outbox, destination="pacs")[0]
    assert claim(outbox, destination="pacs") == []
    again = claim(outbox, now=MONDAY + 2 * LEASE, destination="pacs")[0]
    assert (again.id, again.attempts) == (lost.id, 2)
    for end in (
        lambda session: queue.mark_sent(session, lost, now=MONDAY),
        lambda session: queue.heartbeat_delivery(session, lost, MONDAY, LEASE),
        lambda session: queue.fail_delivery(session, lost, permanent=False, reason="", now=MONDAY),
    ):
        with sessions(outbox)() as session, pytest.raises(queue.LeaseLost):
            end(session)


def test_transient_failure_waits_and_permanent_failure_is_dead(outbox: Engine) -> None:
    one, two = claim(outbox)
    with sessions(outbox).begin() as session:
        waiting = queue.fail_delivery(
            session, one, permanent=False, reason="A700: out of resources.", now=MONDAY
        )
        dead = queue.fail_delivery(session, two, permanent=True, reason="A900: wrong class.", now=MONDAY)
    assert (waiting.state, dead.state) == ("WAITING", "DEAD")
    assert waiting.available_at > MONDAY
    assert claim(outbox, destination="pacs") == []
    with sessions(outbox).begin() as session:
        redriven = queue.retry_delivery(session, two.id, now=MONDAY, actor="user")
    assert (redriven.state, redriven.attempts) == ("PENDING", 0)


def test_delivery_that_fails_for_ever_is_dead_at_the_end_of_its_age(outbox: Engine) -> None:
    late = MONDAY + timedelta(days=8)
    one = claim(outbox, now=late)[0]
    with sessions(outbox).begin() as session:
        failed = queue.fail_delivery(session, one, permanent=False, reason="No route.", now=late)
    assert failed.state == "DEAD"
    assert "older than 7 days" in failed.reason


def test_cancelled_delivery_can_be_redriven_and_a_confirmed_one_cannot_be_cancelled(outbox: Engine) -> None:
    one, two = claim(outbox)
    with sessions(outbox).begin() as session:
        assert queue.cancel_delivery(session, one.id, now=MONDAY, actor="user").state == "CANCELLED"
        assert queue.retry_delivery(session, one.id, now=MONDAY, actor="user").state == "PENDING"
        queue.mark_sent(session, two, now=MONDAY)
    with sessions(outbox)() as session, pytest.raises(ForbiddenTransition, match="SENT"):
        queue.cancel_delivery(session, two.id, now=MONDAY, actor="user")
