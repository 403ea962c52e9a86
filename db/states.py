"""The states of a study version, a job and a delivery, and who moves each of them on.

The tables below are the code: ``require`` is the only gate; a transition that is not listed does not exist.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar


class StudyState(StrEnum):
    """Life of a study version."""

    RECEIVING = "RECEIVING"
    """Instances arrive. The assembler moves it on: quiet period, count, or hard cap."""
    CONFIRMED = "CONFIRMED"
    """Closed, and the source PACS counts as many instances as we hold. The assembler's gate moves it on."""
    ASSUMED = "ASSUMED"
    """Closed after the quiet period; nobody could be asked. The assembler's gate moves it on."""
    READY = "READY"
    """At least one series is a volume; its jobs are queued. Final."""
    REFUSED = "REFUSED"
    """No series passed the geometry gate; the reason says which rule. Final."""
    INCOMPLETE = "INCOMPLETE"
    """Still short of the PACS's count at the hard cap. Final: a person looks."""


class JobState(StrEnum):
    """Life of one model over one study version."""

    QUEUED = "QUEUED"
    """Ready to be claimed by a worker."""
    RUNNING = "RUNNING"
    """Held under a lease. The worker finishes it; the rescuer takes it back when the lease runs out."""
    WAITING = "WAITING"
    """Failed in a way that may improve. Claimable again at ``available_at``."""
    SUCCEEDED = "SUCCEEDED"
    """Objects and measurements are stored, deliveries are open. A newer study version may supersede it."""
    REFUSED = "REFUSED"
    """The model's own envelope refused the input; the reason says which rule. Final."""
    DEAD = "DEAD"
    """Failed for good or too often. A person looks and retries it."""
    CANCELLED = "CANCELLED"
    """Stopped by a person. A person may retry it."""
    SUPERSEDED = "SUPERSEDED"
    """A newer version of the study took its place. Final."""


class DeliveryState(StrEnum):
    """Life of one object on its way to one destination."""

    PENDING = "PENDING"
    """Not sent yet. The deliverer takes it."""
    SENT = "SENT"
    """The peer answered success. The deliverer confirms it by commitment or read-back."""
    CONFIRMED = "CONFIRMED"
    """The peer committed it, or gave it back equal. Final."""
    WAITING = "WAITING"
    """Failed in a way that may improve. The deliverer takes it again at ``available_at``."""
    DEAD = "DEAD"
    """Refused by the peer for good, or too often. A person looks and retries it."""
    CANCELLED = "CANCELLED"
    """Stopped by a person, or superseded before it was sent. A person may retry it."""


STUDY_TRANSITIONS: dict[StudyState, frozenset[StudyState]] = {
    StudyState.RECEIVING: frozenset({StudyState.CONFIRMED, StudyState.ASSUMED, StudyState.INCOMPLETE}),
    StudyState.CONFIRMED: frozenset({StudyState.READY, StudyState.REFUSED}),
    StudyState.ASSUMED: frozenset({StudyState.READY, StudyState.REFUSED}),
    StudyState.READY: frozenset(),
    StudyState.REFUSED: frozenset(),
    StudyState.INCOMPLETE: frozenset(),
}

JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.SUPERSEDED}),
    JobState.RUNNING: frozenset(
        {
            JobState.SUCCEEDED,
            JobState.REFUSED,
            JobState.WAITING,
            JobState.DEAD,
            JobState.CANCELLED,
            JobState.SUPERSEDED,
        }
    ),
    JobState.WAITING: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.SUPERSEDED}),
    JobState.SUCCEEDED: frozenset({JobState.SUPERSEDED}),
    JobState.REFUSED: frozenset({JobState.SUPERSEDED}),
    JobState.DEAD: frozenset({JobState.QUEUED, JobState.SUPERSEDED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED, JobState.SUPERSEDED}),
    JobState.SUPERSEDED: frozenset(),
}

DELIVERY_TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset(
        {DeliveryState.SENT, DeliveryState.WAITING, DeliveryState.DEAD, DeliveryState.CANCELLED}
    ),
    DeliveryState.SENT: frozenset({DeliveryState.CONFIRMED, DeliveryState.WAITING, DeliveryState.DEAD}),
    DeliveryState.WAITING: frozenset({DeliveryState.SENT, DeliveryState.DEAD, DeliveryState.CANCELLED}),
    DeliveryState.CONFIRMED: frozenset(),
    DeliveryState.DEAD: frozenset({DeliveryState.PENDING}),
    DeliveryState.CANCELLED: frozenset({DeliveryState.PENDING}),
}

State = TypeVar("State", StudyState, JobState, DeliveryState)


class ForbiddenTransition(ValueError):
    """A transition that the table does not list."""


def require(table: dict[State, frozenset[State]], before: State, after: State) -> None:
    """Raise unless ``table`` allows ``before`` -> ``after``.

    Raises
    ------
    ForbiddenTransition
        The table does not list this transition.
    """
    if after not in table[before]:
        allowed = ", ".join(sorted(table[before])) or "none: it is final"
        raise ForbiddenTransition(f"{before} cannot become {after} (allowed: {allowed})")
