"""How jobs end, are tried again, cancelled and superseded, each test on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rows import LEASE, MONDAY, claim, finish, history, job, measurement, study
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery, Measurement, ResultObject
from voxtrial.db.states import ForbiddenTransition, JobState

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def test_success_writes_objects_measurements_and_deliveries_at_once(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session, destinations=["pacs", "research"])
    claimed = claim(database)
    with sessions(database).begin() as session:
        finish(session, claimed, now=MONDAY + MINUTE)
    with sessions(database).begin() as session:  # the answer to the first commit was lost
        finish(session, claimed, now=MONDAY + MINUTE)
    with Session(database) as session:
        stored = session.get_one(Job, claimed.id)
        assert (stored.state, stored.finished_at) == ("SUCCEEDED", MONDAY + MINUTE)
        assert stored.seconds == {"predict": 1.5}
        assert session.scalars(select(ResultObject.job_id)).all() == [claimed.id]
        assert session.scalars(select(Measurement.value)).all() == [523.6]
        deliveries = session.scalars(select(Delivery).order_by(Delivery.id)).all()
        assert [(d.destination, d.state) for d in deliveries] == [
            ("pacs", "PENDING"),
            ("research", "PENDING"),
        ]
    assert history(database, "job", claimed.id)[-1] == ("RUNNING", "SUCCEEDED")
    assert history(database, "delivery", deliveries[0].id) == [("", "PENDING")]


def test_failed_success_leaves_nothing_behind(database: Engine) -> None:
    """A measurement that breaks its unique constraint takes objects and deliveries with it."""
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    twice = {"objects": [], "measurements": [measurement(1), measurement(2)], "seconds": {}, "provenance": {}}
    with pytest.raises(Exception, match=r"(?i)unique"), sessions(database).begin() as session:
        queue.succeed(session, claimed, now=MONDAY, **twice)
    with Session(database) as session:
        assert session.get_one(Job, claimed.id).state == "RUNNING"
        assert session.scalar(select(func.count()).select_from(Measurement)) == 0


def test_second_job_with_the_same_object_uid_is_refused(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
        job(session)
    one, two = claim(database), claim(database)
    with sessions(database).begin() as session:
        finish(session, one, now=MONDAY, uid="2.25.99")
    with sessions(database)() as session, pytest.raises(queue.DuplicateResult, match=f"job {one.id}"):
        finish(session, two, now=MONDAY, uid="2.25.99")


@pytest.mark.parametrize(
    ("error_class", "state"),
    [
        (queue.ErrorClass.REFUSED, JobState.REFUSED),
        (queue.ErrorClass.RETRYABLE, JobState.WAITING),
        (queue.ErrorClass.FATAL, JobState.DEAD),
    ],
)
def test_error_class_alone_decides_what_happens_next(
    database: Engine, error_class: queue.ErrorClass, state: JobState
) -> None:
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    with sessions(database).begin() as session:
        queue.set_step(session, claimed, "read")
        queue.fail(session, claimed, error_class=error_class, rule="rule", reason="Reason.", now=MONDAY)
    with Session(database) as session:
        stored = session.get_one(Job, claimed.id)
        assert (stored.state, stored.error_class, stored.rule) == (state, error_class, "rule")
        assert (stored.step, stored.reason) == ("read", "Reason.")


def test_old_job_is_not_retried(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    late = MONDAY + timedelta(days=4)
    claimed = claim(database, now=late)
    with sessions(database).begin() as session:
        failed = queue.fail(
            session, claimed, error_class=queue.ErrorClass.RETRYABLE, reason="Down.", now=late
        )
    assert failed.state == "DEAD"
    assert "older than 3 days" in failed.reason


def test_dead_job_is_redriven_with_all_its_attempts(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    later = MONDAY + timedelta(days=9)
    with sessions(database).begin() as session:
        queue.fail(session, claimed, error_class=queue.ErrorClass.FATAL, reason="Weights differ.", now=MONDAY)
        queue.retry(session, claimed.id, now=later, actor="user", reason="Weights are back.")
    again = claim(database, now=later)
    assert (again.attempts, again.first_started_at) == (1, MONDAY)
    with sessions(database).begin() as session:
        assert session.get_one(Job, again.id).reason == ""
        waiting = queue.fail(
            session, again, error_class=queue.ErrorClass.RETRYABLE, reason="Down.", now=later
        )
    assert waiting.state == "WAITING"


def test_stopped_worker_gives_its_job_back_without_an_attempt(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    with sessions(database).begin() as session:
        queue.release(session, claimed, reason="Worker stopped.", now=MONDAY)
    again = claim(database)
    assert (again.id, again.attempts) == (claimed.id, 1)


def test_cancelled_job_is_not_claimed_until_it_is_retried(database: Engine) -> None:
    with sessions(database).begin() as session:
        queued = job(session)
        queue.cancel(session, queued.id, now=MONDAY, actor="user", reason="Wrong patient.")
    assert claim(database) is None
    with sessions(database).begin() as session:
        queue.retry(session, queued.id, now=MONDAY, actor="user")
    assert claim(database).id == queued.id


def test_finished_job_cannot_be_cancelled_or_retried(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    with sessions(database).begin() as session:
        finish(session, claimed, now=MONDAY)
    for ask in (queue.cancel, queue.retry):
        with sessions(database)() as session, pytest.raises(ForbiddenTransition, match="SUCCEEDED"):
            ask(session, claimed.id, now=MONDAY, actor="user")


def test_newer_study_version_supersedes_whatever_the_older_one_did(database: Engine) -> None:
    with sessions(database).begin() as session:
        first = study(session, uid="2.25.1000")
        done, other_model = job(session, first), job(session, first, model="second-model")
    claimed = claim(database)
    assert claimed.id == done.id
    with sessions(database).begin() as session:
        finish(session, claimed, now=MONDAY)
    running = claim(database)
    with sessions(database).begin() as session:
        second = study(session, uid="2.25.1000", version=2)
        newer = job(session, second)
        job(session, second, model="second-model")
    with Session(database) as session:
        states = session.scalars(select(Job.state).order_by(Job.id)).all()
        assert states == ["SUPERSEDED", "SUPERSEDED", "QUEUED", "QUEUED"]
        assert session.scalars(select(Delivery.state)).all() == ["CANCELLED"]
        assert session.get_one(Job, done.id).reason == "Version 2 of the study is ready."
    with sessions(database)() as session, pytest.raises(queue.LeaseLost):
        queue.heartbeat(session, running, MONDAY, LEASE)
    assert other_model.id == running.id
    assert claim(database).id == newer.id


def test_delivery_that_is_being_sent_survives_supersession(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session, study(session, uid="2.25.1000"))
    claimed = claim(database)
    with sessions(database).begin() as session:
        finish(session, claimed, now=MONDAY)
        sending = queue.claim_delivery(session, "deliverer", MONDAY, LEASE)
    with sessions(database).begin() as session:
        job(session, study(session, uid="2.25.1000", version=2))
        assert queue.mark_sent(session, sending, now=MONDAY).state == "SENT"
