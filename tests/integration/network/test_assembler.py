"""Study versions from their first instance to READY or REFUSED, and instances that come too late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import peers
import phantoms
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.services.assembler import Assembled, Assembler
from voxtrial.daemon.settings import Settings
from voxtrial.db.base import utc_now
from voxtrial.db.jobs import Event, Job
from voxtrial.db.states import JobState, StudyState
from voxtrial.db.studies import Instance, Series, StudyVersion

ROUTE = {"model": "otsu-tissue", "when": {"modality": "CT"}, "destinations": []}
LATER = timedelta(seconds=90)


def model_name() -> str:
    """Name of a built-in model that needs no weights, or of the first one."""
    from voxtrial.daemon.models.store import ModelStore

    return ModelStore(Path("nowhere")).list()[0].manifest.identity.name


@pytest.fixture
def site(configure: Callable[..., Settings]) -> Settings:
    """Completeness by silence, one route for CT."""
    return configure(routes=[{**ROUTE, "model": model_name()}])


def send(listener: Listener, files: list[Path]) -> None:
    outcomes = store(files, Peer("127.0.0.1", listener.port, "VOXTRIAL"), ae_title="CT1")
    assert {o.status for o in outcomes} == {0}


def assemble(site: Settings, engine: Engine, after: timedelta = LATER) -> Assembled:
    return Assembler(site, engine).run_once(utc_now() + after)


def versions(engine: Engine) -> list[StudyVersion]:
    with Session(engine) as session:
        return list(session.scalars(select(StudyVersion).order_by(StudyVersion.version)))


def jobs(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return list(session.scalars(select(Job.state).order_by(Job.id)))


def test_a_quiet_study_becomes_ready_with_its_series_and_job(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path]
) -> None:
    send(listener, ct)
    assert assemble(site, engine, timedelta(seconds=1)) == Assembled()
    assert assemble(site, engine) == Assembled(closed=1, ready=1)

    (version,) = versions(engine)
    with Session(engine) as session:
        series = session.scalars(select(Series)).one()
        events = [(e.before, e.after) for e in session.scalars(select(Event).where(Event.subject == "study"))]
    assert (version.state, version.basis, version.instances) == (StudyState.READY, "quiet", len(ct))
    assert (series.accepted, series.instances, series.modality) == (True, len(ct), "CT")
    assert series.acquisition["ConvolutionKernel"] == "STD"
    assert jobs(engine) == [JobState.QUEUED]
    assert events == [("", "RECEIVING"), ("RECEIVING", "ASSUMED"), ("ASSUMED", "READY")]
    assert assemble(site, engine) == Assembled()


def test_a_missing_slice_is_refused_with_the_rule(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path]
) -> None:
    send(listener, [*ct[:2], *ct[3:]])
    assert assemble(site, engine).refused == 1
    (version,) = versions(engine)
    assert (version.state, version.rule) == (StudyState.REFUSED, "missing_slice")
    assert version.reason
    assert jobs(engine) == []


def test_a_study_for_no_route_is_ready_and_says_so(
    listener: Listener, engine: Engine, configure: Callable[..., Settings], ct: list[Path]
) -> None:
    site = configure(routes=[{**ROUTE, "model": model_name(), "when": {"calling_ae": "OTHER"}}])
    send(listener, ct)
    assemble(site, engine)
    (version,) = versions(engine)
    assert (version.state, version.reason) == (StudyState.READY, "No route is for this study.")


def test_a_route_without_its_model_is_named(
    listener: Listener, engine: Engine, configure: Callable[..., Settings], ct: list[Path]
) -> None:
    site = configure(routes=[{**ROUTE, "model": "no-such-model"}])
    send(listener, ct)
    assemble(site, engine)
    (version,) = versions(engine)
    assert version.state == StudyState.READY
    assert "no-such-model" in version.reason


def test_a_broken_study_does_not_hold_up_the_others(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path], tmp_path: Path
) -> None:
    other = phantoms.ct_series(
        tmp_path / "other", np.zeros((4, 16, 16), np.int16), study_instance_uid="1.2.9"
    )
    send(listener, ct + other)
    for path in (listener.intake.spool.root / "1.2.3.4").rglob("*.dcm"):
        path.write_bytes(b"damaged on disk")
    assemble(site, engine)
    states = {v.study_instance_uid: v.state for v in versions(engine)}
    assert states == {"1.2.3.4": StudyState.REFUSED, "1.2.9": StudyState.READY}


def beside_the_images(folder: Path, sop_class_uid: str, modality: str) -> Path:
    """An object of the study that is no image, as modalities send them along."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, f"1.2.3.4.6.{modality == 'ECG':d}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4", f"1.2.3.4.6{modality == 'ECG':d}"
    ds.Modality, ds.PatientID = modality, "PHANTOM"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{modality}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def companions(tmp_path: Path) -> list[Path]:
    """An ECG, and what Siemens scanners send of a spectroscopy."""
    return [
        beside_the_images(tmp_path, "1.2.840.10008.5.1.4.1.1.9.1.2", "ECG"),
        beside_the_images(tmp_path, "1.3.12.2.1107.5.9.1", "MR"),
    ]


