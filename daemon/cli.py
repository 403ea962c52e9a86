"""The command line: ``voxtrial --help`` reads like documentation, errors are one sentence with the remedy."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from voxtrial.daemon.commands import (
    db,
    deliveries,
    demo,
    jobs,
    metrics,
    models,
    network,
    radiomics,
    serve,
    statistic,
    studies,
    validation,
    work,
)
from voxtrial.daemon.errors import VoxtrialError

app = typer.Typer(
    name="voxtrial",
    help="DICOM in, locked models, SEG and SR out, and the validation that follows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """DICOM in, locked models, SEG and SR out, and the validation that follows."""
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(installed_version("voxtrial"))
        raise typer.Exit


network.add_to(app)
radiomics.add_to(app)
demo.add_to(app)
serve.add_to(app)
validation.add_to(app)
statistic.add_to(app)
metrics.add_to(app)
models.add_to(app)
studies.add_to(app)
jobs.add_to(app)
deliveries.add_to(app)
db.add_to(app)
work.add_to(app)


def main() -> None:
    """Run the command line; an error that we raised on purpose is one line and exit status 1."""
    try:
        app()
    except VoxtrialError as error:
        typer.echo(f"voxtrial: {error}", err=True)
        sys.exit(1)
