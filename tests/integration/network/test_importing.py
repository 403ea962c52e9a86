"""Studies from folders, DICOMDIR and zip archives; hostile archives among them."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import peers
import pydicom
import pytest
from pydicom.fileset import FileSet
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network import importing
from voxtrial.daemon.network.importing import Imported, import_source, sources
from voxtrial.daemon.network.intake import Intake, intake_of
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.db.studies import Instance, Quarantined, StudyVersion


@pytest.fixture
def intake(configure: object, engine: Engine) -> Iterator[Intake]:
    intake = intake_of(configure(), engine)  # type: ignore[operator]  # the fixture builds settings
    yield intake
    intake.ledger.close()


def take(path: Path, intake: Intake) -> Imported:
    result = Imported()
    for source in sources(path, result):
        import_source(source, intake, result)
    return result


def rows(engine: Engine) -> list[Instance]:
    with Session(engine) as session:
        return list(session.scalars(select(Instance)))


def test_a_folder_is_taken_to_any_depth_and_again_without_a_change(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    deep = tmp_path / "in" / "a" / "b"
    deep.mkdir(parents=True)
    for path in ct:
        shutil.copy(path, deep)
    (deep / "notes.txt").write_text("no image")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")

    first = take(tmp_path / "in", intake)
    again = take(tmp_path / "in", intake)

    assert (first.new, first.known, first.refused) == (len(ct), 0, [])
    assert first.skipped == {"no DICOM file": 1}
    assert (again.new, again.known) == (0, len(ct))
    assert len(rows(engine)) == len(ct)
    with Session(engine) as session:
        (version,) = session.scalars(select(StudyVersion)).all()
        assert version.calling_ae == "IMPORT"


@pytest.mark.peer("dcmtk")
def test_an_import_keeps_what_the_network_would_have_kept(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    take(ct[0].parent, intake)
    with peers.storescp(tmp_path / "reference", "+B") as port:
        store(ct, Peer("127.0.0.1", port, "STORESCP"))
    digests = sorted(dataset_digest(p) for p in (tmp_path / "reference").iterdir())
    assert sorted(row.sha256 for row in rows(engine)) == digests


def test_other_content_under_a_known_uid_is_refused_and_quarantined(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    take(ct[0], intake)
    changed = pydicom.dcmread(ct[0])
    changed.PatientID = "OTHER"
    changed.save_as(tmp_path / "changed.dcm")
    result = take(tmp_path / "changed.dcm", intake)
    assert result.refused == [(str(tmp_path / "changed.dcm"), "C111 another object is stored under this UID")]
    with Session(engine) as session:
        assert len(session.scalars(select(Quarantined)).all()) == 1


def test_a_zip_is_taken_whatever_its_entries_are_called(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    archive = tmp_path / "study.zip"
    names = ["a/1", "../../../../tmp/evil.dcm", "/etc/evil.dcm", "C:\\evil", "x" * 200, "dir/../../2"]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, path in zip(names, ct, strict=True):
            packed.write(path, name)
        packed.writestr("README", "hello")
    before = set(Path("/tmp").glob("evil*"))

    result = take(archive, intake)

    assert (result.new, result.refused) == (len(ct), [])
    assert {Path(row.path).parts[0] for row in rows(engine)} == {"spool"}
    assert set(Path("/tmp").glob("evil*")) == before


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    intake: Intake, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "UNQUESTIONED_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(64 << 20))
    result = take(bomb, intake)
    assert [name for name, _ in result.refused] == [str(bomb)]
    assert "would unpack" in result.refused[0][1]
    assert rows(engine) == []


def test_a_damaged_zip_is_refused_and_the_next_source_is_taken(
    intake: Intake, ct: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(ct[0], "0")
    data = bytearray((folder / "a.zip").read_bytes())
    data[2000:2100] = bytes(100)
    (folder / "a.zip").write_bytes(data)
    shutil.copy(ct[1], folder / "b.dcm")
    result = take(folder, intake)
    assert (result.new, len(result.refused)) == (1, 1)
    assert list(intake.spool.incoming.iterdir()) == []


def test_a_dicomdir_names_its_files_and_nothing_outside(
    intake: Intake, ct: list[Path], tmp_path: Path
) -> None:
    media = FileSet()
    for path in ct:
        media.add(path)
    media.write(tmp_path / "media")
    directory = tmp_path / "media" / "DICOMDIR"
    result = take(directory, intake)
    assert (result.new, result.refused) == (len(ct), [])

    outside = tmp_path / "OUTSIDE"
    shutil.copy(ct[0], outside)
    ds = pydicom.dcmread(directory)
    images = [r for r in ds.DirectoryRecordSequence if "ReferencedFileID" in r]
    with pydicom.config.disable_value_validation():
        images[0].ReferencedFileID = ["..", "OUTSIDE"]
        ds.save_as(directory)
    refused = take(directory, intake).refused
    assert [reason for _, reason in refused] == ["the DICOMDIR points outside its folder"]


def test_a_folder_with_a_dicomdir_skips_the_directory_itself(
    intake: Intake, ct: list[Path], tmp_path: Path
) -> None:
    media = FileSet()
    for path in ct:
        media.add(path)
    media.write(tmp_path / "media")
    result = take(tmp_path / "media", intake)
    assert result.new == len(ct)
    assert sum(result.skipped.values()) == 1


def test_what_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="no file or folder"):
        list(sources(tmp_path / "nothing", Imported()))


@pytest.mark.shared_data
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_nasty_files_are_stored_or_refused_with_a_reason(intake: Intake, shared_data: Path) -> None:
    result = take(shared_data / "nasty", intake)
    assert result.new > 5
    assert all(reason for _, reason in result.refused)


def test_the_command_reports_in_json(ct: list[Path], tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n[listener]\nwatermark_mib = 0\n')
    (tmp_path / "ct" / "notes.txt").write_text("x")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "ct"), "--config", str(configuration), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["new"] == len(ct)
    assert report["skipped"] == {"no DICOM file": 1}
