"""Take received pixel data off the disk when it is old or space is short, and keep account of it.

Only studies whose work is over go: every job has ended without needing a person, every result is confirmed
at its destinations, and no registered protocol names a model that has run on them. Rows and results stay.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, Select, func, select
from sqlalchemy.orm import Session, aliased

from voxtrial.daemon.settings import Settings
from voxtrial.db import audit
from voxtrial.db.engine import sessions
from voxtrial.db.jobs import Job
from voxtrial.db.outcomes import Protocol
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion

logger = logging.getLogger(__name__)

FINISHED_STUDIES = (StudyState.READY, StudyState.REFUSED)
FINISHED_JOBS = (JobState.SUCCEEDED, JobState.REFUSED, JobState.SUPERSEDED, JobState.CANCELLED)
FINISHED_DELIVERIES = (DeliveryState.CONFIRMED, DeliveryState.CANCELLED)
MIB = 2**20


@dataclass
class Retention:
    """The duty, bound to a site; ``[retention]`` says what goes when."""

    settings: Settings
    engine: Engine

    def run_once(self, now: datetime) -> int:
        """Delete what is due, the oldest studies first; return how many studies it was."""
        rules = self.settings.retention
        deleted = 0
        if rules.days:
            for study in self._deletable(now - timedelta(days=rules.days)):
                deleted += self._delete(study, now, reason=f"older than {rules.days:g} days")
        if rules.watermark_mib and self._free_mib() < rules.watermark_mib:
            for study in self._deletable(now):
                deleted += self._delete(study, now, reason=f"less than {rules.watermark_mib} MiB free")
                if self._free_mib() >= rules.watermark_mib:
                    break
        return deleted

    def _free_mib(self) -> int:
        return shutil.disk_usage(self.settings.site.data).free // MIB

    def _deletable(self, until: datetime) -> Iterator[str]:
        """Yield the studies that may go and got their last instance before ``until``, oldest first."""
        with sessions(self.engine)() as session:
            studies = session.scalars(_deletable(_protected_models(session), until)).all()
        yield from studies

    def _delete(self, study_instance_uid: str, now: datetime, *, reason: str) -> bool:
        """Remove the files of a study, then say so; killed in between, the next run does both again."""
        with sessions(self.engine).begin() as session:
            still = _deletable(_protected_models(session), now).where(
                StudyVersion.study_instance_uid == study_instance_uid
            )
            if session.scalar(still) is None:
                return False
            versions = select(StudyVersion.id).where(StudyVersion.study_instance_uid == study_instance_uid)
            instances = session.scalars(
                select(Instance)
                .where(Instance.study_version_id.in_(versions), Instance.deleted_at.is_(None))
                .with_for_update()
            ).all()
            for instance in instances:
                (self.settings.site.data / instance.path).unlink(missing_ok=True)
                instance.deleted_at = now
            facts = {"instances": len(instances), "bytes": sum(i.size for i in instances), "reason": reason}
            audit.record(
                session, actor="retention", action="delete pixel data", subject=study_instance_uid, **facts
            )
        logger.info("pixel data deleted", extra=facts)
        return True


def _protected_models(session: Session) -> set[str]:
    """Return digests and names of the models that registered protocols are about."""
    documents = session.scalars(select(Protocol.document))
    return {str(d.get(key)) for d in documents for key in ("model_digest", "model") if d.get(key)}


def _deletable(protected_models: set[str], until: datetime) -> Select[str]:
    """Select the studies with files on disk of which no version, job or delivery speaks against it."""
    version, job, delivery = aliased(StudyVersion), aliased(Job), aliased(Delivery)
    same_study = version.study_instance_uid == StudyVersion.study_instance_uid
    unfinished_version = select(version.id).where(same_study, version.state.not_in(FINISHED_STUDIES))
    jobs = select(job.id).join(version, version.id == job.study_version_id).where(same_study)
    unfinished_job = jobs.where(job.state.not_in(FINISHED_JOBS))
    protected = jobs.where(job.model_digest.in_(protected_models) | job.model_name.in_(protected_models))
    unconfirmed = (
        jobs.join(ResultObject, ResultObject.job_id == job.id)
        .join(delivery, delivery.result_object_id == ResultObject.id)
        .where(delivery.state.not_in(FINISHED_DELIVERIES))
    )
    on_disk = (
        select(Instance.id)
        .join(version, version.id == Instance.study_version_id)
        .where(same_study, Instance.deleted_at.is_(None))
    )
    last = func.max(StudyVersion.last_instance_at)
    against = (unfinished_version, unfinished_job, protected, unconfirmed)
    return (
        select(StudyVersion.study_instance_uid)
        .where(on_disk.exists(), *(~reason.exists() for reason in against))
        .group_by(StudyVersion.study_instance_uid)
        .having(last < until)
        .order_by(last)
    )
