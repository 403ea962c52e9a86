"""A real ``voxtrial serve`` that is killed as a whole, again and again, between DCMTK's storescu and Orthanc.

Everything is the product's own: its processes, its pipeline with a model without weights, its intervals. Only
leases and retries are short.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import phantoms
from kill_verdict import Verdict, judge, open_rows, settle
from peers import Orthanc, free_port, storescu
from pydicom import dcmread

from voxtrial.db.engine import connect

SLICES = 6
LIFE_SECONDS = (0.0, 12.0)
RESEND_SECONDS = 0.5
CONFIGURATION = """
[site]
data = "{data}"
[database]
url = "{database}"
[listener]
port = {port}
workers = 2
watermark_mib = 0
[web]
enabled = false
[completeness]
quiet_seconds = 1.0
[[destinations]]
name = "orthanc"
port = {orthanc}
ae_title = "ORTHANC"
commitment = false
[[routes]]
model = "otsu"
destinations = ["orthanc"]
[compute]
workers = 2
lease_seconds = 3.0
retry_seconds = 0.2
longest_retry_seconds = 2.0
maximum_attempts = 100000
"""


@dataclass
class ServedSite:
    """A site that ``voxtrial serve`` runs.

    Parameters
    ----------
    folder
        Folder of the site.
    database_url
        Its database; ``serve`` makes the tables.
    pacs
        Where results go.
    """

    folder: Path
    database_url: str
    pacs: Orthanc
    kills: Counter[str] = field(default_factory=Counter)
    sent: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._port = free_port()
        self._configuration = self.folder / "voxtrial.toml"
        self._configuration.write_text(
            CONFIGURATION.format(
                data=self.folder / "data",
                database=self.database_url,
                port=self._port,
                orthanc=self.pacs.dicom_port,
            )
        )
        self._studies: queue.SimpleQueue[list[Path]] = queue.SimpleQueue()
        self._scanner = threading.Thread(target=self._send_all, daemon=True)
        self._scanner.start()

    def kill_at_random(self, kills: int, generator: random.Random) -> None:
        """Let the daemon live for a while and kill every process of it at once, again and again."""
        for number in range(kills):
            self._scan(f"{number}")
            daemon = self._start()
            time.sleep(generator.uniform(*LIFE_SECONDS))
            _kill(daemon)
            self.kills["serve"] += 1

    def open_rows(self) -> list[str]:
        """Return what is not at its end, and why."""
        engine = connect(self.database_url)
        try:
            return open_rows(engine)
        finally:
            engine.dispose()

    def settle(self) -> Verdict:
        """Let the daemon run until all has been sent and nothing is open, stop it, and judge."""
        daemon = self._start()
        self._studies.put([])
        self._scanner.join()
        engine = connect(self.database_url)
        try:
            settle(engine)
            daemon.terminate()
            assert daemon.wait(120) == 0
            return judge(engine, self.sent, self._at_pacs(), self.kills)
        finally:
            _kill(daemon)
            engine.dispose()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "voxtrial.daemon", "serve", "--config", self._configuration]
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _scan(self, seed: str) -> None:
        """Make a study of a ball and give it to the scanner."""
        ball = np.where(phantoms.sphere((SLICES, 32, 32), (2.5, 1, 1), 6), 60, -900).astype(np.int16)
        files = phantoms.ct_series(self.folder / "scanner" / seed, ball, (2.5, 1.0, 1.0), seed=seed)
        self.sent[str(dcmread(files[0]).StudyInstanceUID)] = SLICES
        self._studies.put(files)

    def _send_all(self) -> None:
        """Send each study, as a whole, until one association has acknowledged all of it."""
        while files := self._studies.get():
            while storescu(files, self._port, check=False).returncode != 0:
                time.sleep(RESEND_SECONDS)

    def _at_pacs(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for study in self.pacs.rest("/studies?expand"):
            instances = self.pacs.rest(f"/studies/{study['ID']}/instances")
            uids = {instance["MainDicomTags"]["SOPInstanceUID"] for instance in instances}
            found[study["MainDicomTags"]["StudyInstanceUID"]] = uids
        return found


def _kill(daemon: subprocess.Popen[bytes]) -> None:
    """Kill -9 the whole process group; the processes of jobs die with their worker."""
    with suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
