"""Rows that a queue test starts from: study versions that are closed, and jobs over them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, String, cast, func, insert, literal, select, text
from sqlalchemy.orm import Session

from voxtrial.db import queue
from voxtrial.db.engine import claiming_engine, sessions
from voxtrial.db.jobs import Event, Job, Model
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.states import JobState, StudyState
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


def claim(database: Engine, worker: str = "worker", now=MONDAY, **capacity) -> queue.Held | None:
    """Claim the next job as a worker does, over an engine of its own."""
    engine = claiming_engine(database)
    try:
        with sessions(engine).begin() as session:
            return queue.claim(session, worker, now, LEASE, queue.Capacity(**capacity))
    finally:
        engine.dispose()


def finish(session: Session, claimed: queue.Held, *, now: datetime, uid: str = "") -> Job:
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


def finished_jobs(database: Engine, count: int) -> None:
    """Add ``count`` studies with one finished job, its events, one object and one confirmed delivery each."""
    _many(database, count, JobState.SUCCEEDED)


def instances_of_finished_jobs(database: Engine) -> None:
    """Give every study that has no instance yet one that came with it."""
    columns = {
        "sop_instance_uid": StudyVersion.study_instance_uid,
        "study_instance_uid": StudyVersion.study_instance_uid,
        "series_instance_uid": StudyVersion.study_instance_uid,
        "study_version_id": StudyVersion.id,
        "path": StudyVersion.study_instance_uid,
        **dict.fromkeys(("sop_class_uid", "transfer_syntax_uid"), literal(CT_IMAGE_STORAGE)),
        "size": literal(4),
        "sha256": literal("0" * 64),
    }
    bare = ~select(Instance.id).where(Instance.study_version_id == StudyVersion.id).exists()
    with sessions(database).begin() as session:
        rows = select(*columns.values()).where(bare)
        session.execute(insert(Instance).from_select(list(columns), rows, include_defaults=True))


def open_jobs(database: Engine, count: int) -> None:
    """Add ``count`` studies with one queued job each."""
    _many(database, count, JobState.QUEUED)


def _many(database: Engine, count: int, state: JobState) -> None:
    """Every row of a kind comes from one statement: a million of each is made in a minute."""
    on_postgresql = database.dialect.name == "postgresql"
    with sessions(database).begin() as session:
        first = (session.scalar(select(func.coalesce(func.max(StudyVersion.id), 0))) or 0) + 1
        session.merge(Model(digest="old-digest", name="old", version="1", manifest={}, added_at=MONDAY))
        session.flush()
        series = select(literal(first).label("n")).cte("series", recursive=True)
        series = series.union_all(select(series.c.n + 1).where(series.c.n < first + count - 1))
        n = series.c.n
        uid = func.concat("2.25.8.", n) if on_postgresql else "2.25.8." + cast(n, String)
        job_columns = {"id": n, "study_version_id": n, "model_digest": "old-digest", "model_name": "old"}
        job_columns |= {"recipe_digest": "recipe", "state": state.value, "available_at": MONDAY}
        tables: list[tuple[type[Any], dict[str, Any]]] = [
            (StudyVersion, {"id": n, "study_instance_uid": uid, "version": 1, "state": "READY"}),
            (Job, job_columns),
        ]
        if state is JobState.SUCCEEDED:
            about = {"kind": "SR", "sop_class_uid": "1.2", "size": 4, "sha256": "0" * 64}
            named = ("sop_instance_uid", "series_instance_uid", "study_instance_uid", "path")
            tables += [
                (ResultObject, {"id": n, "job_id": n, **about, **dict.fromkeys(named, uid)}),
                (Delivery, {"id": n, "result_object_id": n, "destination": "pacs", "state": "CONFIRMED"}),
            ]
            for before, after in (("", "QUEUED"), ("QUEUED", "RUNNING"), ("RUNNING", "SUCCEEDED")):
                event = {"subject": "job", "subject_id": n, "before": before, "after": after}
                tables.append((Event, event))
        for table, columns in tables:
            values = [v if isinstance(v, ColumnElement) else literal(v) for v in columns.values()]
            rows = select(*values).select_from(series)
            session.execute(insert(table).from_select(list(columns), rows, include_defaults=True))
            if on_postgresql and "id" in columns:
                name = table.__tablename__
                session.execute(text(f"SELECT setval('{name}_id_seq', (SELECT max(id) FROM {name}))"))
