"""Engine and sessions, on SQLite (WAL) and on PostgreSQL."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

BUSY_TIMEOUT_MS = 15_000
WITHOUT_TRANSACTION = "without_transaction"
"""Execution option of connections on which every statement is a transaction of its own."""


def connect(url: str, *, pre_ping: bool = True) -> Engine:
    """Open the database at ``url``; make the folder of a SQLite file when it is missing.

    Parameters
    ----------
    pre_ping
        Ask a PostgreSQL connection from the pool whether it is alive before it is used. Who tries again
        anyway does not need to ask.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _open(parsed, pool_pre_ping=pre_ping)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _open(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _open(url: URL, **options: Any) -> Engine:
    """Return an engine as all of ours are; ``options`` are what sets it apart."""
    return create_engine(url, json_serializer=_strict_json, **options)


def sessions(engine: Engine) -> sessionmaker[Session]:
    """Return a factory of sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def claiming_engine(engine: Engine) -> Engine:
    """Return an engine on the same database that is there to claim jobs; on SQLite ``engine`` itself.

    On PostgreSQL a claim is one statement: without BEGIN and COMMIT around it, it is one round trip. Its plan
    is made once, which saves half of the server's time, and is always the walk along the index of open jobs.
    A connection is not asked whether it is alive, which would be a second round trip: a claim that fails
    takes nothing, drops the dead connections, and is tried again.
    """
    if engine.dialect.name != "postgresql":
        return engine
    claiming = _open(
        engine.url,
        pool_pre_ping=False,
        isolation_level="AUTOCOMMIT",
        execution_options={WITHOUT_TRANSACTION: True},
    )
    event.listen(claiming, "connect", _plan_once)
    return claiming


def _plan_once(connection: Any, _record: Any) -> None:
    """Keep the first plan of a statement, whatever the tables held when it was made.

    A plan for unknown parameters expects few jobs to fit: it would read and sort the whole backlog, and
    compile itself.
    """
    for setting in ("plan_cache_mode = force_generic_plan", "enable_sort = off", "jit = off"):
        connection.execute(f"SET {setting}")


def _strict_json(value: Any) -> str:
    """Encode as JSON that PostgreSQL takes too: a number that JSON does not know becomes its name."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_named(value), allow_nan=False)


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list | tuple) else value


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin or commit by itself: see _begin_immediate
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    """Take the write lock at the start: a read that turns into a write could fail without waiting.

    Connections with the execution option ``read_only`` begin deferred and never wait for writers.
    """
    mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")
