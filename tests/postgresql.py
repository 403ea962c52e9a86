"""A PostgreSQL server of our own: unix socket in a temporary folder, stopped by its pid."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

PROGRAMS = Path("/usr/lib/postgresql")
START_SECONDS = 30


@dataclass
class Server:
    """A running server."""

    folder: Path
    command: list[str | Path]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start, and return when it answers; after a crash it recovers first."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd="/", stdout=log, stderr=log)
        _wait_until_it_answers(self)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop: SIGINT disconnects clients and writes everything, SIGQUIT is a crash."""
        self.process.send_signal(how)
        self.process.wait(START_SECONDS)

    def __post_init__(self) -> None:
        self._numbers = count(1)

    def url(self, database: str = "postgres", driver: str = "postgresql+psycopg") -> str:
        return f"{driver}://postgres@/{database}?host={self.folder}"

    def create_database(self, template: str = "template0") -> str:
        """Create a database, empty or a copy of ``template``, and return its URL."""
        name = f"voxtrial_{os.getpid()}_{next(self._numbers)}"
        engine = create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        engine.dispose()
        return self.url(name)


def programs() -> Path:
    """Return the folder of initdb and postgres of the newest installed version."""
    return max(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))


@contextmanager
def running(*settings: str) -> Iterator[Server]:
    """Start a server, and stop it at the end; ``settings`` are lines of postgresql.conf.

    PostgreSQL refuses to run as root: root runs it as the user postgres.
    """
    folder = Path(tempfile.mkdtemp(prefix="voxtrial-postgresql-"))
    data = folder / "data"
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    try:
        initdb = [*as_user, programs() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"]
        subprocess.run([*initdb, "-E", "UTF8", "--locale=C.UTF-8"], check=True, cwd="/", capture_output=True)
        options = [
            "listen_addresses=''",
            f"unix_socket_directories='{folder}'",
            "max_connections=100",
            *settings,
        ]
        arguments = [part for option in options for part in ("-c", option.replace("'", ""))]
        with_parent = ["setpriv", "--pdeathsig", "INT", *as_user[1:]]  # a killed test leaves no server behind
        server = Server(folder, [*with_parent, programs() / "postgres", "-D", data, *arguments])
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(server: Server) -> None:
    engine = create_engine(server.url())
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with engine.connect():
                break
        except OperationalError:
            if time.monotonic() > deadline or server.process.poll() is not None:
                raise RuntimeError((server.folder / "log").read_text()) from None
            time.sleep(0.05)
    engine.dispose()
