"""What retention deletes, what it leaves alone, and that both are accounted for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from rows import LEASE, MONDAY, finish, job, study
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.services.retention import Retention
from voxtrial.daemon.settings import Settings
from voxtrial.db import audit, queue
from voxtrial.db.engine import sessions
from voxtrial.db.outcomes import Protocol
from voxtrial.db.studies import Instance, StudyVersion

NEXT_MONTH = MONDAY + timedelta(days=31)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(site={"data": tmp_path}, database={"url": database_url}, retention={"days": 30})


def receive(database: Engine, data: Path, uid: str, version: int = 1) -> StudyVersion:
    """Add a study version of two instances whose files are on disk."""
    with sessions(database).begin() as session:
        row = study(session, uid=uid, version=version, instances=2)
        for instance in session.scalars(select(Instance).where(Instance.study_version_id == row.id)):
            path = data / instance.path
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"pixe")
        return row


def complete(database: Engine, version: StudyVersion, *, confirmed: bool = True) -> None:
    """Run a job over the version and deliver its object."""
    with sessions(database).begin() as session:
        job(session, session.get_one(StudyVersion, version.id))
        finish(session, queue.claim(session, "worker", MONDAY, LEASE), now=MONDAY)
        sent = queue.claim_delivery(session, "deliverer", MONDAY, LEASE)
        queue.mark_sent(session, sent, now=MONDAY)
        if confirmed:
            queue.mark_confirmed(
                session, queue.claim_delivery(session, "d", MONDAY, LEASE), basis="read-back", now=MONDAY
            )


def files(data: Path) -> int:
    return len(list((data / "spool").glob("*.dcm")))


def test_old_confirmed_study_leaves_the_disk_and_its_rows_stay(settings: Settings, database: Engine) -> None:
    complete(database, receive(database, settings.site.data, "2.25.1"))
    retention = Retention(settings, database)
    assert retention.run_once(MONDAY + timedelta(days=29)) == 0
    assert files(settings.site.data) == 2
    assert retention.run_once(NEXT_MONTH) == 1
    assert files(settings.site.data) == 0
    assert retention.run_once(NEXT_MONTH) == 0
    with Session(database) as session:
        assert session.scalars(select(Instance.deleted_at)).all() == [NEXT_MONTH, NEXT_MONTH]
        row = session.scalars(select(audit.AuditRow)).one()
        assert (row.action, row.subject) == ("delete pixel data", "2.25.1")
        assert (row.detail["instances"], row.detail["bytes"]) == (2, 8)
        assert audit.first_broken(session) is None


def test_unconfirmed_study_stays(settings: Settings, database: Engine) -> None:
    complete(database, receive(database, settings.site.data, "2.25.1"), confirmed=False)
    assert Retention(settings, database).run_once(NEXT_MONTH) == 0


@pytest.mark.parametrize("error_class", [queue.ErrorClass.FATAL, queue.ErrorClass.RETRYABLE])
def test_study_whose_job_may_run_again_stays(
    settings: Settings, database: Engine, error_class: queue.ErrorClass
) -> None:
    version = receive(database, settings.site.data, "2.25.1")
    with sessions(database).begin() as session:
        job(session, session.get_one(StudyVersion, version.id))
        claimed = queue.claim(session, "worker", MONDAY, LEASE)
        queue.fail(session, claimed, error_class=error_class, reason="Reason.", now=MONDAY)
    assert Retention(settings, database).run_once(NEXT_MONTH) == 0


def test_study_under_a_registered_protocol_stays(settings: Settings, database: Engine) -> None:
    complete(database, receive(database, settings.site.data, "2.25.1"))
    with sessions(database).begin() as session:
        session.add(Protocol(name="trial", digest="d", document={"model": "stand-in", "model_digest": ""}))
    assert Retention(settings, database).run_once(NEXT_MONTH) == 0


def test_study_with_a_newer_open_version_stays_whole(settings: Settings, database: Engine) -> None:
    complete(database, receive(database, settings.site.data, "2.25.1"))
    late = receive(database, settings.site.data, "2.25.1", version=2)
    with sessions(database).begin() as session:
        session.get_one(StudyVersion, late.id).state = "RECEIVING"
    assert Retention(settings, database).run_once(NEXT_MONTH) == 0


def test_low_disk_takes_the_oldest_first_until_there_is_room(
    settings: Settings, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        complete(database, receive(database, settings.site.data, f"2.25.{number}"))
        with sessions(database).begin() as session:
            version = session.scalars(select(StudyVersion).order_by(StudyVersion.id.desc()).limit(1)).one()
            version.last_instance_at = MONDAY + timedelta(hours=-number)
    full = settings.model_copy(
        update={"retention": settings.retention.model_copy(update={"days": 0.0, "watermark_mib": 100})}
    )
    monkeypatch.setattr(Retention, "_free_mib", lambda _: 100 if files(settings.site.data) <= 2 else 99)
    assert Retention(full, database).run_once(MONDAY) == 2
    with Session(database) as session:
        kept = select(Instance.study_instance_uid).where(Instance.deleted_at.is_(None)).distinct()
        assert session.scalars(kept).all() == ["2.25.1"]


def test_deletion_that_was_killed_half_way_is_done_again(settings: Settings, database: Engine) -> None:
    """The files are gone, the commit was not done: the next run says so."""
    complete(database, receive(database, settings.site.data, "2.25.1"))
    for path in (settings.site.data / "spool").glob("*.dcm"):
        path.unlink()
    assert Retention(settings, database).run_once(NEXT_MONTH) == 1
