"""Whether instances would be accepted now: the database has its tables, the disk is above its watermark."""

from __future__ import annotations

import shutil
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from voxtrial.daemon.settings import Settings
from voxtrial.db.studies import StudyVersion


def health(settings: Settings, engine: Engine) -> dict[str, Any]:
    """Return ``status`` (ok or failing) and why, as ``/health`` and ``voxtrial health`` say it."""
    free_mib = shutil.disk_usage(settings.site.data).free >> 20
    try:
        with engine.connect().execution_options(read_only=True) as connection:
            connection.execute(select(StudyVersion.id).limit(1))
        database = "ok"
    except SQLAlchemyError as error:
        database = type(error).__name__
    well = database == "ok" and free_mib >= settings.listener.watermark_mib
    return {
        "status": "ok" if well else "failing",
        "database": database,
        "free_mib": free_mib,
        "watermark_mib": settings.listener.watermark_mib,
    }