def test_what_comes_beside_the_images_is_taken_and_keeps_nothing_from_running(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path], companions: list[Path]
) -> None:
    send(listener, [*companions, *ct])
    assert assemble(site, engine) == Assembled(closed=1, ready=1)
    (version,) = versions(engine)
    assert version.instances == len(ct) + 2
    with Session(engine) as session:
        series = session.scalars(select(Series)).all()
    assert sorted((s.modality, s.accepted, bool(s.reason)) for s in series) == [
        ("CT", True, False),
        ("ECG", False, True),
        ("MR", False, True),
    ]
    assert jobs(engine) == [JobState.QUEUED]


# --- instances that come too late --------------------------------------------------------------------------


def test_an_instance_that_comes_while_the_study_is_being_closed_keeps_it_open(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(listener, ct[:5])
    real = Assembler._decide

    def decide(self: Assembler, *arguments: object) -> object:
        decision = real(self, *arguments)  # type: ignore[arg-type]  # passed through
        send(listener, ct[5:])
        return decision

    monkeypatch.setattr(Assembler, "_decide", decide)
    assert assemble(site, engine).closed == 0
    monkeypatch.undo()
    assert assemble(site, engine, 2 * LATER).ready == 1
    (version,) = versions(engine)
    assert version.instances == len(ct)


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED])
def test_late_instances_open_a_version_that_supersedes_the_job(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path], state: JobState
) -> None:
    send(listener, ct[:5])
    assemble(site, engine)
    with Session(engine) as session, session.begin():
        session.scalars(select(Job)).one().state = state.value
    send(listener, ct[5:])
    assert assemble(site, engine, 2 * LATER) == Assembled(closed=1, ready=1)

    first, second = versions(engine)
    assert (first.state, second.state) == (StudyState.READY, StudyState.READY)
    assert (first.instances, second.instances) == (5, 6)
    assert second.predecessor_id == first.id
    assert jobs(engine) == [JobState.SUPERSEDED, JobState.QUEUED]
    with Session(engine) as session:
        sizes = [s.instances for s in session.scalars(select(Series).order_by(Series.study_version_id))]
    assert sizes == [5, 6]


