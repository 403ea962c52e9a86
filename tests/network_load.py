"""Numbered CT datasets to load a listener with, and what a listener leaves in its spool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import phantoms

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.scp import Listener

ROOT_UID = "1.2.826.0.1.3680043.8.498.7"


def uid(number: int) -> str:
    """Return the SOP Instance UID of a numbered dataset; all are of one length."""
    return f"{ROOT_UID}.{number + 100_000_000}"


def ct_dataset(folder: Path) -> bytes:
    """Return a CT dataset of 128 KiB with the UID of number 0, as it travels."""
    ds = phantoms.ct_slice(
        np.random.default_rng(3).integers(-1000, 1000, (256, 256)).astype(np.int16),
        (0, 0, 0),
        study_instance_uid="1.2.3.4",
        series_instance_uid="1.2.3.4.5",
        sop_instance_uid=uid(0),
    )
    ds.save_as(folder / "one.dcm", enforce_file_format=True)
    handle, _ = part10.open_dataset(folder / "one.dcm")
    with handle:
        return handle.read()


def numbered(body: bytes, number: int) -> bytes:
    """Return the dataset under another SOP Instance UID."""
    return body.replace(uid(0).encode(), uid(number).encode())


def parts(listener: Listener) -> list[Path]:
    """Return the files of objects that are on their way in."""
    return list(listener.intake.spool.incoming.iterdir())
