"""What every test may ask for: the shared reference data, and loud skips when a peer is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("VOXTRIAL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

PEER_PROGRAMS = {
    "orthanc": ("Orthanc", "/usr/sbin/Orthanc"),
    "dcmtk": ("/usr/bin/storescu",),
    "postgresql": ("/usr/lib/postgresql",),
    "chromium": ("chromium",),
}


def _installed(peer: str) -> bool:
    return any(shutil.which(program) or Path(program).exists() for program in PEER_PROGRAMS[peer])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose peer or data is missing; with VOXTRIAL_REQUIRE_PEERS=1 that is a failure."""
    required = os.environ.get("VOXTRIAL_REQUIRE_PEERS") == "1"
    missing = [str(m.args[0]) for m in item.iter_markers("peer") if not _installed(str(m.args[0]))]
    if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
        missing.append(f"reference data in {SHARED_DATA}")
    if missing:
        message = f"PEER MISSING: {', '.join(missing)}"
        (pytest.fail if required else pytest.skip)(message)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the reference data; use together with the mark ``shared_data``."""
    return SHARED_DATA
