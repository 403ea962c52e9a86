"""Import a source as the command does, and see the rows that an import or a sender left."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.network.importing import Imported, import_source, sources
from voxtrial.daemon.network.intake import Intake
from voxtrial.db.studies import Instance


def take(path: Path, intake: Intake) -> Imported:
    """Import everything at ``path``."""
    result = Imported()
    for source in sources(path, result):
        import_source(source, intake, result)
    return result


def rows(engine: Engine) -> list[Instance]:
    """Return the rows of all instances."""
    with Session(engine) as session:
        return list(session.scalars(select(Instance)))
