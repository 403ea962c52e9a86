"""Scale-out: jobs on Dask workers in processes of their own; one of them is killed in the middle."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dask_peers
import pytest
from peers import free_port, wait_until
from rows import history, study
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.worker import Worker
from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.results import ResultObject

pytestmark = pytest.mark.peer("dask")

JOBS = 8


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    with dask_peers.cluster(tmp_path) as running:
        yield running


@pytest.mark.faults
def test_killed_dask_worker_costs_time_and_every_job_is_done_once(
    database: Engine, database_url: str, tmp_path: Path, cluster: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = cluster
    (tmp_path / "seconds").write_text("1")
    settings = Settings(
        site={"data": tmp_path},
        database={"url": database_url},
        compute={"cluster": address, "lease_seconds": 60},
    )
    model = ModelStore(tmp_path / "models").get("otsu")
    with sessions(database).begin() as session:
        for _ in range(JOBS):
            queue.enqueue(
                session,
                study_version_id=study(session).id,
                model=(model.digest, "otsu", "1", {}),
                recipe_digest=model.recipe_digest,
                destinations=["pacs"],
                now=datetime.now(UTC),
            )
    worker = Worker(settings, database, target="stand_ins:quick", poll_seconds=0.05)
    wait_until(lambda: worker.slots == 2, what="two Dask workers")

    def states() -> Counter[str]:
        with Session(database) as session:
            return Counter(session.scalars(select(Job.state)))

    def steps() -> set[str]:
        with Session(database) as session:
            return set(session.scalars(select(Job.step)))

    while states()["SUCCEEDED"] < 2:
        worker.look()
    wait_until(lambda: worker.look() >= 0 and states()["RUNNING"] == 2, what="two running jobs")
    workers[0].kill()
    worker.run_until_idle()
    assert states() == {"SUCCEEDED": JOBS}
    assert "encode" in steps()
    with Session(database) as session:
        objects = Counter(session.scalars(select(ResultObject.job_id)))
        numbers = session.scalars(select(Job.id)).all()
    assert objects == dict.fromkeys(numbers, 1)
    for number in numbers:
        assert history(database, "job", number).count(("RUNNING", "SUCCEEDED")) == 1


def test_cluster_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from voxtrial.daemon import executors

    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(Misconfigured, match="No Dask scheduler answers"):
        executors.Cluster("stand_ins:quick", address, threads=1)
