"""Results on their way to a real PACS: sent, committed, read back, and what happens when it goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
from peers import Orthanc, free_port, orthanc, wait_until
from slow_pacs import SlowPACS
from sqlalchemy.orm import Session, sessionmaker

from voxtrial.daemon.job import JobInput, ResultFile
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.pipeline import run_job
from voxtrial.daemon.services import deliverer as deliverer_module
from voxtrial.daemon.services.deliverer import Deliverer
from voxtrial.daemon.settings import Destination, Settings
from voxtrial.daemon.volume import SourceInstance
from voxtrial.db import queue
from voxtrial.db.base import Base
from voxtrial.db.engine import connect, sessions
from voxtrial.db.jobs import Job, Model
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState
from voxtrial.db.studies import StudyVersion

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def objects(tmp_path: Path) -> tuple[ResultFile, ...]:
    """SEG and SR of a ball, below the data folder."""
    shape, spacing = (12, 32, 32), (2.5, 1.0, 1.0)
    ball = phantoms.sphere(shape, spacing, 8)
    files = phantoms.ct_series(tmp_path / "ct", np.where(ball, 60, -900).astype(np.int16), spacing)
    model = ModelStore(tmp_path / "models").get("otsu")
    folder = tmp_path / "data" / "objects"
    folder.mkdir(parents=True)
    instances = tuple(
        SourceInstance(
            sop_instance_uid=str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID),
            sop_class_uid="",
            sha256="0",
            path=str(f),
        )
        for f in files
    )
    return run_job(
        JobInput(
            job_id=1,
            study_instance_uid="",
            study_version=1,
            instances=instances,
            model_folder=str(model.folder),
            model_digest=model.digest,
            recipe_digest=model.recipe_digest,
            objects_folder=str(folder),
            first_started_at=NOW,
            site="Site A",
        )
    ).objects


@pytest.fixture
def database(tmp_path: Path, objects: tuple[ResultFile, ...]) -> Iterator[sessionmaker[Session]]:
    """A database in which the objects wait to be delivered to ``pacs``."""
    engine = connect(f"sqlite:///{tmp_path / 'data' / 'voxtrial.db'}")
    Base.metadata.create_all(engine)
    factory = sessions(engine)
    study = str(pydicom.dcmread(objects[0].path).StudyInstanceUID)
    with factory.begin() as session:
        version = StudyVersion(study_instance_uid=study, version=1, state="READY")
        session.add_all([version, Model(digest="m", name="otsu", version="1")])
        session.flush()
        job = Job(
            study_version_id=version.id,
            model_digest="m",
            model_name="otsu",
            recipe_digest="r",
            state=JobState.SUCCEEDED,
        )
        session.add(job)
        session.flush()
        for file in objects:
            below = replace(file, path=str(Path(file.path).relative_to(tmp_path / "data")))
            stored = ResultObject(job_id=job.id, study_instance_uid=study, created_at=NOW, **asdict(below))
            session.add(stored)
            session.flush()
            session.add(Delivery(result_object_id=stored.id, destination="pacs", available_at=NOW))
    yield factory
    engine.dispose()


def deliverer(tmp_path: Path, database: sessionmaker[Session], port: int, **options: object) -> Deliverer:
    destination = Destination.model_validate({"name": "pacs", "port": port, "ae_title": "ORTHANC", **options})
    settings = Settings.model_validate(
        {"site": {"data": tmp_path / "data"}, "destinations": [destination.model_dump()]}
    )
    return Deliverer(settings, database, "test")


def deliveries(database: sessionmaker[Session]) -> list[Delivery]:
    with database() as session:
        return list(session.query(Delivery).order_by(Delivery.id))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.mark.peer("orthanc")
def test_orthanc_commits_and_gives_back_what_was_sent(
    tmp_path: Path, database: sessionmaker[Session], pacs: Orthanc
) -> None:
    settings = Settings.model_validate({"site": {"data": tmp_path / "data"}, "listener": {"port": 0}})
    with Listener(settings) as listener:
        pacs.know("VOXTRIAL", listener.port)
        duty = deliverer(tmp_path, database, pacs.dicom_port)
        for seconds in range(0, 60, 6):
            duty.run_once(NOW + timedelta(seconds=seconds))
            if {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}:
                break
            time.sleep(0.3)
    assert [(d.state, d.basis) for d in deliveries(database)] == 2 * [
        (DeliveryState.CONFIRMED, "read-back+commitment")
    ]


@pytest.mark.peer("orthanc")
def test_a_pacs_that_does_not_know_us_is_confirmed_by_read_back_alone(
    tmp_path: Path, database: sessionmaker[Session], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with orthanc(tmp_path_factory.mktemp("stranger")) as stranger:
        duty = deliverer(tmp_path, database, stranger.dicom_port)
        duty.run_once(NOW)
        assert {d.state for d in deliveries(database)} == {DeliveryState.SENT}
        duty.run_once(NOW + timedelta(minutes=6))
    assert [(d.state, d.basis) for d in deliveries(database)] == 2 * [(DeliveryState.CONFIRMED, "read-back")]


@pytest.mark.peer("orthanc")
def test_a_pacs_that_keeps_another_object_under_our_uid_is_found_out(
    tmp_path: Path, database: sessionmaker[Session], objects: tuple[ResultFile, ...], pacs: Orthanc
) -> None:
    impostor = pydicom.dcmread(objects[0].path)
    impostor.PixelData = bytes(len(impostor.PixelData))
    path = tmp_path / "impostor.dcm"
    impostor.save_as(path, enforce_file_format=True)
    pacs.rest("/instances", path.read_bytes())
    deliverer(tmp_path, database, pacs.dicom_port, commitment=False).run_once(NOW)
    first, second = deliveries(database)
    assert first.state == DeliveryState.DEAD
    assert "PixelData" in first.reason
    assert second.state == DeliveryState.CONFIRMED


def test_a_pacs_that_is_down_leaves_the_delivery_waiting_and_is_tried_again(
    tmp_path: Path, database: sessionmaker[Session]
) -> None:
    port = free_port()
    duty = deliverer(tmp_path, database, port)
    duty.run_once(NOW)
    assert {d.state for d in deliveries(database)} == {DeliveryState.WAITING}
    assert all(d.reason for d in deliveries(database))
    with SmallPACS(tmp_path / "pacs", "ORTHANC", port=port):
        for minutes in range(1, 4):
            duty.run_once(NOW + timedelta(hours=minutes))
    assert {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}


def test_the_small_pacs_commits_and_gives_back_equal_objects(
    tmp_path: Path, database: sessionmaker[Session]
) -> None:
    with SmallPACS(tmp_path / "pacs", "ORTHANC") as small:
        duty = deliverer(tmp_path, database, small.port)
        for minutes in range(4):
            duty.run_once(NOW + timedelta(minutes=2 * minutes))
        assert len(small.objects()) == 2
    assert {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}


def test_an_object_that_the_pacs_lost_is_sent_again(tmp_path: Path, database: sessionmaker[Session]) -> None:
    with SmallPACS(tmp_path / "pacs", "ORTHANC") as small:
        port = small.port
        with database.begin() as session:
            for row in session.query(Delivery):
                row.state, row.sent_at, row.attempts = DeliveryState.SENT.value, NOW, 1
        duty = deliverer(tmp_path, database, port, commitment=False)
        duty.run_once(NOW)
        assert {d.state for d in deliveries(database)} == {DeliveryState.WAITING}
        duty.run_once(NOW + timedelta(hours=1))
        assert {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}


def test_a_peer_that_takes_longer_than_the_lease_is_sent_nothing_twice(
    tmp_path: Path,
    database: sessionmaker[Session],
    objects: tuple[ResultFile, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two deliverers; the first needs several leases for its objects, and the second finds none to send."""
    monkeypatch.setattr(deliverer_module, "LEASE", timedelta(seconds=1))
    with SlowPACS(tmp_path / "pacs", "ORTHANC", seconds=2.5) as slow:
        first = deliverer(tmp_path, database, slow.port, commitment=False)
        second = deliverer(tmp_path, database, slow.port, commitment=False)
        begun = datetime.now(UTC)
        thread = threading.Thread(target=first.run_once, args=(begun,))
        thread.start()
        wait_until(lambda: bool(slow.received), 20, "the first object")
        while thread.is_alive():
            second.run_once(datetime.now(UTC))
            time.sleep(0.1)
        thread.join()
    assert sorted(slow.received) == sorted(o.sop_instance_uid for o in objects)
    assert {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}
    assert [d.attempts for d in deliveries(database)] == [1, 1]


