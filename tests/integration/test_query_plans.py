"""The hot queries use their indexes, by EXPLAIN, on both databases with 20,000 finished jobs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import phantoms
import pytest
from rows import LEASE, MONDAY, finished_jobs, instances_of_finished_jobs, job, open_jobs, study
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session

from voxtrial.daemon.network.joining import TOUCH
from voxtrial.daemon.services.assembler import Assembler
from voxtrial.daemon.settings import Settings
from voxtrial.db import overview, queue
from voxtrial.db.engine import claiming_engine, sessions
from voxtrial.db.jobs import Job
from voxtrial.db.waiting import Why

FINISHED = 20_000


@pytest.fixture
def grown(database: Engine) -> Engine:
    """Finished jobs with their events and confirmed deliveries, and ten open jobs."""
    finished_jobs(database, FINISHED)
    with sessions(database).begin() as session:
        for _ in range(10):
            job(session)
    analyse(database)
    return database


def analyse(database: Engine) -> None:
    """Bring the planner's statistics up to date, as a running server does by itself."""
    if database.dialect.name == "postgresql":
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


def plans(database: Engine, work) -> str:
    """Run ``work(session)`` and return the statements that it sent, each with the database's plan."""
    explained: list[str] = []
    prefix = "EXPLAIN " if database.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "

    def explain(connection, cursor, statement, parameters, context, many):
        if statement.startswith(("SELECT", "WITH", "UPDATE", "DELETE")) and not many:
            explained.append(statement)
            cursor.execute(prefix + statement, parameters)
            explained.extend(" ".join(map(str, row)) for row in cursor.fetchall())

    event.listen(database, "before_cursor_execute", explain)
    try:
        with sessions(database).begin() as session:
            work(session)
    finally:
        event.remove(database, "before_cursor_execute", explain)
    return "\n".join(explained)


def why(session: Session) -> Why:
    return Why(session, now=MONDAY, is_open=lambda window, now: True)


def assert_no_scan(plan: str, *tables: str) -> None:
    for table in tables:
        assert f"Seq Scan on {table}" not in plan, plan
        assert f"SCAN {table}\n" not in f"{plan}\n", plan


def test_claim_reads_the_index_of_open_jobs(grown: Engine) -> None:
    plan = plans(grown, lambda session: queue.claim(session, "worker", MONDAY, LEASE))
    assert "ix_jobs_claimable" in plan
    assert_no_scan(plan, "jobs")


@pytest.mark.parametrize("backlog", [0, 2000])
def test_claim_walks_the_index_whatever_the_tables_held_when_it_was_planned(
    database: Engine, backlog: int
) -> None:
    """PostgreSQL keeps the first plan of a claiming connection: it must suit every backlog after it."""
    engine = claiming_engine(database)
    open_jobs(database, backlog)
    plan = plans(engine, lambda session: queue.claim(session, "worker", MONDAY, LEASE))
    engine.dispose()
    assert "ix_jobs_claimable" in plan
    assert "Sort" not in plan
    assert "USE TEMP B-TREE" not in plan


def test_heartbeat_reads_one_row(grown: Engine) -> None:
    with sessions(grown).begin() as session:
        claimed = queue.claim(session, "worker", MONDAY, LEASE)
    plan = plans(grown, lambda session: queue.heartbeat(session, claimed, MONDAY, LEASE))
    assert any(index in plan for index in ("pk_jobs", "ix_jobs_running", "INTEGER PRIMARY KEY"))
    assert_no_scan(plan, "jobs")


def test_rescue_reads_the_index_of_running_jobs(grown: Engine) -> None:
    with sessions(grown).begin() as session:
        queue.claim(session, "worker", MONDAY, LEASE)
    plan = plans(grown, lambda session: queue.rescue(session, MONDAY + timedelta(hours=1)))
    assert "ix_jobs_running" in plan
    assert_no_scan(plan, "jobs")


