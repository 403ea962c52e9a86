"""What every test may ask for: the shared reference data, and loud skips when a peer is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import postgresql
import pytest
from sqlalchemy import Engine

from voxtrial.db.engine import connect
from voxtrial.db.migrate import upgrade

SHARED_DATA = Path(os.environ.get("VOXTRIAL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

PEER_PROGRAMS = {
    "orthanc": ("Orthanc", "/usr/sbin/Orthanc"),
    "dcmtk": ("/usr/bin/storescu",),
    "postgresql": ("/usr/lib/postgresql",),
    "chromium": ("chromium",),
}
PEER_PACKAGES = {"dask": "distributed", "dicomweb": "dicomweb_client"}
"""Peers that are Python packages, of our extras or of the tests."""


def _installed(peer: str) -> bool:
    if peer in PEER_PACKAGES:
        return find_spec(PEER_PACKAGES[peer]) is not None
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


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server of this test session; use together with the mark ``peer("postgresql")``."""
    with postgresql.running("fsync=off") as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: postgresql.Server) -> str:
    """Name of a database with the tables of this version, to be copied."""
    engine = connect(postgresql_server.create_database())
    upgrade(engine)
    engine.dispose()
    return str(engine.url.database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a database with the tables of this version, to be copied."""
    path = tmp_path_factory.mktemp("template") / "voxtrial.db"
    engine = connect(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def dialect(request: pytest.FixtureRequest) -> str:
    """The test runs once on SQLite and once on PostgreSQL."""
    return str(request.param)


@pytest.fixture
def empty_database_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables, on SQLite and on PostgreSQL in turn."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    return server.create_database()


@pytest.fixture
def database_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database with the tables of this version, on SQLite and on PostgreSQL in turn."""
    if dialect == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "voxtrial.db")
        return f"sqlite:///{tmp_path / 'voxtrial.db'}"
    server: postgresql.Server = request.getfixturevalue("postgresql_server")
    return server.create_database(request.getfixturevalue("postgresql_template"))


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    """An engine on a database with the tables of this version, on SQLite and on PostgreSQL in turn."""
    engine = connect(database_url)
    yield engine
    engine.dispose()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the verdicts of the kills, also of tests that ran in other processes."""
    from kill_verdict import REPORTED

    for report in (*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())):
        for name, value in getattr(report, "user_properties", ()):
            if name == REPORTED:
                terminalreporter.write_line(value)
