"""Bring a database to the schema of this version; refuse one that a newer version has changed."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

SCRIPTS = "voxtrial.db:migrations"


class NewerSchema(RuntimeError):
    """A newer version of Voxtrial has changed this database."""


class OlderSchema(RuntimeError):
    """The database lacks changes that this version needs."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply the missing migrations in one transaction; several hosts that start at once take turns.

    Raises
    ------
    NewerSchema
        The database is at a revision that this version does not know.
    """
    with engine.begin() as connection:
        _take_turns(connection)
        _refuse_newer(connection)
        command.upgrade(_configuration(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo migrations down to ``revision``; ``base`` leaves no table.

    Raises
    ------
    NewerSchema
        The database is at a revision that this version does not know.
    """
    with engine.begin() as connection:
        _take_turns(connection)
        _refuse_newer(connection)
        command.downgrade(_configuration(connection), revision)


def check(engine: Engine) -> None:
    """Return if the database has exactly the schema of this version.

    Raises
    ------
    NewerSchema, OlderSchema
        It has not; the message says what to do.
    """
    with engine.connect() as connection:
        present = _refuse_newer(connection)
    newest = _scripts().get_current_head()
    if present != newest:
        raise OlderSchema(
            f"The database is at revision {present or 'none'}, this version needs {newest}; "
            "run `voxtrial db upgrade`."
        )


def current(engine: Engine) -> str:
    """Return the revision of the database; empty when it holds no tables of ours."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() or ""


def _refuse_newer(connection: Connection) -> str:
    present = MigrationContext.configure(connection).get_current_revision() or ""
    known = {script.revision for script in _scripts().walk_revisions()}
    if present and present not in known:
        raise NewerSchema(
            f"The database is at revision {present}, which this version does not know: a newer Voxtrial has "
            "upgraded it. Install that version, or restore the backup taken before the upgrade."
        )
    return present


def _take_turns(connection: Connection) -> None:
    """Hold PostgreSQL's advisory lock until the commit; SQLite's transaction is exclusive anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7862)"))


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_configuration(None))


def _configuration(connection: Connection | None) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", SCRIPTS)
    configuration.attributes["connection"] = connection
    return configuration
