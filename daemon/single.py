"""One job outside the queue: over a folder of files, or again over what a finished job was run with."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session

from voxtrial.daemon.dicom import series
from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.job import JobInput, JobOutput
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.pipeline import run_job
from voxtrial.daemon.preparation import prepare
from voxtrial.daemon.services.readback import differences
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.volume import SourceInstance
from voxtrial.db.base import utc_now
from voxtrial.db.jobs import Job
from voxtrial.db.results import ResultObject
from voxtrial.db.states import JobState


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a replay made of one stored object."""

    kind: str
    sop_instance_uid: str
    same: bool
    difference: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def run_folder(
    model: StoredModel,
    source: Path,
    out: Path,
    *,
    site: str,
    threads: int = 1,
    report_step: Callable[[str], None] = lambda _: None,
) -> JobOutput:
    """Run ``model`` over the DICOM files below ``source`` and write its objects into ``out``.

    Raises
    ------
    Refused
        No series of the folder suits the model.
    """
    paths = sorted(p for p in source.rglob("*") if p.is_file())
    instances = []
    for candidate in series.group(paths):
        for plane in candidate.files:
            digest = hashlib.sha256(plane.path.read_bytes()).hexdigest()
            instances.append(
                SourceInstance(
                    sop_instance_uid=plane.sop_instance_uid,
                    sop_class_uid=plane.text("SOPClassUID"),
                    sha256=digest,
                    path=str(plane.path),
                )
            )
    if not instances:
        raise Refused(f"{source} holds no DICOM images.", rule="not_an_image")
    out.mkdir(parents=True, exist_ok=True)
    return run_job(
        JobInput(
            job_id=0,
            study_instance_uid="",
            study_version=1,
            instances=tuple({i.path: i for i in instances}.values()),
            model_folder=str(model.folder),
            model_digest=model.digest,
            recipe_digest=model.recipe_digest,
            objects_folder=str(out),
            first_started_at=utc_now(),
            site=site,
            threads=threads,
        ),
        report_step,
    )


def replay_job(session: Session, job_id: int, settings: Settings) -> list[Comparison]:
    """Run a finished job again in a folder of its own and compare every object with the stored one.

    Raises
    ------
    Misconfigured
        There is no such job, or it has not succeeded.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise Misconfigured(f"There is no job {job_id}; list them with: voxtrial jobs list.")
    if job.state not in (JobState.SUCCEEDED, JobState.SUPERSEDED):
        raise Misconfigured(f"Job {job_id} is {job.state}: only a job that succeeded can be replayed.")
    stored = session.scalars(select(ResultObject).where(ResultObject.job_id == job_id)).all()
    with tempfile.TemporaryDirectory(prefix="voxtrial-replay-") as folder:
        again = run_job(prepare(session, job, settings, objects_folder=Path(folder)))
        found = {o.sop_instance_uid: Path(o.path) for o in again.objects}
        return [_compared(o, settings.site.data / o.path, found.get(o.sop_instance_uid)) for o in stored]


def _compared(stored: ResultObject, kept: Path, replayed: Path | None) -> Comparison:
    if replayed is None:
        difference = "the replay made no such object: model, recipe, code or source has changed"
    elif replayed.read_bytes() == kept.read_bytes():
        difference = ""
    else:
        changed, coerced = differences(dcmread(kept), dcmread(replayed))
        difference = ", ".join((*changed, *coerced)) or "encoding only"
    return Comparison(
        kind=stored.kind,
        sop_instance_uid=stored.sop_instance_uid,
        same=not difference,
        difference=difference,
    )
