"""Rows that a queue test starts from: study versions that are closed, and jobs over them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from voxtrial.db import queue
from voxtrial.db.jobs import Event, Job
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, StudyVersion

MONDAY = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
LEASE = timedelta(seconds=30)
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def study(session: Session, *, uid: str = "", version: int = 1, instances: int = 1) -> StudyVersion:
    """Add a READY study version with its instances; the first version of a uid has no predecessor."""
    uid = uid or f"2.25.{(session.scalar(select(func.count()).select_from(StudyVersion)) or 0) + 1}"
    predecessor = session.scalar(
        select(StudyVersion.id).where(
            StudyVersion.study_instance_uid == uid, StudyVersion.version == version - 1
        )
    )
    row = StudyVersion(
        study_instance_uid=uid,
        version=version,
        predecessor_id=predecessor,
        state=StudyState.READY.value,
        basis="quiet",
        instances=instances,
        first_instance_at=MONDAY,
        last_instance_at=MONDAY,
        closed_at=MONDAY,
    )
    session.add(row)
    session.flush()
    for number in range(instances):
        sop = f"{uid}.{version}.{number}"
        session.add(
            Instance(
                sop_instance_uid=sop,
                sop_class_uid=CT_IMAGE_STORAGE,
                study_instance_uid=uid,
                series_instance_uid=f"{uid}.9",
                study_version_id=row.id,
                modality="CT",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=f"spool/{sop}.dcm",
                size=4,
                sha256="0" * 64,
                received_at=MONDAY,
            )
        )
    session.flush()
    return row


def job(session: Session, version: StudyVersion | None = None, **values: Any) -> Job:
    """Queue a job over ``version``, or over a new study; destination ``pacs``."""
    model = values.pop("model", "stand-in")
    return queue.enqueue(
        session,
        **{
            "study_version_id": (version or study(session)).id,
            "model": (f"{model}-digest", model, "1", {}),
            "recipe_digest": "recipe",
            "destinations": ["pacs"],
            "now": MONDAY,
            **values,
        },
    )


def result(uid: str, kind: str = "SEG") -> dict[str, Any]:
    """Return the columns of a result object, as ``queue.succeed`` takes them."""
    return {
        "kind": kind,
        "path": f"objects/{uid}.dcm",
        "sop_instance_uid": uid,
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4",
        "series_instance_uid": f"{uid}.1",
        "size": 4,
        "sha256": "0" * 64,
    }


def measurement(value: float, code: str = "118565006") -> dict[str, Any]:
    """Return the columns of a measurement: by default the volume (SCT) of finding 1."""
    return {
        "roi": 1,
        "tracking_id": "1",
        "tracking_uid": "2.25.1",
        "concept_code": code,
        "concept_scheme": "SCT",
        "concept_meaning": "Volume",
        "unit": "mm3",
        "value": value,
    }


def finish(session: Session, claimed: Job, *, now: datetime, uid: str = "") -> Job:
    """Let a claimed job succeed with one object and one measurement."""
    return queue.succeed(
        session,
        claimed,
        objects=[result(uid or f"2.25.7{claimed.id}")],
        measurements=[measurement(523.6)],
        seconds={"predict": 1.5},
        provenance={},
        now=now,
    )


def history(database: Engine, subject: str, subject_id: int) -> list[tuple[str, str]]:
    """Return the (before, after) of every event of a row, in order."""
    with Session(database) as session:
        events = session.scalars(
            select(Event).where(Event.subject == subject, Event.subject_id == subject_id).order_by(Event.id)
        )
        return [(event.before, event.after) for event in events]
