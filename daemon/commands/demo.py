"""``voxtrial demo``: the whole way of the data on one machine."""

from __future__ import annotations

import json
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)


def demo(
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the run, new; without it: the next free voxtrial-demo folder."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", help="Your own DICOM instead of phantoms.", exists=True, file_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Send studies through a daemon to a small PACS, validate the results, and print the verdicts.

    Phantom chest CT studies of known truth are made, unless you name a folder of your own. Exit status 0
    means that every study ended in an accounted-for bucket and that every delivery is confirmed.
    """
    from voxtrial.daemon.demo.run import PATIENTS, Demo
    from voxtrial.daemon.reporting import print_verdicts
    from voxtrial.validation.reports.render import Rendered

    run = Demo(out=out or _next_free(Path("voxtrial-demo")), source=source, patients=PATIENTS)
    well = run.run()
    if as_json:
        typer.echo(json.dumps(run.summary, indent=2))
    else:
        report = {kind: Path(path) for kind, path in run.summary["report"].items()}
        print_verdicts(Rendered(**report))
        counts = f"{run.summary['studies']} studies, {run.summary['instances']} instances"
        typer.echo(f"{counts}, {len(run.summary['results'])} objects at the PACS, {run.summary['seconds']} s")
        typer.echo(str(run.out / "summary.json"))
    if not well:
        raise typer.Exit(1)


def _next_free(folder: Path) -> Path:
    """Return ``folder``, or the first of ``folder-2``, ``folder-3``, ... that is not there."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(candidate for candidate in chain([folder], numbered) if not candidate.exists())
