"""Sending, querying, fetching and commitment, against Orthanc, DCMTK and the small PACS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import peers
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Fatal, Retryable
from voxtrial.daemon.network import commitment, part10, query
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, echo, store
from voxtrial.daemon.network.status import Verdict
from voxtrial.db.studies import Instance

CT = "1.2.840.10008.5.1.4.1.1.2"


def uids(files: list[Path]) -> list[str]:
    return sorted(str(pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in files)


def body(path: Path) -> bytes:
    handle, _ = part10.open_dataset(path)
    with handle:
        return handle.read()


@pytest.fixture
def small_pacs(tmp_path: Path) -> Iterator[SmallPACS]:
    with SmallPACS(tmp_path / "pacs") as pacs:
        yield pacs


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Orthanc]:
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as peer:
        yield peer


@pytest.fixture(params=["small", pytest.param("orthanc", marks=pytest.mark.peer("orthanc"))])
def pacs(request: pytest.FixtureRequest, listener: Listener) -> Peer:
    """A PACS that knows our listener: the small one, and Orthanc."""
    if request.param == "small":
        small: SmallPACS = request.getfixturevalue("small_pacs")
        small.known["VOXTRIAL"] = Peer("127.0.0.1", listener.port, "VOXTRIAL")
        return small.peer
    peer: peers.Orthanc = request.getfixturevalue("orthanc")
    peer.know("VOXTRIAL", listener.port)
    for study in peer.rest("/studies"):
        peer.rest(f"/studies/{study}", method="DELETE")
    return Peer("127.0.0.1", peer.dicom_port, "ORTHANC")


def test_store_find_count_and_get_back_the_same_bytes(pacs: Peer, ct: list[Path], tmp_path: Path) -> None:
    echo(pacs)
    assert {(o.status, o.verdict) for o in store(ct, pacs)} == {(0, Verdict.STORED)}
    assert query.count_instances("1.2.3.4", pacs) == len(ct)
    assert sorted(query.instance_uids("1.2.3.4", pacs)) == uids(ct)
    (match,) = query.find("STUDY", {"PatientID": "PHAN*", "StudyInstanceUID": ""}, pacs)
    assert match.StudyInstanceUID == "1.2.3.4"

    answer = query.retrieve({"StudyInstanceUID": "1.2.3.4"}, pacs, query.into_folder(tmp_path / "back"))

    assert (answer.completed, answer.failed) == (len(ct), 0)
    back = {p.stem: p for p in (tmp_path / "back").iterdir()}
    for path in ct:
        ds = pydicom.dcmread(path)
        assert pydicom.dcmread(back[ds.SOPInstanceUID]).PixelData == ds.PixelData


def test_single_instances_are_fetched_into_the_store(
    pacs: Peer, listener: Listener, engine: Engine, ct: list[Path]
) -> None:
    store(ct, pacs)
    wanted = dict(list(query.instance_uids("1.2.3.4", pacs).items())[:2])
    for keys in query.by_instance("1.2.3.4", wanted):
        assert query.retrieve(keys, pacs, query.into_store(listener.intake)).completed == 2
    with Session(engine) as session:
        assert {i.sop_instance_uid for i in session.scalars(select(Instance))} == wanted.keys()


def test_move_brings_a_study_to_the_listener(
    pacs: Peer, listener: Listener, engine: Engine, ct: list[Path]
) -> None:
    store(ct, pacs)
    query.move({"StudyInstanceUID": "1.2.3.4"}, pacs, "VOXTRIAL")

    def arrived() -> bool:
        with Session(engine) as session:
            return len(session.scalars(select(Instance)).all()) == len(ct)

    peers.wait_until(arrived, 20, "all instances")


def test_the_commitment_report_arrives_at_the_listener_and_is_kept(
    pacs: Peer, listener: Listener, engine: Engine, ct: list[Path]
) -> None:
    store(ct, pacs)
    objects = [(CT, uid) for uid in uids(ct)]
    transaction, _ = commitment.request([*objects, (CT, "1.2.3.99")], pacs, ae_title="VOXTRIAL")

    def report() -> commitment.CommitmentReport | None:
        with Session(engine) as session:
            return commitment.reported(session, transaction)

    peers.wait_until(lambda: report() is not None, 20, "the report")
    found = report()
    assert found is not None
    assert sorted(found.committed) == uids(ct)
    assert found.failed == {"1.2.3.99": 0x0112}


def test_the_commitment_report_may_come_on_the_same_association(
    small_pacs: SmallPACS, ct: list[Path]
) -> None:
    store(ct, small_pacs.peer)
    _, report = commitment.request(
        [(CT, uid) for uid in uids(ct)], small_pacs.peer, ae_title="NOBODY", wait_seconds=10
    )
    assert report is not None
    assert sorted(report.committed) == uids(ct)
    assert report.failed == {}


@pytest.mark.peer("dcmtk")
def test_storescp_receives_the_very_bytes(ct: list[Path], tmp_path: Path) -> None:
    with peers.storescp(tmp_path / "in", "+B") as port:  # +B: write what comes, as it comes
        assert {o.status for o in store(ct, Peer("127.0.0.1", port, "STORESCP"))} == {0}
    received = sorted(body(p) for p in (tmp_path / "in").iterdir())
    assert received == sorted(body(p) for p in ct)


@pytest.mark.peer("dcmtk")
def test_a_peer_that_takes_implicit_only_gets_it_converted(ct: list[Path], tmp_path: Path) -> None:
    with peers.storescp(tmp_path / "in", "+xi") as port:
        assert {o.status for o in store(ct, Peer("127.0.0.1", port, "STORESCP"))} == {0}
    received = [pydicom.dcmread(p) for p in (tmp_path / "in").iterdir()]
    assert {ds.file_meta.TransferSyntaxUID for ds in received} == {"1.2.840.10008.1.2"}
    sent = {pydicom.dcmread(p).PixelData for p in ct}
    assert {ds.PixelData for ds in received} == sent


@pytest.mark.peer("dcmtk")
def test_compressed_pixels_are_never_recompressed(ct: list[Path], tmp_path: Path) -> None:
    ds = pydicom.dcmread(ct[0])
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.save_as(tmp_path / "jls.dcm")
    with peers.storescp(tmp_path / "in", "+x=") as port:
        outcomes = store([tmp_path / "jls.dcm", ct[1]], Peer("127.0.0.1", port, "STORESCP"))
    assert [o.verdict for o in outcomes] == [Verdict.OTHER_ENCODING, Verdict.STORED]
    assert "JPEG-LS" in outcomes[0].reason


def test_a_peer_that_is_not_there_is_transient(ct: list[Path]) -> None:
    nobody = Peer("127.0.0.1", peers.free_port(), "NOBODY")
    assert {o.verdict for o in store(ct, nobody)} == {Verdict.TRANSIENT}
    with pytest.raises(Retryable):
        echo(nobody)


def test_a_peer_that_does_not_know_us_is_a_configuration_error(
    serve: Callable[..., Listener], ct: list[Path]
) -> None:
    strict = serve(accept=[{"ae_title": "SCANNER1"}])
    peer = Peer("127.0.0.1", strict.port, "VOXTRIAL")
    assert {o.verdict for o in store(ct, peer)} == {Verdict.UNAUTHORISED}
    with pytest.raises(Fatal, match="for good"):
        echo(peer)


def test_a_file_that_is_no_dicom_is_permanent_and_the_others_are_sent(
    listener: Listener, ct: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.dcm").write_text("hello")
    outcomes = store([tmp_path / "text.dcm", ct[0]], Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    assert [o.verdict for o in outcomes] == [Verdict.PERMANENT, Verdict.STORED]


def test_a_peer_that_dies_in_the_middle_is_transient_for_the_rest(
    serve: Callable[..., Listener], ct: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from voxtrial.daemon.network.service import Service

    listener = serve()
    seen: list[int] = []
    real = Service._answer_store

    def answer(self: Service, current: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise RuntimeError("the peer dies")
        real(self, current)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(Service, "_answer_store", answer)
    outcomes = store(ct, Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    assert [o.verdict for o in outcomes] == [Verdict.STORED] * 2 + [Verdict.TRANSIENT] * (len(ct) - 2)


def test_our_own_results_that_come_home_are_no_input(
    listener: Listener, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    from voxtrial.db.jobs import Job, Model
    from voxtrial.db.results import ResultObject
    from voxtrial.db.states import StudyState
    from voxtrial.db.studies import StudyVersion

    peer = Peer("127.0.0.1", listener.port, "VOXTRIAL")
    store(ct, peer)
    ours = pydicom.dcmread(ct[0])
    ours.SOPInstanceUID = ours.file_meta.MediaStorageSOPInstanceUID = "2.25.4711"
    ours.save_as(tmp_path / "seg.dcm")
    with Session(engine) as session, session.begin():
        version = session.scalars(select(StudyVersion)).one()
        version.state = StudyState.READY.value
        session.add(Model(digest="d", name="m", version="1"))
        session.flush()
        job = Job(study_version_id=version.id, model_digest="d", model_name="m", recipe_digest="r")
        session.add(job)
        session.flush()
        session.add(
            ResultObject(
                **{"job_id": job.id, "kind": "SEG", "sop_instance_uid": "2.25.4711", "sop_class_uid": CT},
                **{"series_instance_uid": "1", "study_instance_uid": "1.2.3.4", "path": "x", "size": 1},
                sha256="0" * 64,
            )
        )
    assert [o.status for o in store([tmp_path / "seg.dcm"], peer)] == [0]
    with Session(engine) as session:
        assert len(session.scalars(select(StudyVersion)).all()) == 1
        assert len(session.scalars(select(Instance)).all()) == len(ct)
