"""Slices that come after their study was closed, at a real daemon: nothing vanishes, no old result goes out.

The moments before the jobs (closing, gate) are in ``integration/network/test_assembler.py``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import phantoms
import psutil
import pydicom
import pytest
from daemons import Daemon, serve
from peers import storescu, wait_until
from slow_pacs import SlowPACS
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.db.engine import connect
from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion

pytestmark = pytest.mark.peer("dcmtk")

CONFIGURATION = """
[completeness]
quiet_seconds = 1

[[destinations]]
name = "pacs"
port = {pacs}
ae_title = "SLOWPACS"
commitment = false

[[routes]]
model = "otsu"
destinations = ["pacs"]

[compute]
workers = 1
"""
SUPERSEDED = "Version 2 of the study is ready."
OPEN = (DeliveryState.PENDING, DeliveryState.WAITING, DeliveryState.SENT)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A ball in twelve slices; without the last one it is a study still."""
    spacing = (2.5, 1.0, 1.0)
    ball = phantoms.sphere((12, 32, 32), spacing, 8)
    return phantoms.ct_series(tmp_path / "ct", np.where(ball, 60, -900).astype(np.int16), spacing)


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[SlowPACS]:
    with SlowPACS(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture
def daemon(tmp_path: Path, pacs: SlowPACS) -> Iterator[Daemon]:
    with serve(tmp_path / "daemon", CONFIGURATION.format(pacs=pacs.port)) as daemon:
        yield daemon


@pytest.fixture
def engine(daemon: Daemon, tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'daemon' / 'data' / 'voxtrial.db'}")
    yield engine
    engine.dispose()


def jobs(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return list(session.scalars(select(Job.state).order_by(Job.id)))


def deliveries(engine: Engine, version: int) -> dict[str, tuple[str, str]]:
    """Return state and reason of every object of a version's job, by SOP Instance UID."""
    query = (
        select(ResultObject.sop_instance_uid, Delivery.state, Delivery.reason)
        .join(Delivery, Delivery.result_object_id == ResultObject.id)
        .join(Job, Job.id == ResultObject.job_id)
        .join(StudyVersion, StudyVersion.id == Job.study_version_id)
        .where(StudyVersion.version == version)
    )
    with Session(engine) as session:
        return {uid: (state, reason) for uid, state, reason in session.execute(query)}


@contextmanager
def standing_still(daemon: Daemon, engine: Engine) -> Iterator[None]:
    """Stop the worker with everything that runs below it, and let it go on at the end."""
    children = psutil.Process(daemon.process.pid).children()
    (worker,) = [child for child in children if "work" in child.cmdline()]
    while True:
        stopped = [worker, *worker.children(recursive=True)]
        for process in stopped:
            process.suspend()
        if not is_locked(engine):
            break
        for process in stopped:  # it was caught inside a transaction
            process.resume()
        time.sleep(0.05)
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


def is_locked(engine: Engine) -> bool:
    """Return whether somebody holds SQLite's write lock for longer than a moment."""
    with closing(sqlite3.connect(str(engine.url.database), timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
    return False


def supersede_while(daemon: Daemon, engine: Engine, late: Path) -> None:
    """Send the slice that was missing, and wait until its version has taken the place of the first."""
    storescu([late], daemon.port)
    wait_until(lambda: jobs(engine)[0] == JobState.SUPERSEDED, 60, "the second version")


def finish(engine: Engine) -> None:
    def is_finished() -> bool:
        return jobs(engine) == [JobState.SUPERSEDED, JobState.SUCCEEDED] and not any(
            state in OPEN for version in (1, 2) for state, _ in deliveries(engine, version).values()
        )

    wait_until(is_finished, 120, "the end of both versions")


def judge(engine: Engine, pacs: SlowPACS, files: list[Path], *, sent_of_first: int) -> None:
    """Nothing has vanished, and of the first version only what was on its way has reached the PACS."""
    with Session(engine) as session:
        first, second = session.scalars(select(StudyVersion).order_by(StudyVersion.version)).all()
        rows = session.scalars(select(Instance.sop_instance_uid)).all()
    assert (first.state, first.instances) == (StudyState.READY, len(files) - 1)
    assert (second.state, second.instances) == (StudyState.READY, len(files))
    assert second.predecessor_id == first.id
    assert sorted(rows) == sorted(str(pydicom.dcmread(f).SOPInstanceUID) for f in files)

    old, new = deliveries(engine, 1), deliveries(engine, 2)
    assert {state for state, _ in new.values()} == {DeliveryState.CONFIRMED}
    assert sum(state == DeliveryState.CONFIRMED for state, _ in old.values()) == sent_of_first
    assert {r for s, r in old.values() if s != DeliveryState.CONFIRMED} <= {SUPERSEDED}
    arrived = {str(pydicom.dcmread(path).SOPInstanceUID) for path in pacs.objects()}
    assert arrived == {uid for uid, (state, _) in (old | new).items() if state == DeliveryState.CONFIRMED}
    assert sorted(pacs.received) == sorted(arrived), "nothing was sent twice"
    assert predecessors(pacs) <= arrived, "a report refers to what the PACS has"


def predecessors(pacs: SlowPACS) -> set[str]:
    """Return the documents that the reports at the PACS name as their predecessors."""
    return {
        str(document.ReferencedSOPInstanceUID)
        for report in map(pydicom.dcmread, pacs.objects())
        for study in report.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for document in series.ReferencedSOPSequence
    }


def run_until(daemon: Daemon, engine: Engine, files: list[Path], reached: Callable[[], bool]) -> None:
    storescu(files, daemon.port)
    wait_until(reached, 60, "the moment")


def test_slice_that_comes_while_the_job_is_queued(
    daemon: Daemon, engine: Engine, pacs: SlowPACS, files: list[Path]
) -> None:
    with standing_still(daemon, engine):
        run_until(daemon, engine, files[:-1], lambda: jobs(engine) == [JobState.QUEUED])
        supersede_while(daemon, engine, files[-1])
    finish(engine)
    judge(engine, pacs, files, sent_of_first=0)


def test_slice_that_comes_while_the_job_runs(
    daemon: Daemon, engine: Engine, pacs: SlowPACS, files: list[Path]
) -> None:
    run_until(daemon, engine, files[:-1], lambda: jobs(engine) == [JobState.RUNNING])
    with standing_still(daemon, engine):
        assert jobs(engine) == [JobState.RUNNING]
        supersede_while(daemon, engine, files[-1])
    finish(engine)
    judge(engine, pacs, files, sent_of_first=0)


def test_slice_that_comes_while_the_results_are_being_delivered(
    daemon: Daemon, engine: Engine, pacs: SlowPACS, files: list[Path]
) -> None:
    """The PACS holds its answer to the first object; the second is superseded before its turn comes."""
    pacs.gate.clear()
    run_until(daemon, engine, files[:-1], lambda: len(pacs.received) == 1)
    supersede_while(daemon, engine, files[-1])
    pacs.gate.set()
    finish(engine)
    judge(engine, pacs, files, sent_of_first=1)


def test_slice_that_comes_after_the_results_were_confirmed(
    daemon: Daemon, engine: Engine, pacs: SlowPACS, files: list[Path]
) -> None:
    """Both versions are at the PACS then; the report of the second names that of the first."""

    def confirmed() -> bool:
        states = [state for state, _ in deliveries(engine, 1).values()]
        return states == 2 * [DeliveryState.CONFIRMED]

    run_until(daemon, engine, files[:-1], confirmed)
    supersede_while(daemon, engine, files[-1])
    finish(engine)
    judge(engine, pacs, files, sent_of_first=2)
    reports = {
        str(report.SOPInstanceUID)
        for report in map(pydicom.dcmread, pacs.objects())
        if report.Modality == "SR"
    }
    assert predecessors(pacs) == reports & deliveries(engine, 1).keys()
