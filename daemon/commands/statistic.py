"""``voxtrial statistic``: any number of a report, recomputed from its raw table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxtrial.daemon.errors import Misconfigured

group = typer.Typer(no_args_is_help=True, help="Any statistic of a report, recomputed from its raw table.")


def add_to(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="statistic")


@group.command("list")
def list_statistics(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List every statistic with its family and what it is."""
    import json

    from voxtrial.validation.catalogue import CATALOGUE

    for family, statistics in CATALOGUE.items():
        if not as_json:
            typer.echo(family)
        for name, summary in statistics.items():
            if as_json:
                typer.echo(json.dumps({"statistic": name, "family": family, "summary": summary}))
            else:
                typer.echo(f"  {name:<42} {summary}")


@group.command("show")
def show_statistic(
    name: Annotated[str, typer.Argument(help="Name as the list prints it.", show_default=False)],
) -> None:
    """Show what goes into a statistic, what comes out, and which convention it follows."""
    import inspect

    from voxtrial.validation.registry import find
    from voxtrial.validation.tables import StatisticError

    try:
        statistic = find(name)
    except StatisticError as error:
        raise Misconfigured(str(error)) from error
    typer.echo(f"{name}\n")
    typer.echo(inspect.getdoc(statistic.compute) or "")
    if statistic.values:
        typer.echo(f"\nValues\n------\n{', '.join(statistic.values)}")


@group.command("run")
def run_statistics(
    cases: Annotated[
        list[Path],
        typer.Argument(
            help="{statistic, data: {role: CSV}, inputs}; CSV paths start at the folder above the case's.",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, one for each case.")
    ] = False,
) -> None:
    """Compute stored cases; a value that does not exist is null and its note says why.

    A case that cannot be understood is reported on standard error, the others are still computed, and the
    exit status is 1.
    """
    from voxtrial.validation.registry import run_case
    from voxtrial.validation.tables import StatisticError

    failures = 0
    for path in cases:
        try:
            result = run_case(path)
        except StatisticError as error:
            failures += 1
            typer.echo(f"voxtrial: {path}: {error}", err=True)
            continue
        if as_json:
            typer.echo(result.as_json())
            continue
        typer.echo(f"{result.case} ({result.statistic})")
        for name, value in result.values.items():
            typer.echo(f"  {name:<28} {_shown(value)}")
        for note in result.notes:
            typer.echo(f"  note: {note}")
    if failures:
        raise Misconfigured(f"{failures} of {len(cases)} cases could not be computed.")


def _shown(value: object) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(element) for element in value) + "]"
    return str(value)
