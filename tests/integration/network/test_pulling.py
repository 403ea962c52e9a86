"""Studies fetched from the small PACS and from Orthanc, by C-GET, C-MOVE and DICOMweb."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers
import phantoms
import pydicom
import pytest
from daemons import voxtrial
from killed_commands import kill_while_it_stores, stored_without_a_trace_of_the_kills
from pydicom.uid import JPEGLSLossless, RLELossless
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network.archives import DimsePACS
from voxtrial.daemon.network.dicomweb import WebPACS
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.pulling import parse_keys, pull, read_worklist
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.db.base import utc_now
from voxtrial.db.studies import Instance


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two studies of one patient and one of another, three slices each."""
    folder = tmp_path_factory.mktemp("studies")
    files = []
    for number, patient in ((1, "ANNA"), (2, "ANNA"), (3, "BERT")):
        volume = np.full((3, 16, 16), number, np.int16)
        files += phantoms.ct_series(
            folder / str(number), volume, patient_id=patient, study_instance_uid=f"1.2.3.{number}"
        )
    return files


@pytest.fixture
def small_pacs(tmp_path: Path, studies: list[Path]) -> Iterator[SmallPACS]:
    with SmallPACS(tmp_path / "pacs") as pacs:
        store(studies, pacs.peer)
        yield pacs


def held(engine: Engine) -> int:
    with Session(engine) as session:
        return len(session.scalars(select(Instance)).all())


@pytest.mark.parametrize("how", ["get", "move"])
def test_what_matches_is_fetched_once_and_what_is_not_found_is_named(
    listener: Listener, engine: Engine, small_pacs: SmallPACS, how: str
) -> None:
    small_pacs.known["VOXTRIAL"] = Peer("127.0.0.1", listener.port, "VOXTRIAL")
    archive = DimsePACS(small_pacs.peer, listener.intake, how, "VOXTRIAL")
    seen: list[tuple[str, int, int]] = []
    queries = [{"PatientID": "ANNA"}, {"StudyInstanceUID": "1.2.3.1"}, {"PatientID": "NOBODY"}]

    result = pull(queries, archive, engine, on_study=lambda *progress: seen.append(progress))

    assert (result.studies, result.fetched, result.known) == (2, 6, 0)
    assert result.not_found == [{"PatientID": "NOBODY"}]
    assert (result.missing, result.failed) == ({}, {})
    assert sorted(seen) == [("1.2.3.1", 3, 0), ("1.2.3.2", 3, 0)]
    assert held(engine) == 6
    again = pull(queries, archive, engine)
    assert (again.fetched, again.known) == (0, 6)


