"""What a command works on: the configured site and its database, and who asks."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from voxtrial.daemon.settings import Settings
    from voxtrial.db.waiting import Why

Changed = TypeVar("Changed")
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file; without it: the defaults.", dir_okay=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyOption = Annotated[str, typer.Option("--study", help="Only of this Study Instance UID.")]
Limit = Annotated[int, typer.Option(min=0, help="Most rows to list; 0: all.")]
Reason = Annotated[str, typer.Option(help="Why; kept with the event.")]


@contextmanager
def database(
    config: Path | None, *, pre_ping: bool = True, upgrade: bool = False
) -> Iterator[tuple[Settings, Engine]]:
    """Open the site's database, whose schema must be that of this version; see ``db.engine.connect``.

    Parameters
    ----------
    upgrade
        Bring an older schema, or an empty database, to this version first.

    Raises
    ------
    Misconfigured
        The schema is older or newer, or the data folder cannot be made.
    Retryable
        The database is out of reach.
    """
    from sqlalchemy.exc import OperationalError

    from voxtrial.daemon.errors import Misconfigured, Retryable
    from voxtrial.daemon.settings import load
    from voxtrial.db import migrate
    from voxtrial.db.engine import connect

    settings = load(config)
    try:
        engine = connect(settings.database_url, pre_ping=pre_ping)
    except OSError as error:
        raise Misconfigured(f"Cannot make {error.filename}: {error.strerror}; check [site] data.") from error
    try:
        (migrate.upgrade if upgrade else migrate.check)(engine)
        yield settings, engine
    except (migrate.NewerSchema, migrate.OlderSchema) as error:
        raise Misconfigured(str(error)) from error
    except OperationalError as error:
        raise Retryable(f"The database does not answer ({error.orig}); check [database] url.") from error
    finally:
        engine.dispose()


@contextmanager
def reading(config: Path | None) -> Iterator[Session]:
    """Open a session that sees one state of the database and keeps no writer waiting."""
    from sqlalchemy.orm import Session

    with database(config) as (_, engine):
        connection = engine.connect().execution_options(read_only=True)
        with connection, Session(connection) as session:
            yield session


@contextmanager
def changing(config: Path | None, action: str, subject: str) -> Iterator[Session]:
    """Open a transaction that commits at the end, with a row in the audit trail.

    Raises
    ------
    VoxtrialError
        The state of the row does not allow the change, or there is no such row.
    """
    from sqlalchemy.exc import NoResultFound

    from voxtrial.daemon.errors import VoxtrialError
    from voxtrial.db import audit
    from voxtrial.db.engine import sessions
    from voxtrial.db.states import ForbiddenTransition

    with database(config) as (_, engine):
        try:
            with sessions(engine).begin() as session:
                yield session
                audit.record(session, actor=user(), action=action, subject=subject)
        except NoResultFound as error:
            kind = subject.split(maxsplit=1)[0]
            plural = "deliveries" if kind == "delivery" else f"{kind}s"
            raise VoxtrialError(f"There is no {subject}; list them with: voxtrial {plural} list.") from error
        except ForbiddenTransition as error:
            raise VoxtrialError(f"{subject.capitalize()}: {error}.") from error


def change_each(
    config: Path | None,
    verb: str,
    kind: str,
    numbers: Iterable[int],
    change: Callable[[Session, int], Changed],
) -> list[Changed]:
    """Change rows one by one, each in a transaction with a row in the audit trail; see ``changing``."""
    changed = []
    for number in numbers:
        with changing(config, f"{verb} {kind}", f"{kind} {number}") as session:
            changed.append(change(session, number))
    return changed


def why(session: Session) -> Why:
    """Return who says why the jobs of a listing are where they are, as of now."""
    from voxtrial.daemon.scheduler import may_start
    from voxtrial.db.base import utc_now
    from voxtrial.db.waiting import Why

    return Why(session, now=utc_now(), is_open=may_start)


def user() -> str:
    """Return who runs the command, as events name them; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
