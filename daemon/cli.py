"""The command line: ``voxtrial --help`` reads like documentation, errors are one sentence with the remedy."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from voxtrial.daemon.commands import (
    audit,
    db,
    deliveries,
    demo,
    intake,
    jobs,
    metrics,
    models,
    network,
    radiomics,
    run,
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


# In the order in which --help lists them: run it, look at it, bring models, measure, validate, maintain.
GROUPS = (
    demo,
    serve,
    network,
    intake,
    work,
    studies,
    jobs,
    deliveries,
    models,
    run,
    radiomics,
    metrics,
    validation,
    statistic,
    audit,
    db,
)
for group in GROUPS:
    group.add_to(app)


def main() -> None:
    """Run the command line; an error that we raised on purpose is one line and exit status 1.

    Warnings of libraries are silenced, here and in every process that this one starts: they quote header
    values, patient names among them.
    """
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    warnings.simplefilter("ignore")
    try:
        app()
    except VoxtrialError as error:
        typer.echo(f"voxtrial: {error}", err=True)
        sys.exit(1)
