"""Where is my study, and why: one row for each study version, job and delivery, and what happened when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from voxtrial.db.jobs import Event, Job
from voxtrial.db.queue.leases import inline
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion
from voxtrial.db.waiting import DELIVERY_FACTS, JOB_FACTS, Why, of_delivery

PAGE = 500
LEAST_ADVANCED_FIRST = tuple(
    DeliveryState[name] for name in ("DEAD", "CANCELLED", "WAITING", "PENDING", "SENT", "CONFIRMED")
)
JOB_INDEXES = (
    (JobState.QUEUED, JobState.WAITING),
    (JobState.RUNNING,),
    (JobState.REFUSED, JobState.DEAD, JobState.CANCELLED, JobState.SUPERSEDED),
)
DELIVERY_INDEXES = (
    (DeliveryState.PENDING, DeliveryState.WAITING, DeliveryState.SENT),
    (DeliveryState.DEAD, DeliveryState.CANCELLED),
)
"""States by the partial index that holds them."""


WORST_FIRST = (
    JobState.DEAD,
    JobState.REFUSED,
    JobState.CANCELLED,
    JobState.WAITING,
    JobState.QUEUED,
    JobState.RUNNING,
    JobState.SUPERSEDED,
    JobState.SUCCEEDED,
)


@dataclass(frozen=True, kw_only=True)
class StudyOverview:
    """One study version in one line.

    Parameters
    ----------
    reason
        Why it is where it is: the reason of the version, else of a job, else of a delivery that is not done.
    jobs
        State by model name.
    deliveries
        State of the least advanced delivery, by destination.
    """

    study_instance_uid: str
    version: int
    state: str
    reason: str
    instances: int
    jobs: dict[str, str]
    deliveries: dict[str, str]
    rule: str
    basis: str
    expected_instances: int | None
    last_instance_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One event of a study: of a version, of a job, or of a delivery."""

    at: datetime
    subject: str
    before: str
    after: str
    actor: str
    reason: str


def list_studies(
    session: Session, why: Why, *, state: str = "", study_instance_uid: str = "", limit: int = 0
) -> Iterator[StudyOverview]:
    """Yield study versions, newest first, at most ``limit`` of them unless it is 0."""
    query = select(StudyVersion).order_by(StudyVersion.id.desc())
    if state:
        query = query.where(StudyVersion.state == state)
    if study_instance_uid:
        query = query.where(StudyVersion.study_instance_uid == study_instance_uid)
    yielded = 0
    while True:
        size = min(PAGE, limit - yielded) if limit else PAGE
        versions = session.scalars(query.limit(size)).all() if size else []
        if not versions:
            return
        yield from _overviews(session, versions, why)
        yielded += len(versions)
        query = query.where(StudyVersion.id < versions[-1].id)


def select_jobs(
    *, state: str = "", study_instance_uid: str = "", limit: int = 0
) -> Select[Job, StudyVersion]:
    """Select jobs and the study versions that they are over, newest first."""
    query = select(Job, StudyVersion).join(StudyVersion).order_by(Job.id.desc())
    if state:
        query = query.where(*_in_state(Job.state, state, JOB_INDEXES))
    if study_instance_uid:
        query = query.where(StudyVersion.study_instance_uid == study_instance_uid)
    return query.limit(limit) if limit else query


def select_deliveries(
    *, state: str = "", study_instance_uid: str = "", limit: int = 0
) -> Select[Delivery, ResultObject]:
    """Select deliveries and the objects that they are about, newest first."""
    query = select(Delivery, ResultObject).join(ResultObject).order_by(Delivery.id.desc())
    if state:
        query = query.where(*_in_state(Delivery.state, state, DELIVERY_INDEXES))
    if study_instance_uid:
        query = query.where(ResultObject.study_instance_uid == study_instance_uid)
    return query.limit(limit) if limit else query


def find_study(session: Session, text: str) -> list[str]:
    """Return the Study Instance UIDs that are, begin or end with ``text``, or have it as accession number."""
    uid = StudyVersion.study_instance_uid
    exact = session.scalars(select(uid).where(uid == text).limit(1)).all()
    near = or_(
        uid.startswith(text, autoescape=True),
        uid.endswith(text, autoescape=True),
        StudyVersion.accession_number == text,
    )
    return list(exact or session.scalars(select(uid).where(near).distinct().order_by(uid)))


def newest_version(session: Session, study_instance_uid: str) -> int | None:
    """Return the number of the newest version of a study; None: there is no such study."""
    of_study = StudyVersion.study_instance_uid == study_instance_uid
    return session.scalar(select(func.max(StudyVersion.version)).where(of_study))