def test_why_a_job_waits_is_read_from_the_index_of_running_jobs(grown: Engine) -> None:
    with Session(grown) as session:
        queued = session.scalars(select(Job).where(Job.state == "QUEUED").limit(1)).one()
        queue.offer(session, "worker", memory_mib=8000, gpus=0, now=MONDAY, lease=LEASE)
        session.commit()
        session.refresh(queued)
    plan = plans(grown, lambda session: why(session).of(queued))
    assert "ix_jobs_running" in plan
    assert_no_scan(plan, "jobs")


def test_windows_of_the_backlog_are_read_from_its_index(grown: Engine) -> None:
    plan = plans(grown, queue.windows)
    assert "ix_jobs_claimable" in plan
    assert_no_scan(plan, "jobs")


def test_assembler_reads_the_open_studies_and_the_instances_of_one(
    grown: Engine, database_url: str, tmp_path: Path
) -> None:
    """One pass closes a late slice's version, passes it through the gate and supersedes the older job."""
    instances_of_finished_jobs(grown)
    with sessions(grown).begin() as session:
        job(session, study(session, uid="2.25.7", instances=3), model="otsu")
        late = study(session, uid="2.25.7", version=2, instances=1)
        late.state, late.closed_at = "RECEIVING", None
    slices = phantoms.ct_series(tmp_path / "scanner", np.zeros((4, 8, 8), np.int16))
    names = [*(f"2.25.7.1.{n}" for n in range(3)), "2.25.7.2.0"]
    (tmp_path / "spool").mkdir()
    for path, name in zip(slices, names, strict=True):
        path.rename(tmp_path / "spool" / f"{name}.dcm")
    analyse(grown)
    settings = Settings(site={"data": tmp_path}, database={"url": database_url}, routes=[{"model": "otsu"}])
    assembler = Assembler(settings, grown)
    done = []
    plan = plans(grown, lambda _: done.append(assembler.run_once(MONDAY + timedelta(hours=1))))
    assert (done[0].closed, done[0].ready) == (1, 1)
    with Session(grown) as session:
        of_model = select(Job.state).where(Job.model_name == "otsu").order_by(Job.id)
        assert session.scalars(of_model).all() == ["SUPERSEDED", "QUEUED"]
    assert "ix_study_versions_state_id" in plan
    assert "ix_instances_study_version_id" in plan
    assert_no_scan(plan, "study_versions", "instances", "jobs", "result_objects", "deliveries")


def test_an_instance_finds_its_study_in_the_index_of_open_versions(grown: Engine) -> None:
    with sessions(grown).begin() as session:
        study(session, uid="2.25.7").state = "RECEIVING"
    analyse(grown)
    plan = plans(grown, lambda session: session.execute(TOUCH, {"study": "2.25.7", "at": MONDAY}))
    assert "uq_study_versions_receiving" in plan
    assert_no_scan(plan, "study_versions")


def test_claim_of_deliveries_reads_the_index_of_open_deliveries(grown: Engine) -> None:
    plan = plans(grown, lambda session: queue.claim_deliveries(session, "deliverer", MONDAY, LEASE))
    assert "ix_deliveries_open" in plan
    assert_no_scan(plan, "deliveries")


@pytest.mark.parametrize("state", ["", "DEAD"])
def test_list_of_jobs_walks_an_index(grown: Engine, state: str) -> None:
    query = overview.select_jobs(state=state, limit=50)
    plan = plans(grown, lambda session: session.execute(query).all())
    index = "ix_jobs_ended_without_result" if state else "pk_jobs"
    assert index in plan or (not state and "SCAN jobs\n" in f"{plan}\n")  # SQLite: from the newest row on


def test_list_of_studies_reads_one_page(grown: Engine) -> None:
    plan = plans(grown, lambda session: list(overview.list_studies(session, why(session), limit=50)))
    assert "uq_jobs_study_version_id" in plan or "sqlite_autoindex_jobs_1 (study_version_id" in plan
    assert_no_scan(plan, "jobs", "deliveries", "result_objects")


def test_timeline_reads_the_events_of_its_rows(grown: Engine) -> None:
    with Session(grown) as session:
        uid = next(iter(overview.list_studies(session, why(session), limit=1))).study_instance_uid
    plan = plans(grown, lambda session: overview.timeline(session, uid))
    assert "ix_events_subject_subject_id_id" in plan
    assert_no_scan(plan, "events")
