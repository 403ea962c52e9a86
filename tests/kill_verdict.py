"""What is wrong after processes were killed: what was sent, against the rows and what the PACS holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Event, Job
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion

SETTLE_SECONDS = 240.0
"""What is open for so long after the last kill is stuck."""
NO_FAULTS = (0, 0, 0)
REPORTED = "verdict of the kills"
"""Property of a test whose value is printed at the end of the run."""
UNFINISHED = (StudyState.RECEIVING, StudyState.CONFIRMED, StudyState.ASSUMED)


@dataclass
class Verdict:
    """What is wrong after everything has settled; all zero is the claim of the design."""

    studies: int = 0
    versions: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    stuck: int = 0
    attempts: Counter[int] = field(default_factory=Counter)

    @property
    def faults(self) -> tuple[int, int, int]:
        """Studies lost, work duplicated, and rows stuck."""
        return self.lost, self.duplicated, self.stuck

    def __str__(self) -> str:
        kills = ", ".join(f"{n} {victim}" for victim, n in sorted(self.kills.items()))
        attempts = ", ".join(f"{jobs} jobs {n}" for n, jobs in sorted(self.attempts.items()))
        return (
            f"{self.kills.total()} kills ({kills}), {self.studies} studies in {self.versions} versions: "
            f"{self.lost} lost, {self.duplicated} duplicated, {self.stuck} stuck; attempts: {attempts}"
        )


def settle(engine: Engine, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until nothing is open, for four minutes at most; ``meanwhile`` is called again and again."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while open_rows(engine) and time.monotonic() < deadline:
        meanwhile()
        time.sleep(0.1)


def open_rows(engine: Engine) -> list[str]:
    """Return what is not at its end, and why.

    A version may end refused or incomplete, since a later one may be good: see ``judge``. A job ends with
    its result, or superseded. A delivery may end cancelled only when its job is superseded.
    """
    dropped = (Delivery.state == DeliveryState.CANCELLED) & (Job.state == JobState.SUPERSEDED)
    queries = (
        select(StudyVersion).where(StudyVersion.state.in_(UNFINISHED)),
        select(Job).where(Job.state.not_in((JobState.SUCCEEDED, JobState.SUPERSEDED))),
        select(Delivery)
        .join(ResultObject)
        .join(Job)
        .where(Delivery.state != DeliveryState.CONFIRMED, ~dropped),
    )
    with Session(engine) as session:
        return [
            f"{row.__tablename__} {row.id}: {row.state} ({row.reason})"
            for query in queries
            for row in session.scalars(query)
        ]


def judge(
    engine: Engine, sent: Mapping[str, int], at_pacs: Mapping[str, set[str]], kills: Counter[str]
) -> Verdict:
    """Compare what was sent with what stands in the rows and at the PACS.

    A study is lost unless its newest version is READY with every instance, and each result of that version
    is confirmed and at the PACS: what an older version found is no substitute.

    Parameters
    ----------
    sent
        Number of acknowledged instances by Study Instance UID.
    at_pacs
        SOP Instance UIDs of the results that the PACS holds, by Study Instance UID.
    """
    verdict = Verdict(studies=len(sent), kills=kills, stuck=len(open_rows(engine)))
    with Session(engine) as session:
        for uid, slices in sent.items():
            of_study = select(StudyVersion).where(StudyVersion.study_instance_uid == uid)
            versions = session.scalars(of_study.order_by(StudyVersion.version)).all()
            stored = Instance.study_instance_uid == uid
            instances = session.scalar(select(func.count()).where(stored, Instance.deleted_at.is_(None)))
            complete = [(v.state, v.instances) for v in versions[-1:]] == [(StudyState.READY, slices)]
            results = select(ResultObject.sop_instance_uid).where(ResultObject.study_instance_uid == uid)
            last = versions[-1].id if versions else None
            newest = set(session.scalars(results.join(Job).where(Job.study_version_id == last)))
            confirmed = set(
                session.scalars(results.join(Delivery).where(Delivery.state == DeliveryState.CONFIRMED))
            )
            held = at_pacs.get(uid, set())
            delivered = newest and newest <= confirmed <= held
            verdict.lost += not (complete and instances == slices and delivered)
            verdict.duplicated += len(held - set(session.scalars(results)))
            verdict.versions += len(versions)
        verdict.duplicated += _done_twice(session)
        verdict.attempts = Counter(session.scalars(select(Job.attempts)))
    return verdict


def _done_twice(session: Session) -> int:
    """Count jobs beyond one a version, successes beyond one a job, and objects beyond one of a kind a job."""
    doubled = (
        select(Job.study_version_id).group_by(Job.study_version_id, Job.model_digest),
        select(Event.subject_id)
        .where(Event.subject == "job", Event.after == JobState.SUCCEEDED)
        .group_by(Event.subject_id),
        select(ResultObject.job_id).group_by(ResultObject.job_id, ResultObject.kind),
    )
    return sum(len(session.scalars(query.having(func.count() > 1)).all()) for query in doubled)