def timeline(session: Session, study_instance_uid: str) -> list[Happening]:
    """Return every event of the study, its jobs and their deliveries, in order."""
    versions = dict(
        session.execute(
            select(StudyVersion.id, StudyVersion.version).where(
                StudyVersion.study_instance_uid == study_instance_uid
            )
        ).all()
    )
    names: dict[tuple[str, int], str] = {("study", key): f"version {n}" for key, n in versions.items()}
    for job, _ in session.execute(select_jobs(study_instance_uid=study_instance_uid)):
        names["job", job.id] = f"job {job.id} {job.model_name}"
    for delivery, stored in session.execute(select_deliveries(study_instance_uid=study_instance_uid)):
        names["delivery", delivery.id] = f"delivery {delivery.id} {stored.kind} to {delivery.destination}"
    return happenings(session, names)


def happenings(session: Session, names: dict[tuple[str, int], str]) -> list[Happening]:
    """Return the events of some rows in order; ``names`` maps (subject, id) to what the row is called."""
    of_rows = [
        and_(
            Event.subject == subject,
            Event.subject_id.in_([key for kind, key in names if kind == subject]),
        )
        for subject in ("study", "job", "delivery")
    ]
    events = session.scalars(select(Event).where(or_(*of_rows)).order_by(Event.at, Event.id))
    return [
        Happening(
            at=event.at,
            subject=names[event.subject, event.subject_id],
            before=event.before,
            after=event.after,
            actor=event.actor,
            reason=event.reason,
        )
        for event in events
    ]


def _in_state(
    column: InstrumentedAttribute[str],
    state: str,
    indexes: Sequence[Sequence[JobState] | Sequence[DeliveryState]],
) -> Iterator[ColumnElement[bool]]:
    """Yield the condition of a state, and the condition of its index, without which no index is used."""
    yield column == state
    yield from (column.in_(inline(*states)) for states in indexes if state in states)


def _overviews(session: Session, versions: Sequence[StudyVersion], why: Why) -> Iterator[StudyOverview]:
    """Yield the overviews of one page: three queries however many versions it has."""
    ids = [version.id for version in versions]
    jobs: dict[int, list[Any]] = {key: [] for key in ids}
    columns = select(Job.study_version_id, *JOB_FACTS)
    for row in session.execute(columns.where(Job.study_version_id.in_(ids)).order_by(Job.id)):
        jobs[row.study_version_id].append(row)
    outgoing: dict[int, list[Any]] = {key: [] for key in ids}
    for row in session.execute(
        select(Job.study_version_id, Delivery.destination, *DELIVERY_FACTS)
        .join(ResultObject, ResultObject.job_id == Job.id)
        .join(Delivery, Delivery.result_object_id == ResultObject.id)
        .where(Job.study_version_id.in_(ids))
        .order_by(Delivery.destination, Delivery.available_at.desc(), Delivery.id.desc())
    ):
        outgoing[row.study_version_id].append(row)
    for rows in outgoing.values():  # the last of a destination speaks for it: least advanced, due first
        rows.sort(key=lambda row: (row.destination, -LEAST_ADVANCED_FIRST.index(row.state)))
    arrived = _arrived(session, [v.id for v in versions if v.state == StudyState.RECEIVING])
    for version in versions:
        yield StudyOverview(
            study_instance_uid=version.study_instance_uid,
            version=version.version,
            state=version.state,
            reason=version.reason or _reason(version, jobs[version.id], outgoing[version.id], why),
            instances=arrived.get(version.id, version.instances),
            jobs={row.model_name: row.state for row in jobs[version.id]},
            deliveries={row.destination: row.state for row in outgoing[version.id]},
            rule=version.rule,
            basis=version.basis,
            expected_instances=version.expected_instances,
            last_instance_at=version.last_instance_at,
            closed_at=version.closed_at,
        )


def _reason(version: StudyVersion, jobs: Sequence[Any], outgoing: Sequence[Any], why: Why) -> str:
    """Return what went wrong, or is waited for: of a job, else of a delivery, else of the study itself."""
    for row in sorted(jobs, key=lambda row: WORST_FIRST.index(row.state)):
        if reason := why.of(row):
            return f"{row.model_name}: {reason}"
    for row in reversed(outgoing):
        if reason := of_delivery(row, why.now):
            return f"{row.destination}: {reason}"
    return "Instances may still come in." if version.state == StudyState.RECEIVING else ""


def _arrived(session: Session, ids: Sequence[int]) -> dict[int, int]:
    """Count the instances of versions that are still open, those of their predecessors included."""
    if not ids:
        return {}
    member = StudyVersion.__table__.alias()
    query = (
        select(StudyVersion.id, func.count(Instance.id))
        .join(member, member.c.study_instance_uid == StudyVersion.study_instance_uid)
        .join(Instance, Instance.study_version_id == member.c.id)
        .where(StudyVersion.id.in_(ids), member.c.version <= StudyVersion.version)
        .group_by(StudyVersion.id)
    )
    return dict(session.execute(query).all())