def test_an_instance_between_closing_and_gate_does_not_join_silently(
    listener: Listener, engine: Engine, site: Settings, ct: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(listener, ct[:5])
    real = Assembler._pass_gate

    def gate(self: Assembler, version_id: int, now: datetime, result: Assembled) -> None:
        send(listener, ct[5:])
        real(self, version_id, now, result)

    monkeypatch.setattr(Assembler, "_pass_gate", gate)
    assemble(site, engine)
    first, second = versions(engine)
    assert (first.state, first.instances) == (StudyState.READY, 5)
    assert second.state == StudyState.RECEIVING
    with Session(engine) as session:
        assert session.scalars(select(Series)).one().instances == 5


# --- the PACS is asked -------------------------------------------------------------------------------------


@pytest.fixture
def small_pacs(tmp_path: Path) -> Iterator[SmallPACS]:
    with SmallPACS(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture(params=["get", "move"])
def asking(
    request: pytest.FixtureRequest,
    small_pacs: SmallPACS,
    listener: Listener,
    configure: Callable[..., Settings],
) -> Settings:
    """A site that asks the small PACS, and fetches by C-GET and by C-MOVE in turn."""
    small_pacs.known["VOXTRIAL"] = Peer("127.0.0.1", listener.port, "VOXTRIAL")
    query = {"host": "127.0.0.1", "port": small_pacs.port, "ae_title": "SMALLPACS", "retrieve": request.param}
    return configure(
        routes=[{**ROUTE, "model": model_name()}],
        completeness={"quiet_seconds": 60, "cap_hours": 2, "query": query},
    )


def test_missing_instances_are_fetched_and_the_count_confirms(
    listener: Listener, engine: Engine, asking: Settings, small_pacs: SmallPACS, ct: list[Path]
) -> None:
    store(ct, small_pacs.peer)
    send(listener, ct[:2])
    assert assemble(asking, engine).fetched == 4
    (version,) = versions(engine)
    assert version.state == StudyState.RECEIVING
    with Session(engine) as session:
        peers.wait_until(lambda: len(session.scalars(select(Instance)).all()) == len(ct), 10, "all instances")
    assert assemble(asking, engine, 2 * LATER) == Assembled(closed=1, ready=1)
    (version,) = versions(engine)
    assert (version.basis, version.expected_instances) == ("c-find", len(ct))
    assert version.missing_uids == []


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_orthanc_is_asked_by_c_find_and_gives_what_is_missing(
    listener: Listener,
    engine: Engine,
    configure: Callable[..., Settings],
    ct: list[Path],
    tmp_path: Path,
    retrieve: str,
) -> None:
    with peers.orthanc(tmp_path / "orthanc", modalities={"VOXTRIAL": listener.port}) as orthanc:
        query = {
            "host": "127.0.0.1",
            "port": orthanc.dicom_port,
            "ae_title": "ORTHANC",
            "retrieve": retrieve,
        }
        site = configure(completeness={"quiet_seconds": 60, "cap_hours": 2, "query": query})
        store(ct, Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))
        send(listener, ct[:4])
        assert assemble(site, engine).fetched == 2
        with Session(engine) as session:
            peers.wait_until(lambda: len(session.scalars(select(Instance)).all()) == len(ct), 10, "all of it")
        assert assemble(site, engine, 2 * LATER).closed == 1
    with Session(engine) as session:
        states = session.scalars(select(Event.after).order_by(Event.id)).all()
    (version,) = versions(engine)
    assert StudyState.CONFIRMED in states
    assert (version.basis, version.instances, version.expected_instances) == ("c-find", len(ct), len(ct))


def test_what_the_pacs_has_beside_the_images_is_fetched_too(
    listener: Listener,
    engine: Engine,
    asking: Settings,
    small_pacs: SmallPACS,
    ct: list[Path],
    companions: list[Path],
) -> None:
    store([*ct, *companions], small_pacs.peer)
    send(listener, ct)
    assert assemble(asking, engine).fetched == 2
    assert assemble(asking, engine, 2 * LATER) == Assembled(closed=1, ready=1)


def test_what_cannot_be_fetched_is_incomplete_at_the_cap(
    listener: Listener,
    engine: Engine,
    configure: Callable[..., Settings],
    small_pacs: SmallPACS,
    ct: list[Path],
) -> None:
    query = {"host": "127.0.0.1", "port": small_pacs.port, "ae_title": "SMALLPACS", "retrieve": "none"}
    site = configure(completeness={"quiet_seconds": 60, "cap_hours": 2, "query": query})
    store(ct, small_pacs.peer)
    send(listener, ct[:5])
    assert assemble(site, engine) == Assembled()
    assert assemble(site, engine, timedelta(hours=3)).closed == 1
    (version,) = versions(engine)
    missing = str(pydicom.dcmread(ct[5]).SOPInstanceUID)
    assert (version.state, version.expected_instances) == (StudyState.INCOMPLETE, len(ct))
    assert version.missing_uids == [missing]


def test_a_pacs_that_is_down_is_waited_for(
    listener: Listener, engine: Engine, configure: Callable[..., Settings], ct: list[Path]
) -> None:
    query = {"host": "127.0.0.1", "port": peers.free_port(), "ae_title": "SMALLPACS"}
    site = configure(completeness={"quiet_seconds": 60, "cap_hours": 2, "query": query})
    send(listener, ct)
    assert assemble(site, engine) == Assembled()
    assert assemble(site, engine, timedelta(hours=3)).closed == 1
    (version,) = versions(engine)
    assert version.state == StudyState.INCOMPLETE
    assert "could not be asked" in version.reason
