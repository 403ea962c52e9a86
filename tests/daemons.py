"""The real daemon, ``voxtrial serve``, in processes of its own for as long as a test needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import echoscu, free_port, program, wait_until


@dataclass(frozen=True)
class Daemon:
    """A running daemon."""

    configuration: Path
    port: int
    process: subprocess.Popen[bytes]

    def command(self, *arguments: str) -> str:
        """Return what ``voxtrial ARGUMENTS --config ...`` prints."""
        done = voxtrial(*arguments, "--config", str(self.configuration))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def studies(self) -> list[dict[str, Any]]:
        """Return ``voxtrial studies list --json``."""
        found: list[dict[str, Any]] = json.loads(self.command("studies", "list", "--json"))
        return found

    def wait_for(
        self, condition: Callable[[list[dict[str, Any]]], bool], seconds: float = 120.0
    ) -> list[dict[str, Any]]:
        """Return the studies as soon as ``condition`` holds for them."""
        deadline = time.monotonic() + seconds
        while not condition(studies := self.studies()):
            assert self.process.poll() is None, (self.configuration.parent / "daemon.log").read_text()[-2000:]
            assert time.monotonic() < deadline, studies
            time.sleep(0.3)
        return studies


def voxtrial(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "voxtrial.daemon", *arguments], capture_output=True, text=True, check=False
    )


@contextmanager
def serve(folder: Path, configuration: str, *, database: str = "") -> Iterator[Daemon]:
    """Run ``voxtrial serve`` with everything below ``folder``.

    Parameters
    ----------
    configuration
        TOML of destinations, routes and completeness; site, listener and web are added here.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "voxtrial.toml"
    path.write_text(
        f'[site]\nname = "Test"\ndata = "{folder / "data"}"\n'
        f'[database]\nurl = "{database}"\n'
        f"[listener]\nport = {port}\nworkers = 1\n[web]\nenabled = false\n{configuration}",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "voxtrial.daemon", "serve", "--config", path]
    with program(command, port=port, log=folder / "daemon.log", environment=dict(os.environ)) as process:
        wait_until(lambda: echoscu(port, check=False).returncode == 0, 60, "an echo")
        yield Daemon(path, port, process)


def all_confirmed(studies: list[dict[str, Any]]) -> bool:
    """Whether every study is READY with results, each of them confirmed."""
    return bool(studies) and all(
        study["jobs"]
        and set(study["jobs"].values()) == {"SUCCEEDED"}
        and set(_states(study)) == {"CONFIRMED"}
        for study in studies
    )


def _states(study: dict[str, Any]) -> list[str]:
    """Return the state of the deliveries of each destination."""
    return [str(state) for state in study["deliveries"].values()]
