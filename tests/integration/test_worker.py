"""The worker with processes of its own, each test on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rows import LEASE, history, job, study
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.models import store
from voxtrial.daemon.scheduler import may_start
from voxtrial.daemon.services.rescuer import Rescuer
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.worker import Worker
from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery, Measurement, ResultObject
from voxtrial.db.waiting import Why

OTSU = "otsu"


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        site={"data": tmp_path},
        database={"url": database_url},
        compute={"workers": 2, "lease_seconds": 2, "memory_mib": 1000, "timeout_seconds": 30},
    )


def enqueue(database: Engine, **values) -> Job:
    """Queue a job of a model that is in every store."""
    model = store.ModelStore(Path("/nonexistent")).list()[0]
    with sessions(database).begin() as session:
        version = values.pop("version", None) or study(session, instances=3)
        return queue.enqueue(
            session,
            **{
                "study_version_id": version.id,
                "model": (model.digest, model.manifest.identity.name, "1", {}),
                "recipe_digest": model.recipe_digest,
                "destinations": ["pacs"],
                "now": datetime.now(UTC),
                **values,
            },
        )


def worker(settings: Settings, database: Engine, target: str = "quick", **options) -> Worker:
    return Worker(settings, database, target=f"stand_ins:{target}", poll_seconds=0.05, **options)


def why(database: Engine, row: Job) -> str:
    """What `voxtrial jobs list` says about a job."""
    with Session(database) as session:
        says = Why(session, now=datetime.now(UTC), is_open=may_start)
        return says.of(session.get_one(Job, row.id))


def stored(database: Engine, row: Job) -> Job:
    with Session(database) as session:
        return session.get_one(Job, row.id)


@contextmanager
def at_work(one: Worker):
    stop = threading.Event()
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_job_ends_with_objects_measurements_and_open_deliveries(settings: Settings, database: Engine) -> None:
    queued = enqueue(database)
    worker(settings, database).run_until_idle()
    done = stored(database, queued)
    assert (done.state, done.attempts, done.step) == ("SUCCEEDED", 1, "encode")
    with Session(database) as session:
        stored_object = session.scalars(select(ResultObject)).one()
        assert session.scalars(select(Measurement.value)).all() == [3.0]
        assert session.scalars(select(Delivery.state)).all() == ["PENDING"]
    assert not Path(stored_object.path).is_absolute()
    assert (settings.site.data / stored_object.path).stat().st_size == stored_object.size


@pytest.mark.parametrize(
    ("target", "state", "error_class", "reason"),
    [
        ("refuses", "REFUSED", "Refused", "Slice spacing varies"),
        ("retries", "WAITING", "Retryable", "No space left"),
        ("dies", "DEAD", "Fatal", "another digest"),
        ("has_a_bug", "DEAD", "Fatal", "ZeroDivisionError"),
        ("segfaults", "WAITING", "Retryable", "SIGSEGV"),
    ],
)
def test_every_ending_becomes_a_row(
    settings: Settings, database: Engine, target: str, state: str, error_class: str, reason: str
) -> None:
    queued = enqueue(database)
    worker(settings, database, target).run_until_idle()
    ended = stored(database, queued)
    assert (ended.state, ended.error_class) == (state, error_class)
    assert reason in ended.reason
    assert ended.rule == ("irregular_spacing" if state == "REFUSED" else "")


def test_running_job_is_cancelled_and_its_process_killed(settings: Settings, database: Engine) -> None:
    queued = enqueue(database)
    with at_work(worker(settings, database, "hangs")):
        wait_for(lambda: stored(database, queued).step == "predict")
        with sessions(database).begin() as session:
            queue.cancel(session, queued.id, now=datetime.now(UTC), actor="user")
        wait_for(lambda: stored(database, queued).state == "CANCELLED")
    assert history(database, "job", queued.id)[-1] == ("RUNNING", "CANCELLED")


def test_superseded_job_is_killed_and_leaves_nothing(settings: Settings, database: Engine) -> None:
    with sessions(database).begin() as session:
        first = study(session, uid="2.25.1000")
    queued = enqueue(database, version=first)
    with at_work(worker(settings, database, "hangs")):
        wait_for(lambda: stored(database, queued).step == "predict")
        with sessions(database).begin() as session:
            second = study(session, uid="2.25.1000", version=2)
        newer = enqueue(database, version=second)
        wait_for(lambda: stored(database, newer).step == "predict")
        assert stored(database, queued).state == "SUPERSEDED"
        with sessions(database).begin() as session:
            queue.cancel(session, newer.id, now=datetime.now(UTC), actor="user")
        wait_for(lambda: stored(database, newer).state == "CANCELLED")


def test_lease_outlives_a_job_that_takes_longer(settings: Settings, database: Engine, tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("3.5")
    queued = enqueue(database)
    rescuer = Rescuer(settings, database)
    with at_work(worker(settings, database)):
        wait_for(lambda: rescuer.run_once(datetime.now(UTC)) or stored(database, queued).state == "SUCCEEDED")
    assert stored(database, queued).attempts == 1


def test_worker_that_is_stopped_gives_its_job_back(settings: Settings, database: Engine) -> None:
    queued = enqueue(database)
    with at_work(worker(settings, database, "hangs", drain_seconds=0.2)):
        wait_for(lambda: stored(database, queued).step == "predict")
    given_back = stored(database, queued)
    assert (given_back.state, given_back.attempts) == ("WAITING", 0)
    assert "was stopped" in given_back.reason
    worker(settings, database).run_until_idle()
    assert stored(database, queued).state == "SUCCEEDED"


def test_worker_drains_what_it_has_begun(settings: Settings, database: Engine, tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("1")
    queued, later = enqueue(database), enqueue(database, priority=2)
    one = worker(
        settings.model_copy(update={"compute": settings.compute.model_copy(update={"workers": 1})}), database
    )
    with at_work(one):
        wait_for(lambda: stored(database, queued).state == "RUNNING")
    assert [stored(database, row).state for row in (queued, later)] == ["SUCCEEDED", "QUEUED"]


def test_worker_that_drains_offers_nothing_any_more(
    settings: Settings, database: Engine, tmp_path: Path
) -> None:
    """It takes no job: one that waits must not be told to wait for it."""
    (tmp_path / "seconds").write_text("3")
    running = enqueue(database)

    def offered() -> list[str]:
        with Session(database) as session:
            return [offer.worker for offer in queue.offers(session, datetime.now(UTC))]

    stop = threading.Event()
    draining = threading.Thread(target=worker(settings, database, name="draining").run, args=(stop,))
    draining.start()
    wait_for(lambda: stored(database, running).step == "predict")
    assert offered() == ["draining"]
    waiting = enqueue(database)
    stop.set()
    wait_for(lambda: offered() == [])
    assert stored(database, running).state == "RUNNING"
    assert why(database, waiting) == "Waits for a worker: none is running."
    draining.join(30)
    assert [stored(database, row).state for row in (running, waiting)] == ["SUCCEEDED", "QUEUED"]


def test_job_that_plans_for_more_than_the_host_is_left_for_a_larger_one_and_says_so(
    settings: Settings, database: Engine
) -> None:
    queued = enqueue(database, planned_peak_mib=4000)
    with closing(worker(settings, database, name="small")) as small:
        assert small.look() == 0
        assert why(database, queued) == (
            "Fits no worker: the model plans for 4000 MiB, the largest (small) has 1000 MiB; "
            "start a larger one or raise compute.memory_mib."
        )
    roomy = settings.compute.model_copy(update={"memory_mib": 8000})
    large = worker(settings.model_copy(update={"compute": roomy}), database, name="large")
    large.run_until_idle()
    assert stored(database, queued).state == "SUCCEEDED"
    assert why(database, queued) == ""


def test_job_that_needs_a_gpu_waits_for_a_worker_that_has_one(settings: Settings, database: Engine) -> None:
    queued = enqueue(database, gpus=2)
    assert why(database, queued) == "Waits for a worker: none is running."
    with closing(worker(settings, database)) as without_gpus:
        assert without_gpus.look() == 0
        assert why(database, queued).startswith("Fits no worker: the model needs 2 GPUs")
    with_gpus = settings.compute.model_copy(update={"gpus": 2})
    worker(settings.model_copy(update={"compute": with_gpus}), database).run_until_idle()
    assert stored(database, queued).state == "SUCCEEDED"


def test_job_of_an_unknown_model_is_dead_with_the_remedy(settings: Settings, database: Engine) -> None:
    with sessions(database).begin() as session:
        queued = job(session, now=datetime.now(UTC))
    worker(settings, database).run_until_idle()
    assert stored(database, queued).state == "DEAD"


def test_job_of_a_route_that_is_gone_still_runs(settings: Settings, database: Engine) -> None:
    """The job carries all it needs: model digest, destinations, window, priority."""
    assert settings.routes == ()
    queued = enqueue(database, window="* * * * *", concurrency=1)
    worker(settings, database).run_until_idle()
    assert stored(database, queued).state == "SUCCEEDED"


def test_closed_window_holds_a_job_back(settings: Settings, database: Engine) -> None:
    now = datetime.now().astimezone() + timedelta(hours=12)
    queued = enqueue(database, window=f"* {now.hour} * * *")
    worker(settings, database).run_until_idle()
    assert stored(database, queued).state == "QUEUED"


def test_lease_of_a_worker_without_heartbeat_is_taken_and_its_result_dropped(
    settings: Settings, database: Engine
) -> None:
    queued = enqueue(database)
    with sessions(database).begin() as session:
        lost = queue.claim(session, "elsewhere", datetime.now(UTC), timedelta(0))
    assert Rescuer(settings, database).run_once(datetime.now(UTC) + LEASE) == 1
    with sessions(database).begin() as session:
        session.get_one(Job, queued.id).available_at = datetime.now(UTC)
    worker(settings, database).run_until_idle()
    with sessions(database)() as session, pytest.raises(queue.LeaseLost):
        queue.refuse(session, lost, rule="", reason="", now=datetime.now(UTC))
    assert (stored(database, queued).state, stored(database, queued).attempts) == ("SUCCEEDED", 2)