def test_a_pull_that_was_interrupted_fetches_the_rest(
    listener: Listener, engine: Engine, small_pacs: SmallPACS, studies: list[Path]
) -> None:
    store(studies[:2], Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    archive = DimsePACS(small_pacs.peer, listener.intake, "get", "VOXTRIAL")
    result = pull([{"StudyInstanceUID": "1.2.3.1"}], archive, engine)
    assert (result.known, result.fetched) == (2, 1)


def test_a_pacs_that_does_not_know_where_to_move_is_named_with_what_to_do(
    listener: Listener, engine: Engine, small_pacs: SmallPACS
) -> None:
    archive = DimsePACS(small_pacs.peer, listener.intake, "move", "VOXTRIAL")
    result = pull([{"StudyInstanceUID": "1.2.3.1"}], archive, engine)
    assert result.failed["1.2.3.1"].endswith(
        "refused the C-MOVE with status A801; does it know our AE title as a destination?"
    )
    assert result.missing == {"1.2.3.1": 3}


def test_a_pull_rests_after_each_study_that_it_fetched(
    listener: Listener, engine: Engine, small_pacs: SmallPACS
) -> None:
    archive = DimsePACS(small_pacs.peer, listener.intake, "get", "VOXTRIAL")
    for least in (2 * 0.5, 0.0):  # two studies fetched, then none
        begun = time.monotonic()
        pull([{"PatientID": "ANNA"}], archive, engine, pause_seconds=0.5)
        assert time.monotonic() - begun >= least


def test_what_retention_deleted_is_fetched_again(
    listener: Listener, engine: Engine, small_pacs: SmallPACS
) -> None:
    archive = DimsePACS(small_pacs.peer, listener.intake, "get", "VOXTRIAL")
    pull([{"StudyInstanceUID": "1.2.3.1"}], archive, engine)
    with Session(engine) as session, session.begin():
        gone = session.scalars(select(Instance)).first()
        assert gone is not None
        (listener.settings.site.data / gone.path).unlink()
        gone.deleted_at = utc_now()
    again = pull([{"StudyInstanceUID": "1.2.3.1"}], archive, engine)
    assert (again.known, again.fetched) == (2, 1)
    with Session(engine) as session:
        assert all((listener.settings.site.data / i.path).exists() for i in session.scalars(select(Instance)))
        assert all(i.deleted_at is None for i in session.scalars(select(Instance)))


def test_a_pacs_that_is_down_is_reported(listener: Listener, engine: Engine) -> None:
    nobody = Peer("127.0.0.1", peers.free_port(), "NOBODY")
    result = pull([{"PatientID": "ANNA"}], DimsePACS(nobody, listener.intake, "get", "VOXTRIAL"), engine)
    assert list(result.failed) == ["PatientID=ANNA"]


@pytest.mark.peer("orthanc")
def test_orthanc_matches_any_key(
    listener: Listener, engine: Engine, studies: list[Path], tmp_path: Path
) -> None:
    """Wild cards, ranges and two keys at once, by C-FIND; then C-GET of what matches (PS3.4 C.2.2.2)."""
    date = str(pydicom.dcmread(studies[0]).StudyDate)
    with peers.orthanc(tmp_path / "orthanc") as orthanc:
        peer = Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC")
        store(studies, peer)
        archive = DimsePACS(peer, listener.intake, "get", ae_title="VOXTRIAL")
        for keys, found in (
            (["PatientID=AN*"], {"1.2.3.1", "1.2.3.2"}),
            (["PatientID=?ERT", f"StudyDate={date}-"], {"1.2.3.3"}),
            (["PatientID=*ERT", f"StudyDate=-{int(date[:4]) - 1}1231"], set()),
            (["StudyInstanceUID=1.2.3.2"], {"1.2.3.2"}),
        ):
            assert set(archive.studies(parse_keys(keys))) == found, keys
        result = pull([parse_keys(["PatientID=AN*", f"StudyDate={date}"])], archive, engine)
    assert (result.studies, result.fetched, result.failed, result.missing) == (2, 6, {}, {})
    assert held(engine) == 6


@pytest.mark.peer("orthanc")
@pytest.mark.peer("dicomweb")
def test_dicomweb_brings_the_same_pixels(
    listener: Listener, engine: Engine, studies: list[Path], tmp_path: Path
) -> None:
    with peers.orthanc(tmp_path / "orthanc") as orthanc:
        store(studies, Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))
        archive = WebPACS(f"http://127.0.0.1:{orthanc.http_port}/dicom-web", listener.intake)
        result = pull([{"PatientID": "BERT"}, {"PatientID": "NOBODY"}], archive, engine)
    assert (result.studies, result.fetched, result.failed) == (1, 3, {})
    assert result.not_found == [{"PatientID": "NOBODY"}]
    assert held(engine) == 3


@pytest.mark.peer("orthanc")
@pytest.mark.parametrize("how", ["get", "move"])
def test_compressed_objects_come_as_the_pacs_has_stored_them(
    listener: Listener, engine: Engine, studies: list[Path], tmp_path: Path, how: str
) -> None:
    """A study of JPEG-LS, RLE and uncompressed slices: by C-GET each syntax needs a context of its own."""
    files = []
    for path, syntax in zip(studies[:3], (JPEGLSLossless, RLELossless, None), strict=True):
        ds = pydicom.dcmread(path)
        if syntax:
            ds.compress(syntax, generate_instance_uid=False)
        files.append(tmp_path / path.name)
        ds.save_as(files[-1], enforce_file_format=True)
    with peers.orthanc(tmp_path / "orthanc") as orthanc:
        orthanc.know("VOXTRIAL", listener.port)
        peer = Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC")
        assert [o.status for o in store(files, peer)] == [0, 0, 0]
        archive = DimsePACS(peer, listener.intake, how, "VOXTRIAL")
        result = pull([{"StudyInstanceUID": "1.2.3.1"}], archive, engine)
    assert (result.fetched, result.failed) == (3, {})
    with Session(engine) as session:
        kept = {row.transfer_syntax_uid: row.sha256 for row in session.scalars(select(Instance))}
    assert kept == {pydicom.dcmread(f).file_meta.TransferSyntaxUID: dataset_digest(f) for f in files}


