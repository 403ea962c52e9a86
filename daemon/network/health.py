"""Whether instances would be accepted now: the database has its tables, the disk is above its watermark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from voxtrial.daemon.settings import Settings
from voxtrial.db.engine import connect
from voxtrial.db.studies import StudyVersion


def health(settings: Settings, engine: Engine | None = None) -> dict[str, Any]:
    """Return ``status`` (ok or failing) and why, as ``/health`` and ``voxtrial health`` say it.

    Nothing that is missing is made: who asks may be root, and the daemon could not write there any more.

    Parameters
    ----------
    engine
        The database, where it is open already.
    """
    free_mib = _free_mib(settings.site.data)
    database = _database(settings.database_url, engine)
    well = database == "ok" and free_mib is not None and free_mib >= settings.listener.watermark_mib
    return {
        "status": "ok" if well else "failing",
        "database": database,
        "free_mib": free_mib,
        "watermark_mib": settings.listener.watermark_mib,
    }


def _free_mib(folder: Path) -> int | None:
    """Return the free space; None where the folder cannot be reached."""
    try:
        return shutil.disk_usage(folder).free >> 20
    except OSError:
        return None


def _database(url: str, engine: Engine | None) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).is_file():
        return "missing"
    if engine is None:
        engine = connect(url, pre_ping=False)
    try:
        with engine.connect().execution_options(read_only=True) as connection:
            connection.execute(select(StudyVersion.id).limit(1))
    except SQLAlchemyError as error:
        return type(error).__name__
    return "ok"