def test_a_peer_may_take_as_long_for_an_object_as_its_destination_says(
    tmp_path: Path, database: sessionmaker[Session]
) -> None:
    with SlowPACS(tmp_path / "pacs", "ORTHANC", seconds=2.0) as slow:
        deliverer(tmp_path, database, slow.port, commitment=False, answer_seconds=0.5).run_once(NOW)
        first, second = deliveries(database)
        assert {first.state, second.state} == {DeliveryState.WAITING}
        assert "did not answer" in first.reason
        later = NOW + timedelta(hours=1)
        deliverer(tmp_path, database, slow.port, commitment=False, answer_seconds=30).run_once(later)
    assert {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}


def test_what_a_killed_deliverer_held_is_due_again_after_its_lease(
    tmp_path: Path, database: sessionmaker[Session]
) -> None:
    with database.begin() as session:
        queue.claim_deliveries(session, "killed", NOW, deliverer_module.LEASE)
    with SmallPACS(tmp_path / "pacs", "ORTHANC") as small:
        duty = deliverer(tmp_path, database, small.port, commitment=False)
        assert duty.run_once(NOW + deliverer_module.LEASE / 2) == 0
        assert duty.run_once(NOW + 2 * deliverer_module.LEASE) > 0
    assert {d.state for d in deliveries(database)} == {DeliveryState.CONFIRMED}


