"""``voxtrial studies``: where is my study, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voxtrial.daemon.commands.site import AsJson, ConfigFile, Limit, Reason, changing, reading, user, why

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

group = typer.Typer(no_args_is_help=True, help="Where is my study, and why: one line for each version of it.")

Study = Annotated[
    str,
    typer.Argument(
        help="Study Instance UID, its beginning or end, or an accession number.", show_default=False
    ),
]
COLUMNS = ("study_instance_uid", "version", "state", "instances", "jobs", "deliveries", "reason")


def add_to(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="studies")


@group.command("list")
def list_studies(
    state: Annotated[
        str, typer.Option(help="Only in this state: RECEIVING, READY, REFUSED, INCOMPLETE, ...")
    ] = "",
    limit: Limit = 0,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List study versions, newest first.

    One object each with --json: study_instance_uid, version, state, reason, instances, jobs (state by model),
    deliveries (state by destination), and more.
    """
    from dataclasses import asdict

    from voxtrial.daemon.commands.listing import show
    from voxtrial.db import overview

    with reading(config) as session:
        found = overview.list_studies(session, why(session), state=state.upper(), limit=limit)
        show((asdict(study) for study in found), COLUMNS, as_json=as_json)


@group.command("show")
def show_study(study: Study, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Show every version of a study, its series, and the timeline of all that happened to it."""
    import json
    from dataclasses import asdict

    from voxtrial.daemon.commands import listing
    from voxtrial.db import overview

    with reading(config) as session:
        uid = _one(session, study)
        versions = list(overview.list_studies(session, why(session), study_instance_uid=uid))
        series = _series(session, uid)
        happenings = overview.timeline(session, uid)
    if as_json:
        document = {
            "versions": [asdict(version) for version in versions],
            "series": series,
            "timeline": [asdict(happening) for happening in happenings],
        }
        typer.echo(json.dumps(document, indent=2, default=str))
        return
    for version in reversed(versions):
        listing.show_fields(asdict(version))
        typer.echo()
    if series:
        columns = ("version", "modality", "description", "instances", "accepted", "reason")
        listing.show(series, columns, as_json=False)
        typer.echo()
    listing.draw_timeline(happenings)


@group.command("retry")
def retry_study(study: Study, reason: Reason = "", config: ConfigFile = None) -> None:
    """Retry every dead or cancelled job and delivery of the newest version of a study."""
    from voxtrial.db import overview, queue
    from voxtrial.db.base import utc_now

    with reading(config) as session:
        uid = _one(session, study)
    retried = 0
    with changing(config, "retry study", f"study {uid}") as session:
        newest = overview.newest_version(session, uid)
        jobs = session.execute(overview.select_jobs(study_instance_uid=uid)).all()
        of_newest = {job.id: job for job, version in jobs if version.version == newest}
        for job in of_newest.values():
            if job.state in ("DEAD", "CANCELLED"):
                queue.retry(session, job.id, now=utc_now(), actor=user(), reason=reason)
                retried += 1
        for delivery, stored in session.execute(overview.select_deliveries(study_instance_uid=uid)).all():
            if stored.job_id in of_newest and delivery.state in ("DEAD", "CANCELLED"):
                queue.retry_delivery(session, delivery.id, now=utc_now(), actor=user(), reason=reason)
                retried += 1
    typer.echo(f"{retried} jobs and deliveries will be tried again.")


@group.command("cancel")
def cancel_study(study: Study, reason: Reason = "", config: ConfigFile = None) -> None:
    """Cancel every job of a study that has not ended; running ones stop at the next heartbeat."""
    from voxtrial.db import overview, queue
    from voxtrial.db.base import utc_now

    with reading(config) as session:
        uid = _one(session, study)
    cancelled = 0
    with changing(config, "cancel study", f"study {uid}") as session:
        for job, _ in session.execute(overview.select_jobs(study_instance_uid=uid)).all():
            if job.state in ("QUEUED", "WAITING", "RUNNING"):
                queue.cancel(session, job.id, now=utc_now(), actor=user(), reason=reason)
                cancelled += 1
    typer.echo(f"{cancelled} jobs cancelled.")


def _one(session: Session, text: str) -> str:
    """Return the one study that ``text`` stands for."""
    from voxtrial.daemon.errors import VoxtrialError
    from voxtrial.db import overview

    found = overview.find_study(session, text)
    if not found:
        raise VoxtrialError(f"There is no study {text}; list them with: voxtrial studies list.")
    if len(found) > 1:
        raise VoxtrialError(f"{text} may be {len(found)} studies: {', '.join(found[:3])}, ...")
    return found[0]


def _series(session: Session, study_instance_uid: str) -> list[dict[str, object]]:
    """Return the series of every version as the geometry gate saw them."""
    from sqlalchemy import select

    from voxtrial.db.studies import Series, StudyVersion

    query = (
        select(Series, StudyVersion.version)
        .join(StudyVersion)
        .where(StudyVersion.study_instance_uid == study_instance_uid)
        .order_by(StudyVersion.version, Series.id)
    )
    return [
        {
            "version": version,
            "series_instance_uid": row.series_instance_uid,
            "part": row.part,
            "modality": row.modality,
            "description": row.description,
            "instances": row.instances,
            "accepted": row.accepted,
            "rule": row.rule,
            "reason": row.reason,
        }
        for row, version in session.execute(query)
    ]
