"""Real peers on loopback: Orthanc and DCMTK's programs, started for a test and stopped by process id."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32768)
START_SECONDS = 30.0
DCMTK = Path("/usr/bin")
"""pynetdicom installs programs of the same names into virtual environments: always call these."""
NO_NAGLE = {"TCP_NODELAY": "1"}
"""DCMTK leaves Nagle's algorithm on otherwise, which costs 40 ms an instance."""


def free_port() -> int:
    """Return a TCP port that was free a moment ago.

    It lies below those that Linux gives to outgoing connections, of which other tests make thousands.
    """
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def answers(port: int) -> bool:
    """Return whether something accepts connections on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def wait_until(
    condition: Callable[[], bool], seconds: float = START_SECONDS, what: str = "condition"
) -> None:
    """Wait until ``condition`` holds; fail loudly when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.02)


@contextmanager
def program(
    command: Sequence[str | Path],
    *,
    port: int | None = None,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it is up when ``port`` answers."""
    with ExitStack() as stack:
        output: Any = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        )
        try:
            if port is not None:
                wait_until(
                    lambda: answers(port) or process.poll() is not None, what=f"{command[0]} on port {port}"
                )
            if process.poll() is not None:
                said = log.read_text(errors="replace")[-2000:] if log else ""
                raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said}")
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """End ``process`` and the children of its session: politely, then by force."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            try:
                os.killpg(process.pid, kind)
                process.wait(seconds)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    process.wait(seconds)


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    dicom_port: int
    http_port: int
    ae_title: str
    folder: Path
    process: subprocess.Popen[bytes]

    def rest(self, path: str, body: object = None, method: str = "") -> Any:
        """Call the REST interface; JSON in, JSON out (bytes where the answer is not JSON)."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        call = urllib.request.Request(
            f"http://{LOOPBACK}:{self.http_port}{path}", data=data, method=method or None
        )
        with urllib.request.urlopen(call, timeout=60) as answer:
            content = answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
        return json.loads(content) if is_json else content

    def instances(self) -> list[str]:
        """Return the SOP Instance UIDs that it holds."""
        return sorted(
            i["MainDicomTags"]["SOPInstanceUID"]
            for i in self.rest("/instances?expand")
            if "MainDicomTags" in i
        )

    def download(self, folder: Path) -> list[Path]:
        """Write every object that it holds into ``folder`` as the file that it stores."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for identifier in self.rest("/instances"):
            path = folder / f"{identifier}.dcm"
            path.write_bytes(self.rest(f"/instances/{identifier}/file"))
            paths.append(path)
        return paths

    def know(self, ae_title: str, port: int) -> None:
        """Add a modality on loopback, for C-MOVE and commitment reports."""
        self.rest(
            f"/modalities/{ae_title.lower()}",
            {"AET": ae_title, "Host": LOOPBACK, "Port": port, "AllowStorageCommitment": True},
            "PUT",
        )


@contextmanager
def orthanc(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    modalities: Mapping[str, int] | None = None,
    options: Mapping[str, object] | None = None,
) -> Iterator[Orthanc]:
    """Run Orthanc with its data in ``folder``.

    Parameters
    ----------
    modalities
        Ports of nodes on loopback by AE title; more can be added with ``Orthanc.know``.
    options
        Further keys of its configuration, e.g. ``{"SynchronousCMove": False}``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    plugins = [str(p) for p in Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*")][:1]
    configuration = {
        "Name": ae_title,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": plugins,
        "DicomAet": ae_title,
        "DicomPort": dicom_port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpServerEnabled": True,
        "SslEnabled": False,
        "DicomModalities": {
            title.lower(): {"AET": title, "Host": LOOPBACK, "Port": port, "AllowStorageCommitment": True}
            for title, port in (modalities or {}).items()
        },
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **(options or {}),
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration, indent=2))
    log = folder / "orthanc.log"
    binary = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    with program([binary, path], port=dicom_port, log=log, environment=NO_NAGLE) as process:
        peer = Orthanc(dicom_port, http_port, ae_title, folder, process)
        wait_until(lambda: _is_up(peer), what="Orthanc's REST interface")
        yield peer


def _is_up(peer: Orthanc) -> bool:
    try:
        peer.rest("/system")
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


@contextmanager
def storescp(
    folder: Path,
    *options: str | Path,
    ae_title: str = "STORESCP",
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run DCMTK's storescp, which writes into ``folder``; yields its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [DCMTK / "storescp", "-aet", ae_title, "-od", folder, *options, str(port)]
    with program(command, port=port, log=folder.parent / "storescp.log", environment=environment or NO_NAGLE):
        yield port


def storescu(
    files: Sequence[Path],
    port: int,
    *options: str | Path,
    called: str = "VOXTRIAL",
    calling: str = "STORESCU",
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Send ``files`` with DCMTK's storescu."""
    command = [
        DCMTK / "storescu",
        "-v",
        "-aet",
        calling,
        "-aec",
        called,
        *options,
        LOOPBACK,
        str(port),
        *files,
    ]
    return run(command, check=check, environment=NO_NAGLE if environment is None else environment)


def dcmsend(
    files: Sequence[Path], port: int, *options: str, called: str = "VOXTRIAL", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Send ``files`` with DCMTK's dcmsend, which proposes the contexts that they need."""
    return run([DCMTK / "dcmsend", "-v", "-aec", called, *options, LOOPBACK, str(port), *files], check=check)


def echoscu(
    port: int, *options: str | Path, called: str = "VOXTRIAL", calling: str = "ECHOSCU", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Verify with DCMTK's echoscu."""
    command = [DCMTK / "echoscu", "-v", "-aet", calling, "-aec", called, *options, LOOPBACK, str(port)]
    return run(command, check=check)


def run(
    command: Sequence[str | Path], *, check: bool = True, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of DCMTK to its end; what it said is in the error when it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **(NO_NAGLE if environment is None else environment)},
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done
