"""What the listener answers, and what is on disk and in the database when it has answered."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import peers
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import MRImageStorage
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import Wire

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, echo, store
from voxtrial.db.audit import AuditRow, first_broken
from voxtrial.db.jobs import Event
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, Quarantined, StudyVersion


def as_peer(listener: Listener) -> Peer:
    return Peer("127.0.0.1", listener.port, "VOXTRIAL")


def dataset_bytes(path: Path) -> bytes:
    handle, _ = part10.open_dataset(path)
    with handle:
        return handle.read()


def audit_reasons(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return [row.detail["reason"] for row in session.scalars(select(AuditRow).order_by(AuditRow.id))]


def leftovers(listener: Listener) -> list[Path]:
    return list(listener.intake.spool.incoming.iterdir())


def store_raw(listener: Listener, body: bytes, sop_instance_uid: str) -> int:
    """Send any bytes as the dataset of a C-STORE whose command says this UID; return the status."""
    with Wire(listener.port).associate() as wire:
        status = wire.store(body, sop_instance_uid)
        wire.release()
    return status


@pytest.mark.peer("dcmtk")
def test_what_storescu_sends_is_kept_byte_for_byte_with_its_row(
    listener: Listener, engine: Engine, ct: list[Path]
) -> None:
    peers.storescu(ct, listener.port)

    with Session(engine) as session:
        rows = {row.sop_instance_uid: row for row in session.scalars(select(Instance))}
        version = session.scalars(select(StudyVersion)).one()
        event = session.scalars(select(Event)).one()
    sent = {str(pydicom.dcmread(p).SOPInstanceUID): dataset_bytes(p) for p in ct}
    assert rows.keys() == sent.keys()
    for uid, body in sent.items():
        kept = listener.settings.site.data / rows[uid].path
        assert dataset_bytes(kept) == body
        assert rows[uid].sha256 == hashlib.sha256(body).hexdigest()
        assert rows[uid].size == len(body)
        assert kept.name == f"{uid}.dcm"
        assert pydicom.dcmread(kept).file_meta.MediaStorageSOPInstanceUID == uid
    assert (version.state, version.version, version.calling_ae) == (StudyState.RECEIVING, 1, "STORESCU")
    assert (version.patient_id, version.accession_number) == ("PHANTOM", "A-1")
    assert event.after == StudyState.RECEIVING
    assert leftovers(listener) == []


@pytest.mark.peer("dcmtk")
def test_echoscu_is_answered(listener: Listener) -> None:
    peers.echoscu(listener.port)


def test_our_own_scu_is_answered(listener: Listener, ct: list[Path]) -> None:
    echo(as_peer(listener))
    assert [o.status for o in store(ct, as_peer(listener))] == [0] * len(ct)


def test_the_same_object_twice_is_success_and_one_row(
    listener: Listener, engine: Engine, ct: list[Path]
) -> None:
    for _ in range(2):
        assert [o.status for o in store(ct[:1], as_peer(listener))] == [0]
    with Session(engine) as session:
        assert len(session.scalars(select(Instance)).all()) == 1
    assert leftovers(listener) == []


def test_other_content_under_a_known_uid_is_quarantined_and_nothing_is_overwritten(
    listener: Listener, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    store(ct[:1], as_peer(listener))
    changed = pydicom.dcmread(ct[0])
    changed.PatientID = "SOMEBODY ELSE"
    changed.save_as(tmp_path / "changed.dcm")

    (outcome,) = store([tmp_path / "changed.dcm"], as_peer(listener))

    assert outcome.status is not None
    assert outcome.status & 0xF000 == 0xC000
    with Session(engine) as session:
        instance = session.scalars(select(Instance)).one()
        quarantined = session.scalars(select(Quarantined)).one()
        assert first_broken(session) is None
    data = listener.settings.site.data
    assert dataset_bytes(data / instance.path) == dataset_bytes(ct[0])
    assert dataset_bytes(data / quarantined.path) == dataset_bytes(tmp_path / "changed.dcm")
    assert quarantined.stored_sha256 == instance.sha256
    assert audit_reasons(engine) == ["another object is stored under this UID"]


def test_a_known_uid_in_another_study_is_a_conflict_too(
    listener: Listener, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    store(ct[:1], as_peer(listener))
    moved = pydicom.dcmread(ct[0])
    moved.StudyInstanceUID = "1.2.3.5"
    moved.save_as(tmp_path / "moved.dcm")

    (outcome,) = store([tmp_path / "moved.dcm"], as_peer(listener))

    assert outcome.status == 0xC111
    spool = listener.intake.spool.root
    assert [p.name for p in spool.rglob("*.dcm")] == [f"{pydicom.dcmread(ct[0]).SOPInstanceUID}.dcm"]
    assert len(list(listener.intake.spool.quarantine.iterdir())) == 1


@pytest.mark.peer("dcmtk")
def test_the_senders_first_choice_of_syntax_is_taken(listener: Listener, ct: list[Path]) -> None:
    said = peers.storescu(ct[:1], listener.port, "-d", "--propose-implicit")
    assert "Accepted Transfer Syntax: =LittleEndianImplicit" in said.stderr
    said = peers.storescu(ct[:1], listener.port, "-d", "--propose-big", check=False)
    assert "Accepted Transfer Syntax: =BigEndianExplicit" in said.stderr


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"SOPInstanceUID": "1.2.3.9"}, 0xA900),
        ({"SOPClassUID": MRImageStorage}, 0xA900),
        ({"StudyInstanceUID": "../../../../tmp/x"}, 0xC000),
        ({"SeriesInstanceUID": ".."}, 0xC000),
        ({"SeriesInstanceUID": "1.2/../../3"}, 0xC000),
        ({"StudyInstanceUID": ""}, 0xC000),
        ({"StudyInstanceUID": "1." + "2" * 70}, 0xC000),
    ],
)
def test_a_dataset_that_contradicts_its_command_or_names_paths_is_refused(
    listener: Listener, engine: Engine, ct: list[Path], change: dict[str, str], status: int
) -> None:
    ds = pydicom.dcmread(ct[0])
    uid = str(ds.SOPInstanceUID)
    with pydicom.config.disable_value_validation():
        for keyword, value in change.items():
            setattr(ds, keyword, value)
        body = encoded(ds)

    assert store_raw(listener, body, uid) == status

    spool = listener.intake.spool
    assert list(spool.root.rglob("*.dcm")) == []
    assert leftovers(listener) == []
    with Session(engine) as session:
        assert session.scalars(select(Instance)).all() == []
        assert len(session.scalars(select(Quarantined)).all()) == 1
    assert len(audit_reasons(engine)) == 1


@pytest.mark.parametrize("uid", ["../../etc/passwd", "..", "1.2.3/4", "1.2.3\\4", "a.b", ".1", "1..2"])
def test_a_command_whose_uid_is_a_path_is_refused(listener: Listener, ct: list[Path], uid: str) -> None:
    before = sorted(listener.settings.site.data.parent.rglob("*"))
    assert store_raw(listener, dataset_bytes(ct[0]), uid) == 0xC000
    after = sorted(listener.settings.site.data.parent.rglob("*"))
    assert [p for p in after if p not in before and not p.name.startswith("voxtrial.db")] == []


@pytest.mark.parametrize("cut", [1, 100, 4096])
def test_a_dataset_that_announces_more_than_it_holds_is_refused(
    listener: Listener, ct: list[Path], cut: int
) -> None:
    body = dataset_bytes(ct[0])[:-cut]
    uid = str(pydicom.dcmread(ct[0]).SOPInstanceUID)
    assert store_raw(listener, body, uid) == 0xC000
    assert list(listener.intake.spool.root.rglob("*.dcm")) == []


@pytest.mark.parametrize("more", [b"\0", b"\0" * 8, b"x" * 100, bytes(range(256))])
def test_a_dataset_that_holds_more_than_it_announces_is_refused(
    listener: Listener, ct: list[Path], more: bytes
) -> None:
    uid = str(pydicom.dcmread(ct[0]).SOPInstanceUID)
    assert store_raw(listener, dataset_bytes(ct[0]) + more, uid) == 0xC000
    assert list(listener.intake.spool.root.rglob("*.dcm")) == []


@pytest.mark.parametrize("length", [-1000, -2, -1, 2, 1000, 1 << 30])
def test_pixel_data_that_lie_about_their_length_are_refused(
    listener: Listener, ct: list[Path], length: int
) -> None:
    body = bytearray(dataset_bytes(ct[0]))
    at = body.rindex(b"\xe0\x7f\x10\x00OW") + 8
    true = int.from_bytes(body[at : at + 4], "little")
    body[at : at + 4] = (true + length).to_bytes(4, "little")
    assert store_raw(listener, bytes(body), str(pydicom.dcmread(ct[0]).SOPInstanceUID)) == 0xC000
    assert list(listener.intake.spool.root.rglob("*.dcm")) == []


@pytest.mark.parametrize("body", [b"", b"\0" * 16, b"not dicom at all", bytes(range(256)) * 8])
def test_garbage_datasets_are_refused(listener: Listener, body: bytes) -> None:
    assert store_raw(listener, body, "1.2.3") == 0xC000


def test_a_full_disk_is_told_and_the_daemon_goes_on(serve: Callable[..., Listener], ct: list[Path]) -> None:
    impossible = serve(watermark_mib=1 << 30)
    (outcome,) = store(ct[:1], as_peer(impossible))
    assert outcome.status == 0xA700
    assert leftovers(impossible) == []
    echo(as_peer(impossible))


def test_connections_that_say_nothing_do_not_stand_in_the_way(
    serve: Callable[..., Listener], ct: list[Path]
) -> None:
    listener = serve(idle_seconds=0.5)
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(20)]
    for probe in silent[:10]:
        probe.close()
    silent[10].sendall(b"\x01\x00\x00\x00\x01\x00half an associate request")
    assert [o.status for o in store(ct[:1], as_peer(listener))] == [0]
    time.sleep(1.5)
    for probe in silent[10:]:
        probe.settimeout(5)
        while probe.recv(1024):  # an A-ABORT may come before the end
            pass
        probe.close()
    echo(as_peer(listener))


def test_probes_that_close_leave_nothing_behind(listener: Listener) -> None:
    """As load balancers and port scanners do; the timeouts are a minute."""
    before = threading.active_count()
    for _ in range(100):
        socket.create_connection(("127.0.0.1", listener.port)).close()
    with Wire(listener.port).associate() as last:  # accepted after the probes
        last.release()
    peers.wait_until(lambda: list(listener._share._counts) == [0], 5, "the end of every probe")
    peers.wait_until(lambda: threading.active_count() <= before, 5, "the end of their threads")


def test_late_instances_open_the_next_version(listener: Listener, engine: Engine, ct: list[Path]) -> None:
    store(ct[:3], as_peer(listener))
    with Session(engine) as session, session.begin():
        session.scalars(select(StudyVersion)).one().state = StudyState.READY.value
    store(ct, as_peer(listener))  # three are known, three are late

    with Session(engine) as session:
        first, second = session.scalars(select(StudyVersion).order_by(StudyVersion.version)).all()
        joined = [i.study_version_id for i in session.scalars(select(Instance).order_by(Instance.id))]
    assert (first.state, second.state) == (StudyState.READY, StudyState.RECEIVING)
    assert (second.version, second.predecessor_id) == (2, first.id)
    assert joined == [first.id] * 3 + [second.id] * 3


def test_known_instances_alone_open_no_version(listener: Listener, engine: Engine, ct: list[Path]) -> None:
    store(ct, as_peer(listener))
    with Session(engine) as session, session.begin():
        session.scalars(select(StudyVersion)).one().state = StudyState.READY.value
    store(ct, as_peer(listener))
    with Session(engine) as session:
        assert len(session.scalars(select(StudyVersion)).all()) == 1


def encoded(ds: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def test_sweep_adopts_files_without_rows_and_deletes_parts(
    listener: Listener, serve: Callable[..., Listener], engine: Engine, ct: list[Path]
) -> None:
    spool = listener.intake.spool
    listener.stop()
    (spool.incoming / "77-1.part").write_bytes(b"half an object")
    ds = pydicom.dcmread(ct[0])
    folder = spool.root / ds.StudyInstanceUID / ds.SeriesInstanceUID
    folder.mkdir(parents=True)
    (folder / f"{ds.SOPInstanceUID}.dcm").write_bytes(ct[0].read_bytes())
    torn = folder / "1.2.3.4.5.dcm"
    torn.write_bytes(ct[1].read_bytes()[:-1000])

    restarted = serve()

    assert leftovers(restarted) == []
    assert not torn.exists()
    with Session(engine) as session:
        assert session.scalars(select(Instance)).one().sop_instance_uid == ds.SOPInstanceUID
        assert session.scalars(select(Quarantined)).one().sop_instance_uid == "1.2.3.4.5"


def test_sweep_leaves_parts_of_living_writers_alone(
    listener: Listener, serve: Callable[..., Listener]
) -> None:
    part = listener.intake.spool.begin()
    serve()
    assert Path(part.path).exists()
    part.discard()
