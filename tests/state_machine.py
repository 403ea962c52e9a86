"""Every transition that the state machine allows, read from its tables."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from voxtrial.db.jobs import Job
from voxtrial.db.results import Delivery
from voxtrial.db.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, STUDY_TRANSITIONS
from voxtrial.db.studies import StudyVersion

MACHINES: dict[str, tuple[Any, dict[Any, frozenset[Any]]]] = {
    "study": (StudyVersion, STUDY_TRANSITIONS),
    "job": (Job, JOB_TRANSITIONS),
    "delivery": (Delivery, DELIVERY_TRANSITIONS),
}
"""Table and transitions of each kind of row, by the name under which its events stand."""


class Transition(NamedTuple):
    """A row of a kind goes from one state to the next; ``before`` is empty when it comes into being."""

    subject: str
    before: str
    after: str

    @classmethod
    def named(cls, text: str) -> Self:
        """Return the transition that ``str`` gave a name, e.g. ``job QUEUED -> RUNNING``."""
        subject, before, _, after = text.split()
        return cls(subject, "" if before == "nothing" else before, after)

    def __str__(self) -> str:
        return f"{self.subject} {self.before or 'nothing'} -> {self.after}"


def every_transition() -> list[Transition]:
    """Return the opening of each kind of row, and whatever its table allows."""
    found = []
    for subject, (table, allowed) in MACHINES.items():
        found.append(Transition(subject, "", table.__table__.c.state.default.arg))
        found += [
            Transition(subject, str(b), str(a)) for b, afters in allowed.items() for a in sorted(afters)
        ]
    return found
