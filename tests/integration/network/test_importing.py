"""Studies from folders and DICOMDIR, and the command that takes them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import peers
import phantoms
import pydicom
import pytest
from daemons import voxtrial
from imported import rows, take
from killed_commands import kill_while_it_stores, stored_without_a_trace_of_the_kills
from pydicom.fileset import FileSet
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.network import importing
from voxtrial.daemon.network.importing import Imported, sources
from voxtrial.daemon.network.intake import Intake, intake_of
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect
from voxtrial.db.studies import Quarantined, StudyVersion

NOBODY = 65534


def test_a_folder_is_taken_to_any_depth_and_again_without_a_change(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    deep = tmp_path / "in" / "a" / "b"
    deep.mkdir(parents=True)
    for path in ct:
        shutil.copy(path, deep)
    (deep / "notes.txt").write_text("no image")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone").symlink_to(tmp_path / "nowhere")

    first = take(tmp_path / "in", intake)
    again = take(tmp_path / "in", intake)

    assert (first.new, first.known, first.refused) == (len(ct), 0, [])
    assert first.skipped == {"no DICOM file": 1, "a link to a folder": 1, "a broken link": 1}
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


def test_files_behind_links_are_taken(intake: Intake, ct: list[Path], tmp_path: Path) -> None:
    """Data sets under git-annex hold nothing but links to files."""
    folder = tmp_path / "annex"
    folder.mkdir()
    for path in ct:
        (folder / path.name).symlink_to(path)
    assert take(folder, intake).new == len(ct)


def test_a_dicomdir_on_a_disc_that_shows_small_letters_is_followed(
    intake: Intake, ct: list[Path], tmp_path: Path
) -> None:
    """Linux shows ISO 9660 names in lower case; the directory has them in upper case."""
    media = FileSet()
    for path in ct:
        media.add(path)
    media.write(tmp_path / "media")
    for path in sorted((tmp_path / "media").rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    result = take(tmp_path / "media" / "dicomdir", intake)
    assert (result.new, result.refused) == (len(ct), [])


def test_what_may_not_be_read_is_named(data: Path, ct: list[Path]) -> None:
    """Read by a process that is not root, which could read everything."""
    with tempfile.TemporaryDirectory() as name:  # nobody may not look into the folder of the test
        folder = Path(name)
        shutil.copytree(data, folder / "site")
        shutil.copytree(ct[0].parent, folder / "ct")
        (folder / "ct" / "locked").mkdir(mode=0)
        (folder / "ct" / ct[0].name).chmod(0)
        result = as_ordinary_user(folder, lambda: take_into(folder / "site", folder / "ct"))
    assert result["new"] == len(ct) - 1
    assert sorted(result["refused"]) == [
        [f"{folder}/ct/{ct[0].name}", "Permission denied"],
        [f"{folder}/ct/locked", "Permission denied"],
    ]


def as_ordinary_user(folder: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``work`` returns in a process that owns ``folder`` and is not root."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                for path in (folder, *folder.rglob("*")):
                    os.chown(path, NOBODY, NOBODY)
                os.setegid(NOBODY)
                os.seteuid(NOBODY)
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return dict(json.loads(said))


def take_into(data: Path, path: Path) -> dict[str, Any]:
    """Import ``path`` into a site of its own engine."""
    engine = connect(f"sqlite:///{data / 'voxtrial.db'}")
    settings = Settings(site={"data": data}, listener={"watermark_mib": 0})  # type: ignore[arg-type]  # pydantic reads dicts
    intake = intake_of(settings, engine)
    result = take(path, intake)
    return {"new": result.new, "refused": result.refused}


def test_a_file_that_cannot_be_read_to_its_end_is_named(
    intake: Intake, ct: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a scratched disc does: the drive gives an error in the middle."""
    real = importing._reader

    class Scratched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 4000:
                raise OSError(5, "Input/output error")
            return super().read(min(size or 4096, 4096))

    def reader(path: Path) -> Callable[[], IO[bytes]]:
        return (lambda: Scratched(path.read_bytes())) if path == ct[0] else real(path)

    monkeypatch.setattr(importing, "_reader", reader)
    result = take(ct[0].parent, intake)
    assert result.new == len(ct) - 1
    assert result.refused == [(str(ct[0]), "Input/output error")]
    assert list(intake.spool.incoming.iterdir()) == []


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


def test_a_terminal_shows_how_far_the_import_is(ct: list[Path], tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n[listener]\nwatermark_mib = 0\n')
    command = [sys.executable, "-m", "voxtrial.daemon", "import", str(tmp_path / "ct")]
    terminal, theirs = os.openpty()
    done = subprocess.run(
        [*command, "--config", str(configuration)], stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    shown = os.read(terminal, 65_536).decode()
    os.close(terminal)
    assert "Import" in shown
    assert f"{len(ct)}/{len(ct)}" in shown
    assert done.stdout.startswith(f"{len(ct)} new instances".encode())


def test_the_command_says_what_is_not_there_before_it_takes_anything(ct: list[Path], tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n')
    nowhere = tmp_path / "nowhere"
    done = voxtrial("import", str(ct[0]), str(nowhere), "--config", str(configuration))
    assert done.returncode == 1
    assert done.stderr == f"voxtrial: There is no file or folder {nowhere}; nothing was imported.\n"
    assert not (tmp_path / "data").exists()


def test_an_import_stops_when_the_disk_is_full_and_says_so_once(ct: list[Path], tmp_path: Path) -> None:
    configuration = tmp_path / "voxtrial.toml"
    full = f"[listener]\nwatermark_mib = {1 << 30}\n"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n{full}')
    done = voxtrial("import", str(ct[0].parent), "--config", str(configuration))
    assert done.returncode == 1
    assert done.stdout.startswith("0 new instances")
    assert done.stderr.startswith(f"voxtrial: Stopped at {ct[0]}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.faults
def test_an_import_that_is_killed_is_resumed_by_starting_it_again(tmp_path: Path) -> None:
    files = phantoms.ct_series(tmp_path / "ct", np.zeros((80, 128, 128), np.int16))
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path / "data"}"\n[listener]\nwatermark_mib = 0\n')
    arguments = ("import", str(tmp_path / "ct"), "--config", str(configuration), "--json")
    kills = kill_while_it_stores(arguments, tmp_path / "data", at=(10, 35, 60))
    report = json.loads(voxtrial(*arguments).stdout)
    assert kills == 3
    assert report["refused"] == []
    assert report["known"] >= 60
    assert report["new"] + report["known"] == len(files)
    assert stored_without_a_trace_of_the_kills(tmp_path / "data") == len(files)
