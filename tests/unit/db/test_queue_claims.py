"""Claims, leases and rescue, each test on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from threading import Barrier, Thread

import pytest
from rows import LEASE, MONDAY, claim, finish, history, job, study
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from voxtrial.db import queue
from voxtrial.db.engine import claiming_engine, sessions
from voxtrial.db.jobs import Event, Job, Model
from voxtrial.db.queue.policy import JOBS, RetryPolicy

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


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
