"""Claims, leases and rescue, each test on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from threading import Barrier, Thread

import pytest
from rows import LEASE, MONDAY, finish, history, job, measurement, study
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from voxtrial.db import queue
from voxtrial.db.engine import claiming_engine, sessions
from voxtrial.db.jobs import Event, Job, Model
from voxtrial.db.queue.policy import JOBS, RetryPolicy
from voxtrial.db.results import Delivery, Measurement, ResultObject
from voxtrial.db.states import ForbiddenTransition, JobState

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def claim(database: Engine, worker: str = "worker", now=MONDAY, **capacity) -> queue.Held | None:
    engine = claiming_engine(database)
    try:
        with sessions(engine).begin() as session:
            return queue.claim(session, worker, now, LEASE, queue.Capacity(**capacity))
    finally:
        engine.dispose()


def test_same_work_is_queued_once(database: Engine) -> None:
    with sessions(database).begin() as session:
        version = study(session)
        first = job(session, version)
        again = job(session, version, priority=0)
        assert again.id == first.id
    with Session(database) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 1
        assert session.scalar(select(func.count()).select_from(Model)) == 1
    assert history(database, "job", first.id) == [("", "QUEUED")]


def test_claimed_job_runs_under_a_lease_and_says_so(database: Engine) -> None:
    with sessions(database).begin() as session:
        queued = job(session)
    claimed = claim(database, "host-a")
    assert claimed is not None
    assert (claimed.id, claimed.attempts, claimed.first_started_at) == (queued.id, 1, MONDAY)
    assert claimed.lease_owner.startswith("host-a#")
    with Session(database) as session:
        stored = session.get_one(Job, claimed.id)
        assert (stored.state, stored.lease_owner) == ("RUNNING", claimed.lease_owner)
        assert (stored.lease_expires_at, stored.step) == (MONDAY + LEASE, "")
    assert history(database, "job", queued.id) == [("", "QUEUED"), ("QUEUED", "RUNNING")]
    assert claim(database) is None
    with Session(database) as session:
        event = session.scalars(select(Event).order_by(Event.id.desc()).limit(1)).one()
        assert (event.actor, event.at) == (claimed.lease_owner, MONDAY)


def test_urgent_work_goes_first_and_routine_work_does_not_starve(database: Engine) -> None:
    with sessions(database).begin() as session:
        batch = job(session, priority=2, now=MONDAY)
        routine = job(session, priority=1, now=MONDAY)
        urgent = job(session, priority=0, now=MONDAY + HOUR)
        later = job(session, priority=0, now=MONDAY + 5 * HOUR)
    order = [claim(database, now=MONDAY + 6 * HOUR).id for _ in range(4)]
    assert order == [urgent.id, routine.id, later.id, batch.id]


def test_endless_stream_of_urgent_work_starves_neither_routine_nor_batch_work(database: Engine) -> None:
    """An urgent job comes every ten minutes and one job is claimed every ten minutes: there is never room.

    Routine work is due with the urgent work of four hours later, and older. From then on the urgent work is
    one claim behind, and so is the batch work that is due with it after a day.
    """
    ten = timedelta(minutes=10)
    with sessions(database).begin() as session:
        patient = {job(session, priority=priority, now=MONDAY).id for priority in (1, 2)}
    waited = []
    for number in range(6 * 25):
        now = MONDAY + number * ten
        with sessions(database).begin() as session:
            job(session, priority=0, now=now)
            if queue.claim(session, "worker", now, LEASE).id in patient:
                waited.append(now - MONDAY)
    assert waited == [4 * HOUR, 24 * HOUR + ten]


def test_claiming_engine_encodes_json_as_the_main_engine_does(database: Engine) -> None:
    """PostgreSQL refuses NaN in JSON, and what one engine writes the other must read."""
    claiming = claiming_engine(database)
    with sessions(claiming).begin() as session:
        session.add(Model(digest="d", name="m", version="1", manifest={"auc": float("nan")}, added_at=MONDAY))
    with Session(database) as session:
        assert session.get_one(Model, "d").manifest == {"auc": "NaN"}
    if claiming is not database:
        claiming.dispose()


@pytest.mark.parametrize(
    "dialect", [pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))], indirect=True
)
def test_claim_over_a_connection_that_has_died_takes_nothing_and_the_next_one_works(database: Engine) -> None:
    """The claiming engine does not ask first whether its connection is alive: see ``claiming_engine``."""
    with sessions(database).begin() as session:
        queued = job(session)
    claiming = claiming_engine(database)
    with sessions(claiming).begin() as session:
        assert queue.claim(session, "early", MONDAY - HOUR, LEASE) is None
    with database.begin() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(text(f"{others} AND datname = current_database()"))
    with pytest.raises(OperationalError), sessions(claiming).begin() as session:
        queue.claim(session, "worker", MONDAY, LEASE)
    assert history(database, "job", queued.id) == [("", "QUEUED")]
    with sessions(claiming).begin() as session:
        assert queue.claim(session, "worker", MONDAY, LEASE).id == queued.id
    claiming.dispose()


def test_waiting_job_is_claimed_when_its_time_has_come(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    failed = claim(database)
    with sessions(database).begin() as session:
        queue.fail(
            session, failed, error_class=queue.ErrorClass.RETRYABLE, reason="PACS is down.", now=MONDAY
        )
    delay = JOBS.delay(key=failed.id, attempts=1)
    assert claim(database, now=MONDAY + delay - timedelta(seconds=1)) is None
    again = claim(database, now=MONDAY + delay)
    assert (again.attempts, again.first_started_at) == (2, MONDAY)
    assert history(database, "job", failed.id)[-2:] == [("RUNNING", "WAITING"), ("WAITING", "RUNNING")]


def test_job_in_a_closed_window_waits_for_it(database: Engine) -> None:
    night = "* 20-23,0-5 * * *"
    with sessions(database).begin() as session:
        heavy = job(session, window=night)
        assert queue.windows(session) == [night]
    assert claim(database) is None
    assert claim(database, open_windows=[night]).id == heavy.id


def test_job_that_does_not_fit_the_memory_lets_a_smaller_one_pass(database: Engine) -> None:
    with sessions(database).begin() as session:
        large = job(session, planned_peak_mib=4000)
        small = job(session, planned_peak_mib=500)
    assert claim(database, memory_mib=1000).id == small.id
    assert claim(database, memory_mib=500) is None
    assert claim(database, memory_mib=8000).id == large.id


def test_gpu_job_waits_for_a_gpu(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session, gpus=1)
    assert claim(database, gpus=0) is None
    assert claim(database, gpus=1) is not None


def test_model_at_its_concurrency_lets_others_pass(database: Engine) -> None:
    with sessions(database).begin() as session:
        one = job(session, model="heavy", concurrency=1)
        job(session, model="heavy", concurrency=1)
        light = job(session, model="light")
    first = claim(database)
    assert [first.id, claim(database).id, claim(database)] == [one.id, light.id, None]
    with sessions(database).begin() as session:
        finish(session, first, now=MONDAY)
    assert claim(database) is not None


@pytest.mark.parametrize("concurrency", [0, 2])
def test_claimers_at_the_same_time_never_share_a_job(database: Engine, concurrency: int) -> None:
    """Eight claimers and 40 jobs; with a concurrency of 2 only two of them may ever run."""
    with sessions(database).begin() as session:
        for _ in range(40):
            job(session, concurrency=concurrency)
    barrier = Barrier(8)
    taken: list[int] = []

    def work() -> None:
        engine = claiming_engine(database)
        with engine.connect():  # connected before the race
            pass
        barrier.wait()
        while True:
            with sessions(engine).begin() as session:
                if (claimed := queue.claim(session, "worker", MONDAY, LEASE)) is None:
                    break
            taken.append(claimed.id)
        if engine is not database:
            engine.dispose()

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == (concurrency or 40)


def test_heartbeat_prolongs_the_lease_and_brings_the_cancellation(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    with sessions(database).begin() as session:
        assert queue.heartbeat(session, claimed, MONDAY + MINUTE, LEASE) is False
        queue.set_step(session, claimed, "predict")
        queue.cancel(session, claimed.id, now=MONDAY, actor="user")
        assert queue.heartbeat(session, claimed, MONDAY + MINUTE, LEASE) is True
        assert queue.rescue(session, MONDAY + MINUTE) == []
        stored = queue.cancelled(session, claimed, now=MONDAY + MINUTE)
    assert (stored.state, stored.step, stored.reason) == ("CANCELLED", "predict", "Cancelled by user.")


def test_job_of_a_dead_worker_is_rescued_and_the_dead_worker_is_fenced_off(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    lost = claim(database, "same-name")
    late = MONDAY + LEASE + MINUTE
    with sessions(database).begin() as session:
        (rescued,) = queue.rescue(session, late)
    assert (rescued.state, rescued.lease_owner) == ("WAITING", "")
    assert "ran out" in rescued.reason
    again = claim(database, "same-name", now=late + HOUR)
    assert (again.id, again.attempts) == (lost.id, 2)
    for end in (
        lambda session: finish(session, lost, now=late),
        lambda session: queue.heartbeat(session, lost, late, LEASE),
        lambda session: queue.set_step(session, lost, "predict"),
        lambda session: queue.refuse(session, lost, rule="r", reason="r", now=late),
        lambda session: queue.cancelled(session, lost, now=late),
        lambda session: queue.release(session, lost, reason="r", now=late),
    ):
        with sessions(database)() as session, pytest.raises(queue.LeaseLost):
            end(session)
    with sessions(database).begin() as session:
        assert finish(session, again, now=late).state == "SUCCEEDED"


def test_rescue_gives_up_after_the_last_attempt(database: Engine) -> None:
    policy = RetryPolicy(
        first_delay=MINUTE, longest_delay=MINUTE, maximum_attempts=2, maximum_age=timedelta(days=1)
    )
    with sessions(database).begin() as session:
        job(session)
    now, states = MONDAY, []
    for _ in range(2):
        claim(database, now=now)
        now += HOUR  # past the lease
        with sessions(database).begin() as session:
            states += [rescued.state for rescued in queue.rescue(session, now, policy)]
        now += HOUR  # past the delay
    assert states == ["WAITING", "DEAD"]
    assert claim(database, now=now + HOUR) is None


def test_rescued_job_that_was_to_be_cancelled_is_cancelled(database: Engine) -> None:
    with sessions(database).begin() as session:
        job(session)
    claimed = claim(database)
    with sessions(database).begin() as session:
        queue.cancel(session, claimed.id, now=MONDAY, actor="user")
        assert [r.state for r in queue.rescue(session, MONDAY + HOUR)] == ["CANCELLED"]


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
