"""``voxtrial audit`` and ``conformance``: what an assessor asks for first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtrial.daemon.commands.site import AsJson, ConfigFile, Limit, reading

audit_group = typer.Typer(no_args_is_help=True, help="The append-only, hash-chained audit trail.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(audit_group, name="audit")
    app.command("conformance")(conformance)


@audit_group.command("verify")
def verify(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Check the chain of the audit trail from its first row; exit status 1 when a row does not hold."""
    import json

    from sqlalchemy import func, select

    from voxtrial.db import audit

    with reading(config) as session:
        rows = session.scalar(select(func.count()).select_from(audit.AuditRow)) or 0
        broken = audit.first_broken(session)
    if as_json:
        typer.echo(json.dumps({"rows": rows, "first_broken": broken}))
    elif broken is None:
        typer.echo(f"{rows} rows, every hash holds.")
    else:
        typer.echo(f"Row {broken} of {rows} does not hold: it, or a row before it, was changed or removed.")
    if broken is not None:
        raise typer.Exit(1)


@audit_group.command("list")
def list_rows(
    action: Annotated[str, typer.Option(help="Only actions with this word, e.g. refused.")] = "",
    config: ConfigFile = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the newest rows of the audit trail: who did what, and why something was refused.

    One object a line with --json, with the hash of each row and everything that is kept with it.
    """
    import json

    from sqlalchemy import select

    from voxtrial.daemon.commands.listing import show
    from voxtrial.db.audit import AuditRow

    with reading(config) as session:
        query = select(AuditRow).where(AuditRow.action.contains(action)).order_by(AuditRow.id.desc())
        rows = session.scalars(query.limit(limit) if limit else query).all()
    if not as_json:
        told = ("peer", "reason")
        fields = ("at", "action", "actor", "subject")
        table = [
            {**{f: getattr(row, f) for f in fields}, **{t: row.detail.get(t) for t in told}} for row in rows
        ]
        show(table, (*fields, *told), as_json=False)
        return
    for row in rows:
        kept = {f: getattr(row, f) for f in ("actor", "action", "subject", "detail", "hash")}
        typer.echo(json.dumps({"id": row.id, "at": row.at.isoformat(), **kept}))


def conformance(
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; without it: print.")] = None,
) -> None:
    """Print the DICOM conformance statement of this configuration, written from the code's own tables."""
    from voxtrial.daemon.network.conformance import statement
    from voxtrial.daemon.settings import load

    text = statement(load(config))
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text, encoding="utf-8")
