"""Why a job or a delivery is where it is, in one sentence each, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rows import LEASE, MONDAY, finish, job, study
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.db import overview, queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.queue import ErrorClass
from voxtrial.db.results import Delivery
from voxtrial.db.waiting import Why, clock, of_delivery

NIGHT = "* 2 * * *"
LATER = MONDAY + timedelta(seconds=10)


@pytest.fixture
def worker(database: Engine) -> None:
    """A worker with 8000 MiB and one without memory but with a GPU."""
    with sessions(database).begin() as session:
        queue.offer(session, "large:1", memory_mib=8000, gpus=0, now=MONDAY, lease=LEASE)
        queue.offer(session, "gpu:1", memory_mib=100, gpus=1, now=MONDAY, lease=LEASE)


def why(database: Engine, number: int, now=LATER) -> str:
    with Session(database) as session:
        says = Why(session, now=now, is_open=lambda window, at: window != NIGHT)
        return says.of(session.get_one(Job, number))


def claim(database: Engine, worker: str = "large:1", lease=LEASE) -> queue.Held:
    with sessions(database).begin() as session:
        claimed = queue.claim(session, worker, MONDAY, lease)
    assert claimed is not None
    return claimed


@pytest.mark.parametrize(
    ("wants", "sentence"),
    [
        ({}, "Waits for its turn; jobs that are running: 0."),
        ({"window": NIGHT}, "Waits for its window (* 2 * * *)."),
        ({"window": "* * * * *"}, "Waits for its turn; jobs that are running: 0."),
        (
            {"planned_peak_mib": 9000},
            "Fits no worker: the model plans for 9000 MiB, the largest (large:1) has 8000 MiB; "
            "start a larger one or raise compute.memory_mib.",
        ),
        (
            {"gpus": 2},
            "Fits no worker: the model needs 2 GPUs, no worker has as many; "
            "set compute.gpus or start a worker that has.",
        ),
        (
            {"gpus": 1, "planned_peak_mib": 500},
            "Fits no worker: none has both 500 MiB and 1 GPU; start one that has.",
        ),
    ],
)
def test_queued_job_says_what_it_waits_for(
    database: Engine, worker: None, wants: dict[str, object], sentence: str
) -> None:
    with sessions(database).begin() as session:
        queued = job(session, **wants)
    assert why(database, queued.id) == sentence


def test_job_without_a_living_worker_says_so(database: Engine, worker: None) -> None:
    with sessions(database).begin() as session:
        queued = job(session)
        queue.withdraw(session, "gpu:1")
    assert "turn" in why(database, queued.id)
    assert why(database, queued.id, MONDAY + 2 * LEASE) == "Waits for a worker: none is running."


def test_job_of_a_model_at_its_limit_waits_for_the_others(database: Engine, worker: None) -> None:
    with sessions(database).begin() as session:
        job(session, concurrency=1)
        second = job(session, concurrency=1)
    claim(database)
    assert (
        why(database, second.id) == "Waits for its model; jobs of it that are running: 1, as many as may be."
    )


def test_running_job_says_where_and_a_silent_worker_is_named(database: Engine, worker: None) -> None:
    with sessions(database).begin() as session:
        running = job(session)
    held = claim(database)
    with sessions(database).begin() as session:
        queue.set_step(session, held, "predict")
    assert why(database, running.id) == "Runs on large:1, attempt 1, in step predict."
    end = clock(MONDAY + LEASE)
    assert why(database, running.id, MONDAY + 2 * LEASE) == (
        f"Worker large:1 is silent, its lease ended at {end}; the job will be taken back."
    )
    with sessions(database).begin() as session:
        queue.cancel(session, running.id, now=MONDAY, actor="anna", reason="Wrong patient.")
    assert why(database, running.id).startswith("Being cancelled (Wrong patient.) on large:1")


def test_failed_job_says_when_it_is_tried_again_and_a_dead_one_how(database: Engine, worker: None) -> None:
    with sessions(database).begin() as session:
        failed, dead = job(session), job(session)
    for error_class in (ErrorClass.RETRYABLE, ErrorClass.FATAL):
        held = claim(database)
        with sessions(database).begin() as session:
            queue.set_step(session, held, "encode")
            queue.fail(session, held, error_class=error_class, reason="Disk is full.", now=LATER)
    with Session(database) as session:
        again = clock(session.get_one(Job, failed.id).available_at)
    assert why(database, failed.id) == f"Disk is full. Tried again at {again}, attempt 2."
    assert why(database, dead.id) == (
        f"Dead in step encode: Disk is full. When that is mended: voxtrial jobs retry {dead.id}."
    )


def test_delivery_says_who_sends_it_and_when_it_is_tried_again(database: Engine, worker: None) -> None:
    with sessions(database).begin() as session:
        job(session)
    held = claim(database)
    with sessions(database).begin() as session:
        finish(session, held, now=MONDAY)

    def said() -> str:
        with Session(database) as session:
            return of_delivery(session.scalars(select(Delivery)).one(), LATER)

    def take() -> Delivery:
        with sessions(database).begin() as session:
            (taken,) = queue.claim_deliveries(session, "deliverer:1", LATER, LEASE)
        return taken

    assert said() == "To be sent."
    taken = take()
    assert said() == "Being sent by deliverer:1."
    with sessions(database).begin() as session:
        failed = queue.fail_delivery(session, taken, permanent=False, reason="No answer.", now=LATER)
    assert said() == f"No answer. Sent again at {clock(failed.available_at)}, attempt 2."
    with Session(database) as session:
        says = Why(session, now=LATER, is_open=lambda window, at: True)
        (listed,) = overview.list_studies(session, says)
    assert listed.reason == f"pacs: {said()}"


def test_study_says_of_its_delivery_what_the_delivery_says_in_every_state(
    database: Engine, worker: None
) -> None:
    """One wording: `studies list` and `deliveries show` never differ."""
    with sessions(database).begin() as session:
        job(session)
    held = claim(database)
    with sessions(database).begin() as session:
        finish(session, held, now=MONDAY)

    def said() -> tuple[str, str]:
        with Session(database) as session:
            says = Why(session, now=LATER, is_open=lambda window, at: True)
            (listed,) = overview.list_studies(session, says)
            delivery = session.scalars(select(Delivery)).one()
            return listed.reason, f"pacs: {of_delivery(delivery, LATER)}"

    def take() -> Delivery:
        with sessions(database).begin() as session:
            (taken,) = queue.claim_deliveries(session, "deliverer:1", LATER, LEASE)
        return taken

    heard = [said()]
    taken = take()
    heard.append(said())
    with sessions(database).begin() as session:
        queue.mark_sent(session, taken, now=MONDAY)
    heard.append(said())
    taken = take()
    heard.append(said())
    with sessions(database).begin() as session:
        queue.fail_delivery(session, taken, permanent=False, reason="It is gone.", now=MONDAY)
    heard.append(said())
    taken = take()
    with sessions(database).begin() as session:
        queue.fail_delivery(session, taken, permanent=True, reason="A900: wrong class.", now=MONDAY)
    heard.append(said())
    assert [listed for listed, _ in heard] == [own for _, own in heard]
    assert len(set(heard)) == 6


def test_worst_job_of_a_study_speaks_for_it(database: Engine, worker: None) -> None:
    with sessions(database).begin() as session:
        version = study(session)
        job(session, version, model="lung")
        dead = job(session, version, model="liver", priority=0)
    held = claim(database)
    with sessions(database).begin() as session:
        queue.fail(session, held, error_class=ErrorClass.FATAL, reason="Weights differ.", now=MONDAY)
    with Session(database) as session:
        says = Why(session, now=LATER, is_open=lambda window, at: True)
        (listed,) = overview.list_studies(session, says)
    assert listed.reason == (
        f"liver: Dead: Weights differ. When that is mended: voxtrial jobs retry {dead.id}."
    )
