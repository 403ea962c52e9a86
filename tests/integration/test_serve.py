"""The supervisor of ``voxtrial serve``: roles come back when they die, and leave when it goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from daemons import Daemon, serve, voxtrial
from peers import echoscu, wait_until

ROLES = {"listen", "tend", "work"}

pytestmark = pytest.mark.peer("dcmtk")


def roles(daemon: Daemon) -> dict[str, psutil.Process]:
    """Direct children of the supervisor by role."""
    children = psutil.Process(daemon.process.pid).children()
    found = {}
    for child in children:
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        found |= {word: child for word in words if word in ROLES}
    return found


def answers(daemon: Daemon) -> bool:
    return echoscu(daemon.port, check=False).returncode == 0


def test_a_role_that_is_killed_comes_back(tmp_path: Path) -> None:
    with serve(tmp_path / "daemon", "") as daemon:
        wait_until(lambda: set(roles(daemon)) == ROLES, 30, "every role")
        before = {name: process.pid for name, process in roles(daemon).items()}
        for process in roles(daemon).values():
            process.kill()
        wait_until(
            lambda: (
                {n: p.pid for n, p in roles(daemon).items()}.keys() == ROLES
                and not {p.pid for p in roles(daemon).values()} & set(before.values())
            ),
            60,
            "new roles",
        )
        wait_until(lambda: answers(daemon), 60, "an echo after the kill")


def test_sigterm_ends_every_process(tmp_path: Path) -> None:
    with serve(tmp_path / "daemon", "") as daemon:
        wait_until(lambda: set(roles(daemon)) == ROLES, 30, "every role")
        everyone = psutil.Process(daemon.process.pid).children(recursive=True)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
        assert psutil.wait_procs(everyone, timeout=10)[1] == []


def test_no_half_daemon_stays_behind_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with serve(tmp_path / "daemon", "") as daemon:
        wait_until(lambda: set(roles(daemon)) == ROLES, 30, "every role")
        everyone = psutil.Process(daemon.process.pid).children(recursive=True)
        os.kill(daemon.process.pid, signal.SIGKILL)
        daemon.process.wait(10)
        assert psutil.wait_procs(everyone, timeout=60)[1] == []


def test_a_mistake_in_the_configuration_is_one_sentence_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "voxtrial.toml"
    path.write_text("[listener]\nprot = 11112\n")
    done = voxtrial("serve", "--config", str(path))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("[listener.prot] is not a known key; did you mean 'port'?")


def test_a_route_to_a_destination_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "voxtrial.toml"
    path.write_text('[[routes]]\nmodel = "otsu"\ndestinations = ["pcas"]\n')
    done = voxtrial("config", "check", "--config", str(path))
    assert done.returncode == 1
    assert "No destination is named 'pcas'" in done.stderr
