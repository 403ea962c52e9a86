"""Awkward files through the running daemon: each is kept or turned away with a reason, none stops it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
from daemons import all_confirmed, serve

from voxtrial.daemon.network import scu
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scu import Peer

CONFIGURATION = """
[completeness]
quiet_seconds = 2

[[destinations]]
name = "pacs"
port = {pacs}
ae_title = "PACS"

[[routes]]
model = "otsu"
when = {{ modality = "CT" }}
destinations = ["pacs"]

[compute]
workers = 1
"""


def awkward_files(shared_data: Path, folder: Path) -> list[Path]:
    """Every file of the awkward set; of the long series of it, all instances."""
    nasty = shared_data / "nasty"
    for archive in nasty.glob("*.tar.xz"):
        with tarfile.open(archive, "r:xz") as content:
            content.extractall(folder / archive.stem, filter="data")
    kept = [p for p in nasty.rglob("*") if p.is_file() and p.suffix not in (".xz", ".txt", ".md")]
    return sorted(kept + [p for p in folder.rglob("*") if p.is_file()])


@pytest.mark.shared_data
def test_awkward_files_are_kept_or_turned_away_and_none_stops_the_daemon(
    shared_data: Path, tmp_path: Path
) -> None:
    files = awkward_files(shared_data, tmp_path / "unpacked")
    assert len(files) > 180
    ball = np.where(phantoms.sphere((12, 32, 32), (2.5, 1, 1), 8), 60, -900).astype(np.int16)
    good = phantoms.ct_series(tmp_path / "good", ball, (2.5, 1.0, 1.0))
    with (
        SmallPACS(tmp_path / "pacs", "PACS") as pacs,
        serve(tmp_path / "daemon", CONFIGURATION.format(pacs=pacs.port)) as daemon,
    ):
        peer = Peer("127.0.0.1", daemon.port, "VOXTRIAL")
        outcomes = scu.store(files, peer)
        turned_away = [o for o in outcomes if not o.stored]
        assert all(o.reason or o.status for o in turned_away)
        scu.echo(peer)
        stored_studies = daemon.wait_for(
            lambda studies: bool(studies) and all(s["state"] in ("READY", "REFUSED") for s in studies)
        )
        assert {o.stored for o in scu.store(good, peer)} == {True}
        study = str(pydicom.dcmread(good[0], stop_before_pixels=True).StudyInstanceUID)
        studies = daemon.wait_for(
            lambda found: all_confirmed([s for s in found if s["study_instance_uid"] == study])
        )
    assert sum(s["instances"] for s in stored_studies) == len(
        {o.sop_instance_uid for o in outcomes if o.stored}
    )
    assert [s for s in studies if s["state"] == "REFUSED" and not s["reason"]] == []
