"""From the rows of a job to the values that any process can run it from."""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from voxtrial.daemon.errors import Fatal
from voxtrial.daemon.job import JobInput
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.settings import Settings
from voxtrial.daemon.volume import SourceInstance
from voxtrial.db.jobs import Job
from voxtrial.db.queue import Held
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.studies import Instance, StudyVersion


def prepare(
    session: Session, job: Held | Job, settings: Settings, *, objects_folder: Path | None = None
) -> JobInput:
    """Return what the job is to be run with, and make its folder for this attempt, empty.

    Parameters
    ----------
    objects_folder
        Existing folder for the objects of a run beside the queue; the stored ones are then left alone.

    Raises
    ------
    Fatal
        Pixel data of the study has left the disk, or the model is not in the store.
    """
    data = settings.site.data.absolute()
    version = session.get_one(StudyVersion, job.study_version_id)
    same_study = StudyVersion.study_instance_uid == version.study_instance_uid
    instances = session.scalars(
        select(Instance)
        .join(StudyVersion)
        .where(same_study, StudyVersion.version <= version.version)
        .order_by(Instance.sop_instance_uid)
    ).all()
    deleted = [instance for instance in instances if instance.deleted_at is not None]
    if deleted:
        raise Fatal(
            f"{len(deleted)} of {len(instances)} instances left the disk by retention on "
            f"{deleted[0].deleted_at:%Y-%m-%d}; import the study again."
        )
    assert job.first_started_at is not None  # set by the claim
    return JobInput(
        job_id=job.id,
        study_instance_uid=version.study_instance_uid,
        study_version=version.version,
        instances=tuple(
            SourceInstance(
                sop_instance_uid=instance.sop_instance_uid,
                sop_class_uid=instance.sop_class_uid,
                sha256=instance.sha256,
                path=str(data / instance.path),
            )
            for instance in instances
        ),
        model_folder=str(ModelStore(data / "models").get(job.model_digest).folder),
        model_digest=job.model_digest,
        recipe_digest=job.recipe_digest,
        objects_folder=str(objects_folder or _attempt_folder(data, job)),
        first_started_at=job.first_started_at,
        site=settings.site.name,
        threads=settings.compute.threads,
        predecessor_sr=_predecessor_report(session, job, version, data),
    )


def _attempt_folder(data: Path, job: Held | Job) -> Path:
    """Make the folder of this attempt, and remove what attempts before it left.

    An attempt that has lost its lease may still be writing: it writes into a folder of its own.
    """
    folder = data / "objects" / str(job.id)
    shutil.rmtree(folder, ignore_errors=True)
    attempt = folder / job.lease_owner.rpartition("#")[2]
    attempt.mkdir(parents=True, exist_ok=True)
    return attempt


def _predecessor_report(session: Session, job: Held | Job, version: StudyVersion, data: Path) -> str:
    """Return the path of the newest report of the same model over an earlier version of the study.

    A report that was stopped before any destination had it is passed over: no reader could follow the
    reference to it.
    """
    deliveries = select(Delivery.id).where(Delivery.result_object_id == ResultObject.id)
    path = session.scalar(
        select(ResultObject.path)
        .join(Job)
        .join(StudyVersion)
        .where(
            StudyVersion.study_instance_uid == version.study_instance_uid,
            StudyVersion.version < version.version,
            Job.model_name == job.model_name,
            ResultObject.kind == "SR",
            ~deliveries.exists() | deliveries.where(Delivery.sent_at.is_not(None)).exists(),
        )
        .order_by(StudyVersion.version.desc(), ResultObject.id.desc())
        .limit(1)
    )
    return str(data / path) if path else ""
