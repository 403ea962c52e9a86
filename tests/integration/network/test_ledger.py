"""The rows of received objects, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from voxtrial.daemon.network.ledger import Ledger, Origin, Outcome, Stored
from voxtrial.daemon.network.scan import Identity
from voxtrial.db.audit import AuditRow, first_broken
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, Quarantined, StudyVersion

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def stored(number: int, *, study: str = "1.2.3", sha256: str = "a" * 64, at: datetime = NOON) -> Stored:
    return Stored(
        identity=Identity(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=f"{study}.9.{number}",
            study_instance_uid=study,
            series_instance_uid=f"{study}.1",
            modality="CT",
            patient_id="P",
            study_description="ÄÖÜ",
        ),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=f"spool/{study}/{number}.dcm",
        size=10,
        sha256=sha256,
        origin=Origin(calling_ae="CT1", called_ae="VOXTRIAL", peer_address="127.0.0.1"),
        received_at=at,
    )


def test_new_same_and_conflicting_objects_are_told_apart(database: Engine) -> None:
    ledger = Ledger(database)
    assert ledger.record(stored(1)) is Outcome.NEW
    assert ledger.record(stored(1)) is Outcome.SAME
    assert ledger.record(stored(1, sha256="b" * 64)) is Outcome.CONFLICT
    ledger.close()
    with Session(database) as session:
        assert session.scalars(select(Instance)).one().sha256 == "a" * 64


def test_every_new_instance_restarts_the_quiet_period(database: Engine) -> None:
    ledger = Ledger(database)
    ledger.record(stored(1))
    ledger.record(stored(2, at=NOON + timedelta(seconds=5)))
    ledger.close()
    with Session(database) as session:
        version = session.scalars(select(StudyVersion)).one()
    assert version.first_instance_at == NOON
    assert version.last_instance_at == NOON + timedelta(seconds=5)


def test_a_file_that_retention_took_and_a_sender_brought_back_is_there_again(database: Engine) -> None:
    ledger = Ledger(database)
    ledger.record(stored(1))
    with Session(database) as session, session.begin():
        session.scalars(select(Instance)).one().deleted_at = NOON
    assert ledger.record(stored(1)) is Outcome.SAME
    ledger.close()
    with Session(database) as session:
        assert session.scalars(select(Instance)).one().deleted_at is None


def test_many_threads_share_transactions_and_each_learns_its_own_outcome(database: Engine) -> None:
    ledgers = [Ledger(database), Ledger(database)]  # two listener processes
    outcomes: dict[tuple[int, int], Outcome] = {}

    def receive(thread: int) -> None:
        for number in range(20):
            outcomes[thread, number] = ledgers[thread % 2].record(stored(number))

    threads = [threading.Thread(target=receive, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.close()
    for number in range(20):
        assert sorted(outcomes[t, number].value for t in range(6)) == ["new"] + ["same"] * 5
    with Session(database) as session:
        assert len(session.scalars(select(Instance)).all()) == 20
        assert session.scalars(select(StudyVersion)).one().state == StudyState.RECEIVING


def test_the_first_instance_and_those_that_join_it_keep_times_alike(database: Engine) -> None:
    """SQLite compares times as text: a whole second must be written as every other time is."""
    ledger = Ledger(database)
    for number in (1, 2):  # the first opens the version, the second joins it
        assert ledger.record(stored(number, at=NOON)) is Outcome.NEW
    ledger.close()
    with database.connect() as connection:
        times = connection.scalars(text("SELECT received_at FROM instances")).all()
    assert len(times) == 2
    assert len(set(times)) == 1


def test_one_row_that_the_database_refuses_does_not_refuse_the_others(database: Engine) -> None:
    ledger = Ledger(database)
    errors: list[BaseException] = []
    start = threading.Barrier(5)

    def receive(number: int) -> None:
        size = 1 << 80 if number == 3 else 10  # no integer column holds this
        good = stored(number)
        start.wait()
        try:
            ledger.record(good._replace(size=size))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=receive, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    assert len(errors) == 1
    with Session(database) as session:
        assert len(session.scalars(select(Instance)).all()) == 4


def test_the_quarantine_keeps_each_content_once_and_audits_each_try(database: Engine) -> None:
    ledger = Ledger(database)
    ledger.record(stored(1))
    for _ in range(3):
        ledger.quarantine(
            path="quarantine/x.dcm",
            sha256="b" * 64,
            reason="another object is stored under this UID",
            origin=Origin(calling_ae="CT1"),
            sop_instance_uid="1.2.3.9.1",
        )
    ledger.close()
    with Session(database) as session:
        assert session.scalars(select(Quarantined)).one().stored_sha256 == "a" * 64
        assert len(session.scalars(select(AuditRow)).all()) == 3
        assert first_broken(session) is None


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_without_a_turn_to_write_nothing_is_recorded_now_or_later(database: Engine) -> None:
    turn = Path(f"{database.url.database}-turn")
    turn.mkdir()
    ledger = Ledger(database)
    with pytest.raises(OperationalError):
        ledger.record(stored(1))
    turn.rmdir()
    assert ledger.record(stored(2)) is Outcome.NEW
    ledger.close()
    with Session(database) as session:
        assert session.scalars(select(Instance.sop_instance_uid)).all() == ["1.2.3.9.2"]
