"""How far the daemon is, read from its database as any operator could."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery
from voxtrial.db.states import DeliveryState, JobState, StudyState
from voxtrial.db.studies import Instance, StudyVersion

OPEN_STUDIES = {StudyState.RECEIVING, StudyState.CONFIRMED, StudyState.ASSUMED}
OPEN_JOBS = {JobState.QUEUED, JobState.RUNNING, JobState.WAITING}
OPEN_DELIVERIES = {DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.WAITING}
BAD_JOBS = {JobState.DEAD, JobState.CANCELLED}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Counts by state."""

    distinct_studies: int
    studies: Counter[str]
    """Study versions."""
    jobs: Counter[str]
    deliveries: Counter[str]
    instances: int

    @property
    def closed_studies(self) -> int:
        """Study versions that left RECEIVING for good."""
        return _outside(self.studies, OPEN_STUDIES)

    @property
    def finished_jobs(self) -> int:
        """Jobs that nothing happens to any more."""
        return _outside(self.jobs, OPEN_JOBS)

    @property
    def finished_deliveries(self) -> int:
        """Deliveries that nothing happens to any more."""
        return _outside(self.deliveries, OPEN_DELIVERIES)

    def settled(self, studies: int) -> bool:
        """Whether ``studies`` study versions have come, and nothing is open."""
        return (
            self.closed_studies >= studies
            and self.closed_studies == self.studies.total()
            and self.finished_jobs == self.jobs.total()
            and self.finished_deliveries == self.deliveries.total()
        )

    @property
    def all_well(self) -> bool:
        """Whether every job ended in an accounted-for bucket and every delivery is confirmed."""
        return (
            not any(self.jobs[state] for state in BAD_JOBS)
            and self.deliveries[DeliveryState.CONFIRMED] == self.deliveries.total()
        )


def snapshot(session: Session) -> Snapshot:
    """Count what there is."""
    return Snapshot(
        distinct_studies=session.scalar(select(func.count(StudyVersion.study_instance_uid.distinct()))) or 0,
        studies=_by_state(session, StudyVersion),
        jobs=_by_state(session, Job),
        deliveries=_by_state(session, Delivery),
        instances=session.scalar(select(func.count()).select_from(Instance)) or 0,
    )


def _by_state(session: Session, table: type[StudyVersion] | type[Job] | type[Delivery]) -> Counter[str]:
    rows = session.execute(select(table.state, func.count()).group_by(table.state)).tuples()
    return Counter(dict(rows.all()))


def _outside(counts: Counter[str], states: set[StudyState] | set[JobState] | set[DeliveryState]) -> int:
    return sum(count for state, count in counts.items() if state not in states)
