"""A disk that fills: A700 until there is room again, and no short write is ever acknowledged."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import peers
import phantoms
import pytest
from network_load import numbered, parts, uid
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import Wire

from voxtrial.daemon.errors import Retryable
from voxtrial.daemon.network.archives import Archive, DimsePACS
from voxtrial.daemon.network.dicomweb import WebPACS
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.ledger import Ledger
from voxtrial.daemon.network.pulling import pull
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.network.spool import Spool, dataset_digest
from voxtrial.db.studies import Instance


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a file system of a few MiB; skip where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "voxtrial-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.faults
def test_a_disk_that_fills_is_a700_until_there_is_room_again(
    tmp_path: Path, configure: Callable[..., object], engine: Engine, body: bytes
) -> None:
    from voxtrial.daemon.settings import Settings

    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4))
        site = Settings(
            site={"data": disk},  # type: ignore[arg-type]  # pydantic reads dicts
            listener={"port": 0, "watermark_mib": 0},  # type: ignore[arg-type]  # pydantic reads dicts
        )
        listener = stack.enter_context(Listener(site, engine))
        with Wire(listener.port).associate() as connection:
            statuses = [connection.store(numbered(body, n), uid(n)) for n in range(1, 61)]
            stored = [n for n, status in enumerate(statuses, 1) if status == 0]
            assert set(statuses) == {0x0000, 0xA700}
            for path in list((disk / "spool").rglob("*.dcm"))[:10]:
                path.unlink()  # somebody makes room
            assert connection.store(numbered(body, 100), uid(100)) == 0
            connection.release()
        with Session(engine) as session:
            rows = session.scalars(select(Instance)).all()
        assert {row.sop_instance_uid for row in rows} == {uid(n) for n in [*stored, 100]}
        for row in rows:
            if (disk / row.path).exists():
                assert dataset_digest(disk / row.path) == row.sha256
        assert parts(listener) == []


@pytest.mark.faults
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dicomweb")
@pytest.mark.parametrize("way", ["C-GET", "WADO-RS"])
def test_a_pull_onto_a_full_disk_says_so_and_goes_on_when_there_is_room(
    tmp_path: Path, engine: Engine, way: str
) -> None:
    """Twenty objects of 128 KiB; half of the disk's 4 MiB is taken by something else."""
    volume = np.random.default_rng(1).integers(-1000, 1000, (20, 256, 256)).astype(np.int16)
    slices = phantoms.ct_series(tmp_path / "ct", volume, seed="disk", study_instance_uid="1.2.3.9")
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", 4))
        orthanc = stack.enter_context(peers.orthanc(tmp_path / "orthanc"))
        store(slices, Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"))
        intake = Intake(Spool(disk), Ledger(engine))
        stack.callback(intake.ledger.close)
        archive: Archive = (
            WebPACS(f"http://127.0.0.1:{orthanc.http_port}/dicom-web", intake)
            if way == "WADO-RS"
            else DimsePACS(
                Peer("127.0.0.1", orthanc.dicom_port, "ORTHANC"), intake, "get", ae_title="VOXTRIAL"
            )
        )
        other = disk / "other"
        other.write_bytes(bytes(2 << 20))
        with pytest.raises(Retryable, match="Our own store cannot take more"):
            archive.fetch("1.2.3.9", archive.instances("1.2.3.9"))
        other.unlink()
        first = pull([{"StudyInstanceUID": "1.2.3.9"}], archive, engine)
    assert (first.failed, first.missing) == ({}, {})
    assert first.known > 0
    assert first.known + first.fetched == len(slices)


def test_a_write_that_comes_back_short_is_never_acknowledged(
    listener: Listener, engine: Engine, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills in the middle of a write returns short first, and fails at the next."""
    real_write, room = os.write, [90_000]

    def write(descriptor: int, data: bytes | memoryview) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix != ".part":
            return real_write(descriptor, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        taken = min(room[0], len(data))
        room[0] -= taken
        return real_write(descriptor, memoryview(data)[:taken])

    monkeypatch.setattr(os, "write", write)
    with Wire(listener.port).associate() as connection:
        assert connection.store(body, uid(0)) == 0xA700
        room[0] = 10**9
        assert connection.store(body, uid(0)) == 0
    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    assert dataset_digest(listener.settings.site.data / row.path) == row.sha256
