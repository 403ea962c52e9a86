"""The receivers that bench-ingest compares: Voxtrial, storescp, Orthanc, stock pynetdicom, a floor in C."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import peers
import psutil


@dataclass
class Receiver:
    """A receiver that runs, and the processes that it consists of."""

    name: str
    port: int
    pid: int

    def processes(self) -> list[psutil.Process]:
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """CPU time so far, of the process, its children, and its children that ended."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # its time is its parent's children's time by now
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def resident_mib(self) -> float:
        """Proportional set size of all its processes: a page that forked ones share counts once."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss / 2**20
        return total


@contextmanager
def voxtrial(folder: Path, workers: int = 2, fsync: str = "file") -> Iterator[Receiver]:
    port = peers.free_port()
    configuration = folder / "voxtrial.toml"
    folder.mkdir(parents=True)
    configuration.write_text(
        f'[site]\ndata = "{folder / "data"}"\n[listener]\nport = {port}\nworkers = {workers}\n'
        f'fsync = "{fsync}"\nwatermark_mib = 0\n'
    )
    command = [sys.executable, "-m", "voxtrial.daemon", "listen", "--config", configuration]
    with peers.program(command, port=port, log=folder / "log") as process:
        yield Receiver("voxtrial", port, process.pid)


@contextmanager
def storescp(folder: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Receiver]:
    folder.mkdir(parents=True)
    port = peers.free_port()
    command = [peers.DCMTK / "storescp", "-od", folder, *options, str(port)]
    with peers.program(command, port=port, environment=environment or peers.NO_NAGLE) as process:
        yield Receiver("storescp", port, process.pid)


@contextmanager
def orthanc(folder: Path) -> Iterator[Receiver]:
    with peers.orthanc(folder, options={"Plugins": []}) as peer:
        yield Receiver("orthanc", peer.dicom_port, peer.process.pid)


def build_floor(folder: Path) -> Path | None:
    """Build the program that has the duties of Voxtrial and does nothing else; say so where it cannot be."""
    folder.mkdir(parents=True)
    program, source = folder / "ingest_floor", Path(__file__).with_name("ingest_floor.c")
    libraries = ["-l:libcrypto.so.3", "-l:libsqlite3.so.0"]
    try:
        subprocess.run(["cc", "-O2", "-pthread", "-o", program, source, *libraries], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"The floor in C is left out: {error}", file=sys.stderr)
        return None
    return program


@contextmanager
def floor(program: Path, folder: Path) -> Iterator[Receiver]:
    folder.mkdir(parents=True)
    port = peers.free_port()
    with peers.program([program, str(port), folder], port=port) as process:
        yield Receiver("floor in C", port, process.pid)


STOCK = """
import sys
from pathlib import Path
from pynetdicom import AE, AllStoragePresentationContexts, evt
folder = Path(sys.argv[2])
def store(event):
    (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
    return 0
ae = AE("STOCK")
ae.maximum_pdu_size = 0
ae.maximum_associations = 1000
ae.supported_contexts = AllStoragePresentationContexts
ae.add_supported_context("1.2.840.10008.1.1")
ae.start_server(("127.0.0.1", int(sys.argv[1])), evt_handlers=[(evt.EVT_C_STORE, store)])
"""


@contextmanager
def stock_pynetdicom(folder: Path) -> Iterator[Receiver]:
    folder.mkdir(parents=True)
    port = peers.free_port()
    command = [sys.executable, "-c", STOCK, str(port), str(folder)]
    with peers.program(command, port=port) as process:
        yield Receiver("pynetdicom", port, process.pid)
