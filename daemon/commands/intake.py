"""``voxtrial import``, ``pull``: studies from disk, and from a PACS."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from voxtrial.daemon.network.archives import Archive
    from voxtrial.daemon.network.importing import Imported
    from voxtrial.daemon.network.intake import Intake
    from voxtrial.daemon.network.pulling import Pulled
    from voxtrial.daemon.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", help="voxtrial.toml; absent: the defaults.", show_default=False, dir_okay=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")]
SHOWN = 20
"""Refused objects that are listed one by one; --json has all."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("import")(import_studies)
    app.command("pull")(pull)


def import_studies(
    paths: Annotated[
        list[Path], typer.Argument(help="Folders, DICOM files, DICOMDIR, zip archives.", show_default=False)
    ],
    config: Config = None,
    calling_ae: Annotated[
        str, typer.Option(help="AE title that the studies count as sent from; routes can ask for it.")
    ] = "IMPORT",
    as_json: AsJson = False,
) -> None:
    """Take in studies from disk, through the same store as the listener.

    What is stored already is only read, so an import that was interrupted is simply started again. Files that
    are no DICOM objects are counted; objects that are refused are listed, and the exit status is 1. A running
    daemon (`voxtrial serve`) closes the studies and goes on from there.
    """
    from voxtrial.daemon.errors import Misconfigured
    from voxtrial.daemon.network.importing import Imported, import_source, sources
    from voxtrial.daemon.progress import bar, is_shown

    for path in paths:
        if not path.exists():
            raise Misconfigured(f"There is no file or folder {path}; nothing was imported.")
    result = Imported()
    with _store(config) as (_, intake):
        total = sum(1 for path in paths for _ in sources(path, Imported())) if is_shown() else None
        found = (source for path in paths for source in sources(path, result))
        try:
            for source in bar(found, "Import", total=total):
                import_source(source, intake, result, calling_ae=calling_ae)
        finally:
            _tell_imported(result, as_json=as_json)
    if result.refused:
        raise typer.Exit(1)


def pull(
    keys: Annotated[
        list[str] | None,
        typer.Argument(help="Keyword=value, matched as C-FIND does: PatientID=12*, StudyDate=20260101-."),
    ] = None,
    source: Annotated[
        str, typer.Option("--from", help="AE_TITLE@HOST:PORT, a destination, or a DICOMweb URL.")
    ] = "",
    worklist: Annotated[
        Path | None,
        typer.Option(help="CSV with DICOM keywords as columns; each row is a query.", dir_okay=False),
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="get: on our association; move: to our listener, which the PACS must know."),
    ] = "get",
    pause: Annotated[float, typer.Option(help="Seconds of rest after each study.", min=0)] = 0.0,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Fetch studies from a PACS: by C-FIND and C-GET or C-MOVE, or by QIDO-RS and WADO-RS.

    Only instances that are missing here are fetched, so a pull that was interrupted is simply started again.
    What was not found, or did not come, is listed, and the exit status is 1.
    """
    from voxtrial.daemon.errors import Misconfigured
    from voxtrial.daemon.network.pulling import parse_keys, read_worklist
    from voxtrial.daemon.network.pulling import pull as run_pull
    from voxtrial.daemon.progress import progress

    queries = [parse_keys(keys)] if keys else []
    if worklist is not None:
        queries += list(read_worklist(worklist))
    if not queries:
        raise Misconfigured("Say what to fetch: keys such as PatientID=1234, or --worklist FILE.")
    if by not in ("get", "move"):
        raise Misconfigured(f"--by {by} is unknown; write get or move.")
    with _store(config) as (settings, intake), progress() as display:
        archive = _archive(source, settings, intake, by)
        task = display.add_task("Pull", total=None)
        came = 0

        def on_study(_study: str, fetched: int, _missing: int) -> None:
            nonlocal came
            came += fetched
            display.update(task, advance=1, description=f"Pull: {came} instances; studies")

        result = run_pull(queries, archive, intake.ledger.engine, pause_seconds=pause, on_study=on_study)
    _tell_pulled(result, as_json=as_json)
    if result.failed or result.missing or result.not_found:
        raise typer.Exit(1)


@contextmanager
def _store(config: Path | None) -> Iterator[tuple[Settings, Intake]]:
    """Open the site's store; its database gets its tables, and what a killed run left is swept."""
    from voxtrial.daemon.commands.site import database
    from voxtrial.daemon.network.intake import intake_of
    from voxtrial.daemon.network.sweep import sweep

    logging.getLogger("voxtrial").addHandler(logging.NullHandler())  # what is refused is in the result
    with database(config, upgrade=True) as (settings, engine):
        intake = intake_of(settings, engine)
        sweep(intake.spool, intake.ledger)
        try:
            yield settings, intake
        finally:
            intake.ledger.close()


def _archive(source: str, settings: Settings, intake: Intake, by: str) -> Archive:
    from voxtrial.daemon.errors import Misconfigured
    from voxtrial.daemon.network.address import is_same_service, peer_of
    from voxtrial.daemon.network.archives import MOVE_PATIENCE_SECONDS, DimsePACS, archive_of
    from voxtrial.daemon.network.dicomweb import WebPACS

    ae_title = settings.listener.ae_title
    query = settings.completeness.query
    scheme, _, rest = source.partition("://")
    if scheme.lower() in ("http", "https"):
        tls = query.tls if query and is_same_service(query.url, source) else None
        return WebPACS(f"{scheme.lower()}://{rest}", intake, tls)
    if not source and not query:
        raise Misconfigured(
            "Say where from: --from AE_TITLE@HOST:PORT, or a DICOMweb URL, or put the PACS into "
            "[completeness.query]."
        )
    if query and not source:
        how = "move" if by == "move" else "get"
        asked = query.model_copy(update={"retrieve": how})
        return archive_of(asked, intake, ae_title=ae_title, patience_seconds=MOVE_PATIENCE_SECONDS)
    return DimsePACS(peer_of(source, settings), intake, by, ae_title)


def _tell_imported(result: Imported, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
        return
    typer.echo(f"{result.new} new instances, {result.known} known before, {len(result.refused)} refused.")
    for reason, count in result.skipped.items():
        typer.echo(f"{count} skipped: {reason}")
    _list((f"{name}: {reason}" for name, reason in result.refused), len(result.refused))


def _tell_pulled(result: Pulled, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
        return
    from voxtrial.daemon.network.pulling import written

    typer.echo(f"{result.studies} studies: {result.fetched} instances fetched, {result.known} known before.")
    for keys in result.not_found:
        typer.echo(f"not found: {written(keys)}", err=True)
    _list((f"{study}: {reason}" for study, reason in result.failed.items()), len(result.failed))
    _list(
        (f"{study}: {count} instances did not come" for study, count in result.missing.items()),
        len(result.missing),
    )


def _list(lines: Iterator[str], count: int) -> None:
    for _, line in zip(range(SHOWN), lines, strict=False):
        typer.echo(line, err=True)
    if count > SHOWN:
        typer.echo(f"and {count - SHOWN} more; --json lists all.", err=True)
