"""Whatever a model does to its process, it does to that process alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
from peers import wait_until

from voxtrial.daemon import isolation
from voxtrial.daemon.errors import Fatal, Refused, Retryable
from voxtrial.daemon.isolation import Limits
from voxtrial.daemon.job import JobInput

AMPLE = Limits(timeout_seconds=60, memory_mib=1024)


@pytest.fixture
def job(tmp_path: Path) -> JobInput:
    objects = tmp_path / "objects" / "1" / "attempt"
    objects.mkdir(parents=True)
    return JobInput(
        job_id=1,
        study_instance_uid="2.25.1",
        study_version=1,
        instances=(),
        model_folder="",
        model_digest="digest",
        recipe_digest="recipe",
        objects_folder=str(objects),
        first_started_at=datetime(2026, 11, 23, tzinfo=UTC),
        site="Site A",
    )


def run(name: str, job: JobInput, limits: Limits = AMPLE, **options):
    isolation.start_server(f"stand_ins:{name}", threads=1)
    return isolation.run(f"stand_ins:{name}", job, limits, **options)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_job_runs_in_a_process_group_of_its_own_with_capped_threads(job: JobInput) -> None:
    one, two = run("environment", job).provenance, run("environment", job).provenance
    assert one["leads_its_group"]
    assert one["pid"] != two["pid"] != os.getpid()
    assert one["threads"] == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def test_steps_are_reported_and_output_comes_back(job: JobInput) -> None:
    steps: list[str] = []
    output = run("quick", job, report_step=steps.append)
    assert steps == ["predict", "encode"]
    assert Path(output.objects[0].path).read_bytes()


def test_decisions_come_back_as_they_were_raised(job: JobInput) -> None:
    with pytest.raises(Refused, match="varies") as refused:
        run("refuses", job)
    assert refused.value.rule == "irregular_spacing"
    with pytest.raises(Retryable, match="No space left"):
        run("retries", job)
    with pytest.raises(Fatal, match="another digest"):
        run("dies", job)


def test_error_that_nobody_foresaw_is_fatal_and_named(job: JobInput) -> None:
    with pytest.raises(Fatal, match="ZeroDivisionError"):
        run("has_a_bug", job)


def test_segfault_is_reported_with_its_signal_and_step(job: JobInput) -> None:
    with pytest.raises(Retryable, match="died in step predict: SIGSEGV"):
        run("segfaults", job)


def test_silent_exit_is_reported(job: JobInput) -> None:
    with pytest.raises(Retryable, match="exit status 3"):
        run("exits", job)


def test_leak_is_stopped_at_the_limit(job: JobInput) -> None:
    with pytest.raises(Fatal, match="it may hold 300 MiB"):
        run("leaks", job, Limits(timeout_seconds=60, memory_mib=300))


def test_hang_is_killed_with_its_children_when_its_time_is_over(job: JobInput, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(Retryable, match="not finished after 1 s"):
        run("hangs", job, Limits(timeout_seconds=1))
    assert time.monotonic() - begin < 10
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_job_that_is_not_wanted_any_more_is_killed(job: JobInput) -> None:
    stop = Event()
    Thread(target=lambda: (time.sleep(1), stop.set())).start()
    with pytest.raises(isolation.Abandoned):
        run("hangs", job, wanted=lambda: not stop.is_set())


def test_hanging_job_dies_with_its_killed_worker(job: JobInput, tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "stand_ins.py"
    worker = subprocess.Popen([sys.executable, str(program), job.objects_folder])
    pids = tmp_path / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="hanging job")
    hanging = int(pids.read_text().split()[0])
    assert is_alive(hanging)
    worker.kill()
    worker.wait()
    wait_until(lambda: not is_alive(hanging), what="end of the job")


def test_program_that_runs_jobs_is_not_run_again_for_each_of_them(job: JobInput, tmp_path: Path) -> None:
    program, runs = tmp_path / "program.py", tmp_path / "runs"
    program.write_text(
        "import pickle, sys\n"
        "from pathlib import Path\n"
        f"with Path({str(runs)!r}).open('a') as file:\n"
        "    print(__name__, file=file)\n"
        "if __name__ == '__main__':\n"
        "    from voxtrial.daemon import isolation\n"
        "    job = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "    isolation.start_server('stand_ins:quick', threads=1)\n"
        "    for _ in range(2):\n"
        "        isolation.run('stand_ins:quick', job, isolation.Limits(timeout_seconds=60))\n"
    )
    pickled = tmp_path / "job"
    pickled.write_bytes(pickle.dumps(job))
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, program, pickled], check=True, env=path)
    assert runs.read_text().split() == ["__main__"]


def test_exhausted_descriptors_end_with_the_job(job: JobInput) -> None:
    with pytest.raises(Fatal, match="Too many open files"):
        run("exhausts_descriptors", job)
    assert run("quick", job).objects


def test_children_that_a_job_leaves_behind_are_killed(job: JobInput) -> None:
    children = run("exhausts_processes", job).provenance["children"]
    deadline = time.monotonic() + 5
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, children))


def test_next_job_starts_clean_after_every_disaster(job: JobInput) -> None:
    for disaster in ("segfaults", "exits", "has_a_bug"):
        with pytest.raises((Retryable, Fatal)):
            run(disaster, job)
        assert run("quick", job).measurements[0].value == 0
