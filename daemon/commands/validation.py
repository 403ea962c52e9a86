"""``voxtrial reference``, ``protocol`` and ``validate``: from truth to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtrial.daemon.commands.site import ConfigFile, database, user
from voxtrial.daemon.errors import Misconfigured

reference_group = typer.Typer(no_args_is_help=True, help="Reference standard: masks, values and classes.")
protocol_group = typer.Typer(
    no_args_is_help=True, help="Analysis plans, locked before the outcomes are read."
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(reference_group, name="reference")
    app.add_typer(protocol_group, name="protocol")
    app.command("validate")(validate)


@reference_group.command("import")
def import_references(
    tables: Annotated[
        list[Path],
        typer.Argument(
            help="CSV with the columns study_instance_uid, reader, kind (mask, value, class), label, value, "
            "unit, path, subject, site; paths of masks (SEG, RTSTRUCT, NIfTI) are relative to the table.",
            show_default=False,
        ),
    ],
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Store reference readings; a corrected reading becomes a new version, nothing is overwritten."""
    import json

    from voxtrial.daemon import references
    from voxtrial.daemon.progress import bar
    from voxtrial.db.engine import sessions

    readings = [reading for table in tables for reading in references.read_table(table)]
    with database(config) as (settings, engine), sessions(engine).begin() as session:
        stored = references.store(session, settings.site.data, readings, actor=user())
        count = sum(1 for _ in bar(stored, "Reference readings", total=len(readings)))
    typer.echo(json.dumps({"stored": count}) if as_json else f"{count} reference readings stored.")


@protocol_group.command("register")
def register_protocol(
    file: Annotated[Path, typer.Argument(help="The plan, TOML.", show_default=False)],
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Lock a plan: its canonical hash and the time are stored before the first outcome is read."""
    import json

    from voxtrial.db import audit
    from voxtrial.db.engine import sessions
    from voxtrial.validation import cohort
    from voxtrial.validation.protocol import Protocol, ProtocolError

    try:
        with database(config) as (_, engine), sessions(engine).begin() as session:
            row = cohort.register(session, Protocol.load(file))
            audit.record(
                session,
                actor=user(),
                action="protocol registered",
                subject=row.name,
                digest=row.digest,
            )
            shown = {"name": row.name, "digest": row.digest, "registered_at": row.registered_at.isoformat()}
    except ProtocolError as error:
        raise Misconfigured(str(error)) from error
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        typer.echo(f"{shown['name']} is locked at {shown['registered_at']}: sha256 {shown['digest']}")


def validate(
    protocol: Annotated[
        str, typer.Argument(help="Name or digest of a registered protocol.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the report.")] = Path("report"),
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report's JSON.")] = False,
) -> None:
    """Compute every endpoint of a locked protocol and write report.json, report.html and report.pdf."""
    from voxtrial.daemon.reporting import make_report, print_verdicts
    from voxtrial.db.engine import sessions
    from voxtrial.validation.protocol import ProtocolError

    try:
        with database(config) as (settings, engine), sessions(engine).begin() as session:
            rendered = make_report(
                session,
                protocol,
                data=settings.site.data,
                site=settings.site.name,
                folder=out,
                actor=user(),
            )
    except ProtocolError as error:
        raise Misconfigured(str(error)) from error
    if as_json:
        typer.echo(rendered.json.read_text(encoding="utf-8"))
    else:
        print_verdicts(rendered)
