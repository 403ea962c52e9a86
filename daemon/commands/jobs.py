"""``voxtrial jobs``: what is to be done, what failed in which step and why, and the way to redrive it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtrial.daemon.commands.site import (
    AsJson,
    ConfigFile,
    Limit,
    Reason,
    StudyOption,
    change_each,
    reading,
    user,
    why,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from voxtrial.db.jobs import Job
    from voxtrial.db.studies import StudyVersion
    from voxtrial.db.waiting import Why

group = typer.Typer(no_args_is_help=True, help="Jobs: one model over one study version each.")

JobId = Annotated[int, typer.Argument(help="Number of the job.", show_default=False)]
JobIds = Annotated[list[int] | None, typer.Argument(help="Numbers of jobs.", show_default=False)]
COLUMNS = ("id", "model_name", "state", "attempts", "step", "study_instance_uid", "version", "why")


def add_to(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="jobs")


@group.command("list")
def list_jobs(
    state: Annotated[
        str, typer.Option(help="Only in this state: QUEUED, RUNNING, WAITING, SUCCEEDED, DEAD, ...")
    ] = "",
    study: StudyOption = "",
    limit: Limit = 0,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List jobs, newest first, with the step that they are or ended in, and why they are where they are."""
    from voxtrial.daemon.commands.listing import show
    from voxtrial.db import overview

    with reading(config) as session:
        query = overview.select_jobs(state=state.upper(), study_instance_uid=study, limit=limit)
        says = why(session)
        show((_fields(*row, says) for row in session.execute(query)), COLUMNS, as_json=as_json)


@group.command("show")
def show_job(job: JobId, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Show all that is known of a job, and its timeline."""
    from voxtrial.daemon.commands.listing import show_one
    from voxtrial.daemon.errors import VoxtrialError
    from voxtrial.db import overview
    from voxtrial.db.jobs import Job

    with reading(config) as session:
        found = session.execute(overview.select_jobs().where(Job.id == job)).one_or_none()
        if found is None:
            raise VoxtrialError(f"There is no job {job}; list them with: voxtrial jobs list.")
        fields = _fields(*found, why(session))
        happenings = overview.happenings(session, {("job", job): f"job {job}"})
    show_one(fields, happenings, as_json=as_json, only_json=("provenance",))


@group.command("retry")
def retry_jobs(
    jobs: JobIds = None,
    dead: Annotated[bool, typer.Option("--dead", help="Retry every dead job.")] = False,
    rule: Annotated[str, typer.Option(help="With --dead: only those whose reason contains this.")] = "",
    reason: Reason = "",
    config: ConfigFile = None,
) -> None:
    """Queue dead or cancelled jobs again, with all their attempts."""
    from voxtrial.db import overview, queue
    from voxtrial.db.base import utc_now
    from voxtrial.db.jobs import Job
    from voxtrial.db.states import JobState

    wanted = list(jobs or [])
    if dead:
        with reading(config) as session:
            query = overview.select_jobs(state=JobState.DEAD).where(
                Job.reason.contains(rule, autoescape=True)
            )
            wanted += [job.id for job, _ in session.execute(query)]

    def retry(session: Session, number: int) -> object:
        return queue.retry(session, number, now=utc_now(), actor=user(), reason=reason)

    change_each(config, "retry", "job", wanted, retry)
    typer.echo(f"{len(wanted)} jobs queued again.")


@group.command("cancel")
def cancel_jobs(jobs: JobIds = None, reason: Reason = "", config: ConfigFile = None) -> None:
    """Cancel jobs; a running one is killed at its worker's next heartbeat."""
    from voxtrial.db import queue
    from voxtrial.db.base import utc_now

    def cancel(session: Session, number: int) -> Job:
        return queue.cancel(session, number, now=utc_now(), actor=user(), reason=reason)

    for job in change_each(config, "cancel", "job", jobs or [], cancel):
        typer.echo(f"Job {job.id}: {'being stopped' if job.cancel_requested else job.state}")


def _fields(job: Job, version: StudyVersion, says: Why) -> dict[str, Any]:
    columns = {column.key: getattr(job, column.key) for column in job.__table__.columns}
    return {
        "why": says.of(job),
        **columns,
        "study_instance_uid": version.study_instance_uid,
        "version": version.version,
    }
