"""``voxtrial deliveries``: which result has reached which destination, and what its arrival rests on."""

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
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from voxtrial.db.results import Delivery, ResultObject

group = typer.Typer(no_args_is_help=True, help="Deliveries: one result object to one destination each.")

DeliveryIds = Annotated[list[int] | None, typer.Argument(help="Numbers of deliveries.", show_default=False)]
COLUMNS = ("id", "destination", "kind", "state", "attempts", "basis", "study_instance_uid", "why")


def add_to(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="deliveries")


@group.command("list")
def list_deliveries(
    state: Annotated[
        str, typer.Option(help="Only in this state: PENDING, SENT, CONFIRMED, WAITING, DEAD, ...")
    ] = "",
    study: StudyOption = "",
    limit: Limit = 0,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """List deliveries, newest first, with what each waits for or why it has ended."""
    from voxtrial.daemon.commands.listing import show
    from voxtrial.db import overview

    with reading(config) as session:
        query = overview.select_deliveries(state=state.upper(), study_instance_uid=study, limit=limit)
        show((_fields(*row) for row in session.execute(query)), COLUMNS, as_json=as_json)


@group.command("show")
def show_delivery(
    delivery: Annotated[int, typer.Argument(help="Number of the delivery.", show_default=False)],
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Show all that is known of a delivery, and its timeline."""
    from voxtrial.daemon.commands.listing import show_one
    from voxtrial.daemon.errors import VoxtrialError
    from voxtrial.db import overview
    from voxtrial.db.results import Delivery

    with reading(config) as session:
        found = session.execute(overview.select_deliveries().where(Delivery.id == delivery)).one_or_none()
        if found is None:
            raise VoxtrialError(f"There is no delivery {delivery}; list them with: voxtrial deliveries list.")
        fields = _fields(*found)
        happenings = overview.happenings(session, {("delivery", delivery): f"delivery {delivery}"})
    show_one(fields, happenings, as_json=as_json)


@group.command("retry")
def retry_deliveries(
    deliveries: DeliveryIds = None,
    dead: Annotated[bool, typer.Option("--dead", help="Retry every dead delivery.")] = False,
    destination: Annotated[str, typer.Option(help="With --dead: only those to this destination.")] = "",
    reason: Reason = "",
    config: ConfigFile = None,
) -> None:
    """Send dead or cancelled deliveries again, from the same stored bytes."""
    from voxtrial.db import overview, queue
    from voxtrial.db.base import utc_now
    from voxtrial.db.results import Delivery
    from voxtrial.db.states import DeliveryState

    wanted = list(deliveries or [])
    if dead:
        query = overview.select_deliveries(state=DeliveryState.DEAD)
        if destination:
            query = query.where(Delivery.destination == destination)
        with reading(config) as session:
            wanted += [delivery.id for delivery, _ in session.execute(query)]

    def retry(session: Session, number: int) -> object:
        return queue.retry_delivery(session, number, now=utc_now(), actor=user(), reason=reason)

    change_each(config, "retry", "delivery", wanted, retry)
    typer.echo(f"{len(wanted)} deliveries will be sent again.")


@group.command("cancel")
def cancel_deliveries(deliveries: DeliveryIds = None, reason: Reason = "", config: ConfigFile = None) -> None:
    """Cancel deliveries that have not been sent."""
    from voxtrial.db import queue
    from voxtrial.db.base import utc_now

    def cancel(session: Session, number: int) -> Delivery:
        return queue.cancel_delivery(session, number, now=utc_now(), actor=user(), reason=reason)

    for delivery in change_each(config, "cancel", "delivery", deliveries or [], cancel):
        typer.echo(f"Delivery {delivery.id}: {delivery.state}")


def _fields(delivery: Delivery, stored: ResultObject) -> dict[str, Any]:
    from voxtrial.db.base import utc_now
    from voxtrial.db.waiting import of_delivery

    columns = {column.key: getattr(delivery, column.key) for column in delivery.__table__.columns}
    about = ("kind", "sop_instance_uid", "study_instance_uid", "path", "sha256", "job_id")
    of_object = {name: getattr(stored, name) for name in about}
    return {"why": of_delivery(delivery, utc_now()), **columns, **of_object}
