"""``voxtrial db``: the schema of the database."""

from __future__ import annotations

import typer

from voxtrial.daemon.commands.site import ConfigFile, database

group = typer.Typer(no_args_is_help=True, help="The schema of the database.")


def add_to(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="db")


@group.command("upgrade")
def upgrade(config: ConfigFile = None) -> None:
    """Bring the database to the schema of this version; refuse one that a newer version has changed.

    Back it up first: `pg_dump` or, for SQLite, a copy of the file while no daemon runs.
    """
    from voxtrial.daemon.errors import Misconfigured
    from voxtrial.daemon.settings import load
    from voxtrial.db import migrate
    from voxtrial.db.engine import connect

    engine = connect(load(config).database_url)
    try:
        before = migrate.current(engine)
        migrate.upgrade(engine)
        after = migrate.current(engine)
    except migrate.NewerSchema as error:
        raise Misconfigured(str(error)) from error
    finally:
        engine.dispose()
    if before == after:
        typer.echo(f"The database is at revision {after} already.")
    else:
        typer.echo(f"The database went from revision {before or 'none'} to {after}.")


@group.command("check")
def check(config: ConfigFile = None) -> None:
    """Exit with status 0 if the database has exactly the schema of this version."""
    with database(config):
        typer.echo("The database has the schema of this version.")
