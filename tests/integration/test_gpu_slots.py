"""Jobs hold GPUs: workers on one queue, and on a Dask cluster, never run more of them than there are GPUs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import dask_peers
import pytest
from kill_harness import kill
from kill_points import start_role
from peers import wait_until
from rows import study
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.worker import Worker
from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job

GPU_JOBS = 6


def enqueue(database: Engine, folder: Path, gpus: Iterable[int]) -> list[int]:
    """Queue a job for each number of GPUs."""
    model = ModelStore(folder / "models").get("otsu")
    with sessions(database).begin() as session:
        return [
            queue.enqueue(
                session,
                study_version_id=study(session).id,
                model=(model.digest, "otsu", "1", {}),
                recipe_digest=model.recipe_digest,
                gpus=wanted,
                now=datetime.now(UTC),
            ).id
            for wanted in gpus
        ]


def most_at_once(folder: Path, jobs: Iterable[int]) -> int:
    """Return how many of the jobs ran at the same time, from the times that they wrote down."""
    times = [tuple(map(float, (folder / "times" / str(job)).read_text().split())) for job in jobs]
    return max(sum(begin <= moment < end for begin, end in times) for moment, _ in times)


def finished(database: Engine) -> int:
    with Session(database) as session:
        return session.scalar(select(func.count()).where(Job.state == "SUCCEEDED")) or 0


def most_at_once_and_beside(folder: Path, jobs: Iterable[int], beside: Iterable[int]) -> tuple[int, int]:
    """Return how many of the jobs ran at the same time, alone and together with those beside."""
    return most_at_once(folder, jobs), most_at_once(folder, [*jobs, *beside])


@pytest.mark.parametrize("gpus", [1, 2])
def test_two_workers_use_all_their_gpus_at_once_and_never_run_more_jobs_on_them(
    database: Engine, database_url: str, tmp_path: Path, gpus: int
) -> None:
    """Each worker has three slots and takes jobs without GPU into those that its GPUs leave free.

    The first jobs wait for each other: as many as there are GPUs, and one without. They overlap by
    construction, unless a slot stays empty that should not.
    """
    settings = Settings(
        site={"data": tmp_path},
        database={"url": database_url},
        compute={"workers": 3, "gpus": gpus, "memory_mib": 4000},
    )
    slots = 2 * gpus
    with_gpu = enqueue(database, tmp_path, [1] * GPU_JOBS)
    without = enqueue(database, tmp_path, [0] * 2)
    (tmp_path / "together").write_text(json.dumps([(slots, with_gpu), (1, without)]))
    workers = [start_role("work", settings, "stand_ins:takes_a_while") for _ in range(2)]
    try:
        wait_until(lambda: finished(database) == GPU_JOBS + 2, 60, "every job")
    finally:
        for worker in workers:
            kill(worker)
    on_gpus, in_all = most_at_once_and_beside(tmp_path, with_gpu, without)
    assert on_gpus == slots
    assert in_all > slots
    with Session(database) as session:
        assert set(session.scalars(select(Job.attempts))) == {1}


@pytest.mark.peer("dask")
def test_dask_places_gpu_jobs_on_the_worker_that_has_the_gpu(
    database: Engine, database_url: str, tmp_path: Path
) -> None:
    """The site says two GPUs, the cluster has one: Dask lets the jobs wait for it, whatever we claim."""
    with_gpu = enqueue(database, tmp_path, [1] * 4)
    with dask_peers.cluster(tmp_path) as (address, _):
        settings = Settings(
            site={"data": tmp_path}, database={"url": database_url}, compute={"cluster": address, "gpus": 2}
        )
        worker = Worker(settings, database, target="stand_ins:takes_a_while", poll_seconds=0.05)
        wait_until(lambda: worker.slots == 2, what="two Dask workers")
        worker.run_until_idle()
    assert finished(database) == 4
    assert most_at_once(tmp_path, with_gpu) == 1
