"""``voxtrial studies | jobs | deliveries | db``, each test on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from rows import LEASE, MONDAY, finish, job, study
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from voxtrial.daemon.cli import app
from voxtrial.daemon.errors import VoxtrialError
from voxtrial.db import audit, queue
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery

UID = "2.25.1000"


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Path:
    path = tmp_path / "voxtrial.toml"
    path.write_text(f'[site]\ndata = "{tmp_path}"\n[database]\nurl = "{database_url}"\n')
    return path


@pytest.fixture
def site(database: Engine) -> Engine:
    """One study whose first model is done and sent to one of two destinations, and whose second is dead."""
    with sessions(database).begin() as session:
        version = study(session, uid=UID, instances=3)
        job(session, version, model="lung", destinations=["pacs", "research"])
        job(session, version, model="liver")
    with sessions(database).begin() as session:
        finish(session, queue.claim(session, "worker", MONDAY, LEASE), now=MONDAY + timedelta(seconds=12))
        sent = queue.claim_deliveries(session, "deliverer", MONDAY + LEASE, LEASE, destination="pacs")[0]
        queue.mark_sent(session, sent, now=MONDAY + LEASE)
        other = queue.claim_deliveries(session, "deliverer", MONDAY + LEASE, LEASE, destination="research")[0]
        queue.fail_delivery(session, other, permanent=True, reason="A900: wrong class.", now=MONDAY + LEASE)
        dead = queue.claim(session, "worker", MONDAY, LEASE)
        queue.set_step(session, dead, "predict")
        queue.fail(
            session, dead, error_class=queue.ErrorClass.FATAL, reason="Weights differ.", now=MONDAY + LEASE
        )
    return database


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_studies_list_gives_one_object_a_version(site: Engine, config: Path) -> None:
    (listed,) = json.loads(call("studies", "list", "--json", "--config", config).stdout)
    expected = {
        "study_instance_uid": UID,
        "version": 1,
        "state": "READY",
        "reason": "liver: Dead in step predict: Weights differ. When that is mended: voxtrial jobs retry 2.",
        "instances": 3,
        "jobs": {"lung": "SUCCEEDED", "liver": "DEAD"},
        "deliveries": {"pacs": "SENT", "research": "DEAD"},
    }
    assert {key: listed[key] for key in expected} == expected


def test_studies_list_answers_in_one_line(site: Engine, config: Path) -> None:
    line = call("studies", "list", "--config", config).stdout.splitlines()[1]
    for part in (UID, "READY", "lung: SUCCEEDED", "liver: DEAD", "pacs: SENT", "Weights differ."):
        assert part in line


def test_empty_site_lists_nothing(config: Path, database: Engine) -> None:
    for group in ("studies", "jobs", "deliveries"):
        assert json.loads(call(group, "list", "--json", "--config", config).stdout) == []


def test_receiving_study_counts_what_has_come(database: Engine, config: Path) -> None:
    with sessions(database).begin() as session:
        study(session, uid=UID, instances=3)
        late = study(session, uid=UID, version=2, instances=2)
        late.state, late.instances = "RECEIVING", 0
    listed = json.loads(call("studies", "list", "--json", "--config", config).stdout)
    assert [(one["version"], one["state"], one["instances"]) for one in listed] == [
        (2, "RECEIVING", 5),
        (1, "READY", 3),
    ]


def test_studies_list_is_complete_over_several_pages(
    database: Engine, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voxtrial.db.overview.PAGE", 2)
    with sessions(database).begin() as session:
        for _ in range(5):
            study(session)
    listed = json.loads(call("studies", "list", "--json", "--config", config).stdout)
    assert [one["study_instance_uid"] for one in listed] == [f"2.25.{n}" for n in (5, 4, 3, 2, 1)]
    limited = json.loads(call("studies", "list", "--json", "--limit", "3", "--config", config).stdout)
    assert limited == listed[:3]


@pytest.mark.parametrize("name", [UID, "2.25.10", ".1000"])
def test_studies_show_draws_the_timeline(site: Engine, config: Path, name: str) -> None:
    shown = call("studies", "show", name, "--config", config).stdout
    assert "job 1 lung: QUEUED → RUNNING" in shown
    assert "│ 12.0 s" in shown
    assert "job 2 liver: RUNNING → DEAD  (Weights differ. (in step predict))" in shown
    assert "delivery 1 SEG to pacs: PENDING → SENT" in shown


def test_unknown_study_is_named_with_the_remedy(site: Engine, config: Path) -> None:
    with pytest.raises(VoxtrialError, match=r"no study 9\.9; list them"):
        call("studies", "show", "9.9", "--config", config)


def test_jobs_list_and_show_say_step_and_reason(site: Engine, config: Path) -> None:
    (dead,) = json.loads(call("jobs", "list", "--state", "dead", "--json", "--config", config).stdout)
    assert (dead["model_name"], dead["step"], dead["reason"]) == ("liver", "predict", "Weights differ.")
    shown = call("jobs", "show", "2", "--config", config).stdout
    assert "Weights differ." in shown
    assert "job 2: RUNNING → DEAD" in shown


def test_dead_jobs_are_redriven_and_the_act_is_audited(site: Engine, config: Path) -> None:
    call("jobs", "retry", "--dead", "--reason", "weights restored", "--config", config)
    with Session(site) as session:
        assert session.get_one(Job, 2).state == "QUEUED"
        row = session.scalars(select(audit.AuditRow)).one()
        assert (row.action, row.subject) == ("retry job", "job 2")
        assert audit.first_broken(session) is None
    assert "weights restored" in call("jobs", "show", "2", "--config", config).stdout


def test_forbidden_change_is_one_sentence_and_changes_nothing(site: Engine, config: Path) -> None:
    with pytest.raises(VoxtrialError, match="Job 1: SUCCEEDED cannot become CANCELLED"):
        call("jobs", "cancel", "1", "--config", config)
    with pytest.raises(VoxtrialError, match="There is no job 77"):
        call("jobs", "retry", "77", "--config", config)
    with Session(site) as session:
        assert session.scalars(select(audit.AuditRow)).all() == []


def test_deliveries_are_listed_redriven_and_cancelled(site: Engine, config: Path) -> None:
    listed = json.loads(call("deliveries", "list", "--json", "--config", config).stdout)
    assert [(one["destination"], one["state"]) for one in listed] == [("research", "DEAD"), ("pacs", "SENT")]
    call("deliveries", "retry", "--dead", "--destination", "research", "--config", config)
    assert "DEAD → PENDING" in call("deliveries", "show", "2", "--config", config).stdout
    call("deliveries", "cancel", "2", "--config", config)
    with Session(site) as session:
        assert session.get_one(Delivery, 2).state == "CANCELLED"


def test_whole_study_is_retried_and_cancelled(site: Engine, config: Path) -> None:
    assert "2 jobs and deliveries" in call("studies", "retry", UID, "--config", config).stdout
    assert "1 jobs cancelled" in call("studies", "cancel", UID, "--config", config).stdout
    with Session(site) as session:
        assert session.scalars(select(Job.state).order_by(Job.id)).all() == ["SUCCEEDED", "CANCELLED"]


def test_cancelled_delivery_is_retried_with_its_study_unless_a_newer_version_took_its_place(
    site: Engine, config: Path
) -> None:
    call("deliveries", "retry", "2", "--config", config)
    call("deliveries", "cancel", "2", "--config", config)
    assert "2 jobs and deliveries" in call("studies", "retry", UID, "--config", config).stdout
    with sessions(site).begin() as session:
        assert session.get_one(Delivery, 2).state == "PENDING"
        job(session, study(session, uid=UID, version=2), model="lung")
    with Session(site) as session:
        assert session.get_one(Delivery, 2).state == "CANCELLED"
    assert "0 jobs and deliveries" in call("studies", "retry", UID, "--config", config).stdout


def test_db_upgrade_refuses_a_newer_schema(config: Path, database: Engine) -> None:
    assert "already" in call("db", "upgrade", "--config", config).stdout
    assert "has the schema" in call("db", "check", "--config", config).stdout
    with database.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for command in ("upgrade", "check"):
        with pytest.raises(VoxtrialError, match="a newer Voxtrial has upgraded it"):
            call("db", command, "--config", config)


def test_db_upgrade_makes_the_tables(tmp_path: Path, empty_database_url: str) -> None:
    config = tmp_path / "voxtrial.toml"
    config.write_text(f'[database]\nurl = "{empty_database_url}"\n')
    with pytest.raises(VoxtrialError, match="run `voxtrial db upgrade`"):
        call("studies", "list", "--config", config)
    assert "from revision none to" in call("db", "upgrade", "--config", config).stdout
    assert call("studies", "list", "--config", config)