def test_results_superseded_while_they_wait_for_their_turn_are_not_sent(
    tmp_path: Path, database: sessionmaker[Session], objects: tuple[ResultFile, ...]
) -> None:
    """The one that is on its way arrives; the other, under the same lease, is cancelled."""
    with SlowPACS(tmp_path / "pacs", "ORTHANC", seconds=1.0) as slow:
        duty = deliverer(tmp_path, database, slow.port, commitment=False)
        thread = threading.Thread(target=duty.run_once, args=(datetime.now(UTC),))
        thread.start()
        wait_until(lambda: bool(slow.received), 20, "the first object")
        with database.begin() as session:
            job = session.query(Job).one()
            queue.supersede(session, job, now=NOW, actor="test", reason="Version 2 of the study is ready.")
        thread.join()
        assert slow.received == [objects[0].sop_instance_uid]
    first, second = deliveries(database)
    assert first.state == DeliveryState.CONFIRMED
    assert (second.state, second.reason) == (DeliveryState.CANCELLED, "Version 2 of the study is ready.")


def test_superseded_results_do_not_wait_for_a_pacs_that_is_down(
    tmp_path: Path, database: sessionmaker[Session]
) -> None:
    """As when the PACS went down while it was being sent to, and the job was superseded meanwhile."""
    with database.begin() as session:
        job = session.query(Job).one()
        job.state, job.reason = JobState.SUPERSEDED.value, "Version 2 of the study is ready."
    deliverer(tmp_path, database, free_port()).run_once(NOW)
    assert {d.state for d in deliveries(database)} == {DeliveryState.CANCELLED}


def test_a_slow_destination_is_served_beside_the_others(
    tmp_path: Path, database: sessionmaker[Session], objects: tuple[ResultFile, ...]
) -> None:
    """A deliverer of one destination leaves the others alone."""
    with database.begin() as session:
        for row in session.query(Delivery).all():
            other = Delivery(result_object_id=row.result_object_id, destination="research", available_at=NOW)
            session.add(other)
    with SmallPACS(tmp_path / "pacs", "ORTHANC") as small:
        settings = Settings.model_validate(
            {
                "site": {"data": tmp_path / "data"},
                "destinations": [
                    {"name": name, "port": small.port, "ae_title": "ORTHANC", "commitment": False}
                    for name in ("pacs", "research")
                ],
            }
        )
        Deliverer(settings, database, "test", destination="research").run_once(NOW)
    states = [(d.destination, d.state) for d in deliveries(database)]
    assert states == 2 * [("pacs", DeliveryState.PENDING)] + 2 * [("research", DeliveryState.CONFIRMED)]


def test_a_destination_that_left_the_configuration_is_for_a_person(
    tmp_path: Path, database: sessionmaker[Session]
) -> None:
    settings = Settings.model_validate({"site": {"data": tmp_path / "data"}})
    Deliverer(settings, database, "test").run_once(NOW)
    rows = deliveries(database)
    assert {d.state for d in rows} == {DeliveryState.DEAD}
    assert all("add a [[destinations]] entry" in d.reason for d in rows)
