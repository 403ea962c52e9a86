"""Studies from zip archives; hostile archives among them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from imported import rows, take
from sqlalchemy import Engine

from voxtrial.daemon.network import importing
from voxtrial.daemon.network.intake import Intake


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


def test_an_archive_inside_an_archive_is_named_and_not_opened(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.write(ct[0], "0")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(tmp_path / "inner.zip", "inner.zip")
        outer.write(ct[1], "1")
    result = take(tmp_path / "outer.zip", intake)
    assert result.new == 1
    reason = "an archive that is not opened here; unpack it first"
    assert result.refused == [(f"{tmp_path / 'outer.zip'}:inner.zip", reason)]


def test_a_zip_that_understates_its_sizes_is_read_no_further_than_it_says(
    intake: Intake, engine: Engine, ct: list[Path], tmp_path: Path
) -> None:
    """The size in the directory is what the bounds were checked with, so it must hold."""
    archive = tmp_path / "liar.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(ct[0], "0")
    data = bytearray(archive.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")  # uncompressed size
    archive.write_bytes(data)
    result = take(archive, intake)
    assert (result.new, len(result.refused)) == (0, 1)
    assert rows(engine) == []
    assert list(intake.spool.incoming.iterdir()) == []


def test_a_zip_whose_entries_share_their_bytes_is_a_bomb(
    intake: Intake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many directory entries over one packed megabyte (D. Fifield, A better zip bomb, WOOT 2019)."""
    monkeypatch.setattr(importing, "UNQUESTIONED_BYTES", 1 << 20)
    archive = tmp_path / "overlap.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("0", bytes(1 << 20))
        packed.filelist *= 1000
    (refused,) = take(archive, intake).refused
    assert "would unpack to" in refused[1]


def test_an_encrypted_zip_is_named_with_what_to_do(intake: Intake, ct: list[Path], tmp_path: Path) -> None:
    archive = tmp_path / "secret.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(ct[0], "0")
    data = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    archive.write_bytes(data)
    assert [reason for _, reason in take(archive, intake).refused] == ["encrypted; unpack it first"]
