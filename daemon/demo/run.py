"""The whole way of the data once: send, wait, import the truth, validate, and say what happened.

Nothing here is special to the demonstration: the daemon is ``voxtrial serve`` in a process of its own, the
PACS is a DICOM node on loopback, and every object travels by C-STORE.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID
from sqlalchemy.orm import Session, sessionmaker

from voxtrial.daemon import references
from voxtrial.daemon.demo.observe import Snapshot, snapshot
from voxtrial.daemon.demo.patients import make_studies, write_truth
from voxtrial.daemon.errors import Fatal, VoxtrialError
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.network import scu
from voxtrial.daemon.network.pacs import SmallPACS
from voxtrial.daemon.network.scu import Peer
from voxtrial.daemon.progress import progress
from voxtrial.daemon.reporting import make_report
from voxtrial.daemon.settings import Settings, load
from voxtrial.db.engine import connect, sessions
from voxtrial.db.migrate import upgrade
from voxtrial.validation import cohort
from voxtrial.validation.protocol import Protocol
from voxtrial.validation.reports.render import Rendered

PATIENTS = 12
SCANNERS = ("S0", "S3", "S5", "S7")
SEED = 20260105
START_SECONDS = 60.0
STALL_SECONDS = 180.0
"""No change of any state for this long means that something is wrong."""


@dataclass
class Demo:
    """One run of the demonstration in a folder of its own."""

    out: Path
    source: Path | None = None
    """Folder of the user's own DICOM; None: phantoms."""
    patients: int = PATIENTS
    summary: dict[str, Any] = field(default_factory=dict)

    def run(self) -> bool:
        """Run everything; return whether every study is accounted for and every delivery confirmed."""
        begin = time.perf_counter()
        if (self.out / "data").exists():
            raise Fatal(f"{self.out} holds an earlier run; name another folder with --out, or remove it.")
        self.out.mkdir(parents=True, exist_ok=True)
        with SmallPACS(self.out / "pacs", "PACS") as pacs, progress() as display:
            settings = load(self._write_configuration(pacs))
            engine = connect(settings.database_url)
            upgrade(engine)
            database = sessions(engine)
            protocol = self._register(database, settings)
            with self._daemon(settings) as daemon:
                expected, truth = self._send(settings, display)
                final = self._wait(database, daemon, expected, display)
                if truth is not None:
                    _import_truth(database, settings, truth)
                rendered = _validate(database, settings, protocol, self.out / "report")
            self._summarise(final, pacs, rendered, time.perf_counter() - begin)
        return final.all_well and final.settled(expected)

    def _write_configuration(self, pacs: SmallPACS) -> Path:
        path = self.out / "voxtrial.toml"
        template = (files("voxtrial.daemon.demo") / "voxtrial.toml").read_text(encoding="utf-8")
        values = {
            "@DATA@": str((self.out / "data").resolve()),
            "@LISTENER_PORT@": str(_free_port()),
            "@PACS_PORT@": str(pacs.port),
        }
        for name, value in values.items():
            template = template.replace(name, value)
        path.write_text(template, encoding="utf-8")
        return path

    def _register(self, database: sessionmaker[Session], settings: Settings) -> str:
        """Lock the plan before the first image is sent."""
        text = files("voxtrial.daemon.demo") / "protocol.toml"
        path = self.out / "protocol.toml"
        path.write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
        plan = Protocol.load(path)
        model = ModelStore(settings.site.data / "models").get(plan.model)
        # The first operating point of a score is the one that the model was frozen at.
        points = {point.score: point for point in reversed(model.manifest.operating_points)}
        document = plan.document() | {"model_digest": model.digest}
        for score in model.manifest.scores:
            if score.name in points:
                document["operating_point"] = {
                    "score": score.concept.meaning,
                    "threshold": points[score.name].threshold,
                }
        with database.begin() as session:
            return cohort.register(session, Protocol.from_document(document)).digest

    @contextmanager
    def _daemon(self, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
        """Run ``voxtrial serve`` until the block ends, then let it drain."""
        command = [
            sys.executable,
            "-m",
            "voxtrial.daemon",
            "serve",
            "--config",
            str(self.out / "voxtrial.toml"),
        ]
        with (self.out / "daemon.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                _await_listener(process, _listener(settings), self.out / "daemon.log")
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()

    def _send(self, settings: Settings, display: Progress) -> tuple[int, Path | None]:
        """Send phantoms as they are made, or the user's files; return how many studies, and the truth."""
        if self.source is not None:
            return self._send_folder(self.source, settings, display), None
        task = display.add_task("Patients made and sent", total=self.patients)
        studies = []
        for made in make_studies(self.out / "phantoms", patients=self.patients, scanners=SCANNERS, seed=SEED):
            for study in made:
                _store(study.files, settings)
            studies += made
            display.advance(task)
        table = self.out / "phantoms" / "truth.csv"
        write_truth(studies, table)
        return len(studies), table

    def _send_folder(self, folder: Path, settings: Settings, display: Progress) -> int:
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        if not paths:
            raise Fatal(f"{folder} holds no files; name a folder of DICOM files with INPUT=.")
        task = display.add_task("Files sent", total=len(paths))
        refused: list[dict[str, str]] = []
        for start in range(0, len(paths), 100):
            batch = paths[start : start + 100]
            for outcome in scu.store(batch, _listener(settings), ae_title="DEMO"):
                if not outcome.stored:
                    refused.append({"file": str(outcome.path), "reason": outcome.reason})
            display.advance(task, len(batch))
        self.summary["not_stored"] = refused
        with sessions(connect(settings.database_url))() as session:
            studies = snapshot(session).studies.total()
        if not studies:
            raise Fatal(
                f"None of the {len(paths)} files in {folder} could be stored: {refused[0]['reason']}."
            )
        return studies

    @staticmethod
    def _wait(
        database: sessionmaker[Session], daemon: subprocess.Popen[bytes], expected: int, display: Progress
    ) -> Snapshot:
        """Watch the states until nothing is open."""
        bars: dict[str, TaskID] = {
            name: display.add_task(name, total=None)
            for name in ("Studies closed", "Jobs finished", "Deliveries confirmed")
        }
        seen, since = None, time.monotonic()
        while True:
            with database() as session:
                now = snapshot(session)
            display.update(bars["Studies closed"], completed=now.closed_studies, total=expected)
            display.update(bars["Jobs finished"], completed=now.finished_jobs, total=now.jobs.total())
            display.update(
                bars["Deliveries confirmed"], completed=now.finished_deliveries, total=now.deliveries.total()
            )
            if now.settled(expected):
                return now
            if now != seen:
                seen, since = now, time.monotonic()
            if daemon.poll() is not None:
                raise Fatal(
                    f"The daemon ended with status {daemon.returncode}; read daemon.log in the folder."
                )
            if time.monotonic() - since > STALL_SECONDS:
                raise Fatal(f"Nothing has changed for {STALL_SECONDS:.0f} s; read daemon.log in the folder.")
            time.sleep(0.25)

    def _summarise(self, final: Snapshot, pacs: SmallPACS, rendered: Rendered, seconds: float) -> None:
        report = json.loads(rendered.json.read_text(encoding="utf-8"))
        self.summary |= {
            "studies": final.distinct_studies,
            "study_versions": dict(final.studies),
            "instances": final.instances,
            "jobs": dict(final.jobs),
            "deliveries": dict(final.deliveries),
            "results": sorted(str(path) for path in pacs.objects()),
            "report": {
                "html": str(rendered.html),
                "pdf": str(rendered.pdf),
                "json": str(rendered.json),
            },
            "conclusion": report["conclusion"],
            "metrics": {e["id"]: e["values"] for e in report["endpoints"]},
            "verdicts": {v["id"]: v["verdict"] for v in report["verdicts"]},
            "seconds": round(seconds, 1),
        }
        (self.out / "summary.json").write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")


def _import_truth(database: sessionmaker[Session], settings: Settings, table: Path) -> None:
    with database.begin() as session:
        for _ in references.store(
            session, settings.site.data, references.read_table(table), actor="demonstration"
        ):
            pass


def _validate(database: sessionmaker[Session], settings: Settings, protocol: str, folder: Path) -> Rendered:
    with database.begin() as session:
        return make_report(
            session,
            protocol,
            data=settings.site.data,
            site=settings.site.name,
            folder=folder,
            actor="demonstration",
        )


def _store(paths: Sequence[Path], settings: Settings) -> None:
    for outcome in scu.store(paths, _listener(settings), ae_title="DEMO"):
        if not outcome.stored:
            raise Fatal(f"The daemon did not take {outcome.path.name}: {outcome.reason}.")


def _listener(settings: Settings) -> Peer:
    return Peer(settings.listener.host, settings.listener.port, settings.listener.ae_title)


def _await_listener(process: subprocess.Popen[bytes], peer: Peer, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise Fatal(f"The daemon did not start: {' '.join(tail)}")
        try:
            scu.echo(peer, ae_title="DEMO")
        except VoxtrialError:
            time.sleep(0.2)
        else:
            return
    raise Fatal(f"The daemon did not answer within {START_SECONDS:.0f} s; read {log}.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