def test_keys_and_worklists_name_dicom_keywords(tmp_path: Path) -> None:
    assert parse_keys(["PatientID=12*", "StudyDate=20260101-"]) == {
        "PatientID": "12*",
        "StudyDate": "20260101-",
    }
    with pytest.raises(Misconfigured, match="PatientName"):
        parse_keys(["PatientName"])
    with pytest.raises(Misconfigured, match="'Patient' is no DICOM keyword; did you mean PatientID"):
        parse_keys(["Patient=1"])
    with pytest.raises(Misconfigured, match="matches every study"):
        parse_keys(["PatientID=*", "StudyDate="])
    worklist = tmp_path / "list.csv"
    worklist.write_text("\ufeffPatientID,AccessionNumber\nANNA,\n,A-1\n,\n", encoding="utf-8")
    assert list(read_worklist(worklist)) == [{"PatientID": "ANNA"}, {"AccessionNumber": "A-1"}]
    worklist.write_text("PatientID;StudyDate\nANNA;20260101\n")  # as a German Excel writes it
    assert list(read_worklist(worklist)) == [{"PatientID": "ANNA", "StudyDate": "20260101"}]
    with pytest.raises(Misconfigured, match="Cannot read"):
        list(read_worklist(tmp_path / "nothing.csv"))


def test_the_command_pulls_a_worklist(small_pacs: SmallPACS, tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n[listener]\nwatermark_mib = 0\n')
    worklist = tmp_path / "list.csv"
    worklist.write_text("PatientID\nBERT\nNOBODY\n")
    node = f"SMALLPACS@127.0.0.1:{small_pacs.port}"
    done = CliRunner().invoke(
        app,
        ["pull", "--from", node, "--worklist", str(worklist), "--config", str(configuration), "--json"],
    )
    report = json.loads(done.stdout)
    assert done.exit_code == 1  # NOBODY was not found
    assert (report["studies"], report["fetched"]) == (1, 3)
    assert report["not_found"] == [{"PatientID": "NOBODY"}]


def test_the_command_says_what_is_missing_in_one_sentence(tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n')

    def said(*arguments: str) -> str:
        done = voxtrial("pull", *arguments, "--config", str(configuration))
        assert done.returncode == 1
        assert done.stdout == ""
        return done.stderr

    assert said() == "voxtrial: Say what to fetch: keys such as PatientID=1234, or --worklist FILE.\n"
    assert "Say where from: --from AE_TITLE@HOST:PORT" in said("PatientID=1")
    assert "write AE_TITLE@HOST:PORT" in said("PatientID=1", "--from", "pacs")


@pytest.mark.faults
def test_a_pull_that_is_killed_is_resumed_by_starting_it_again(tmp_path: Path) -> None:
    """Killed in the middle of a C-GET, again and again: at last everything is here, once."""
    volume = np.zeros((60, 128, 128), np.int16)
    files = phantoms.ct_series(tmp_path / "ct", volume, patient_id="ANNA", study_instance_uid="1.2.3.9")
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n[listener]\nwatermark_mib = 0\n')
    with SmallPACS(tmp_path / "pacs") as pacs:
        store(files, pacs.peer)
        node = f"SMALLPACS@127.0.0.1:{pacs.port}"
        arguments = ("pull", "PatientID=ANNA", "--from", node, "--config", str(configuration), "--json")
        kills = kill_while_it_stores(arguments, tmp_path / "data", at=(10, 25, 45))
        report = json.loads(voxtrial(*arguments).stdout)
    assert kills == 3
    assert report["missing"] == report["failed"] == {}
    assert report["known"] >= 45
    assert report["known"] + report["fetched"] == len(files)
    assert stored_without_a_trace_of_the_kills(tmp_path / "data") == len(files)
