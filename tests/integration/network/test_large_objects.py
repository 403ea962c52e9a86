"""Objects larger than what the listener may hold of them in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantoms
import psutil
import pytest
from pydicom.uid import EnhancedCTImageStorage
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from wire import EXPLICIT_LITTLE_ENDIAN, Wire

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.prefork import ListenerProcess
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.daemon.settings import Settings
from voxtrial.db.studies import Instance

MEBIBYTES = 100
SOP_INSTANCE_UID = "1.2.3.4.5.6"


@pytest.fixture(scope="module")
def multi_frame(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An Enhanced CT of 100 MiB, as it travels."""
    path = tmp_path_factory.mktemp("large") / "one.dcm"
    ds = phantoms.ct_slice(
        np.zeros((512, 512), np.int16),
        (0, 0, 0),
        study_instance_uid="1.2.3.4",
        series_instance_uid="1.2.3.4.5",
        sop_instance_uid=SOP_INSTANCE_UID,
    )
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames = 2 * MEBIBYTES
    ds.PixelData = np.random.default_rng(5).bytes(MEBIBYTES << 20)  # no part of it is like another
    ds.save_as(path, enforce_file_format=True)
    handle, _ = part10.open_dataset(path)
    with handle:
        return handle.read()


def peak_mib(pid: int) -> float:
    """Return the most memory that the process ever had since ``forget_peak`` (proc(5), VmHWM)."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_an_object_of_100_mib_is_never_held_in_memory(
    configure: Callable[..., Settings], engine: Engine, body: bytes, multi_frame: bytes
) -> None:
    """The peak while it is received, not what is left of it later: a copy that was freed would show."""
    settings = configure(listener={"workers": 1})
    enhanced = (str(EnhancedCTImageStorage), EXPLICIT_LITTLE_ENDIAN)
    with ListenerProcess(settings) as listener:
        (worker,) = psutil.Process(listener._process.pid).children()
        with Wire(listener.port, timeout=60).associate() as first:
            assert first.store(body, "1.2.826.0.1.3680043.8.498.7.100000000") == 0
            first.release()
        forget_peak(worker.pid)
        before = peak_mib(worker.pid)
        with Wire(listener.port, timeout=60).associate(enhanced) as wire:
            status = wire.store(
                multi_frame, SOP_INSTANCE_UID, sop_class_uid=str(EnhancedCTImageStorage), piece=100_000
            )
            assert status == 0
            wire.release()
        assert peak_mib(worker.pid) - before < 16
    with Session(engine) as session:
        query = select(Instance).where(Instance.sop_instance_uid == SOP_INSTANCE_UID)
        row = session.scalars(query).one()
    assert row.sha256 == hashlib.sha256(multi_frame).hexdigest()
    assert row.sha256 == dataset_digest(settings.site.data / row.path)
    assert (settings.site.data / row.path).stat().st_size > len(multi_frame) > MEBIBYTES << 20


def test_the_peak_would_show_a_copy() -> None:
    """The measure itself: a buffer that is freed again raises it."""
    pid = psutil.Process().pid
    forget_peak(pid)
    before = peak_mib(pid)
    assert len(bytearray(b"x") * (64 << 20)) == 64 << 20
    assert peak_mib(pid) - before > 48
