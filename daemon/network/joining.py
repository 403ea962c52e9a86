"""Rows of instances that join an open study version: the case of all but the first instance of a study.

The statements are compiled once and run on the driver's own cursor. What SQLAlchemy does around each
execution costs more than the database itself, and would be half of the Python time of a listener.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Dialect, bindparam, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from voxtrial.daemon.network.scan import Identity
from voxtrial.db.base import UTCDateTime
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, StudyVersion


class Origin(NamedTuple):
    """Who sent an object."""

    calling_ae: str = ""
    called_ae: str = ""
    peer_address: str = ""


class Stored(NamedTuple):
    """An object on disk, as its row will say."""

    identity: Identity
    transfer_syntax_uid: str
    path: str
    """Below the data folder."""
    size: int
    sha256: str
    origin: Origin
    received_at: datetime


_IN_OPEN_VERSION = (
    StudyVersion.study_instance_uid == bindparam("study"),
    # Written out, since the index of open versions serves no parameter
    StudyVersion.state == literal_column(f"'{StudyState.RECEIVING.value}'"),
)
TOUCH = update(StudyVersion).where(*_IN_OPEN_VERSION).values(last_instance_at=bindparam("at"))
"""Restart the quiet period of the open version of a study; it matches one row, or none when none is open."""
_NOT_GIVEN = ("id", "study_version_id", "deleted_at")


def _insert_instance(insert: Any) -> Any:
    table = Instance.__table__
    columns = [column for column in table.c if column.name not in _NOT_GIVEN]
    values = [bindparam(column.name, type_=column.type) for column in columns]
    rows = select(*values, StudyVersion.id).where(*_IN_OPEN_VERSION)
    return (
        insert(table)
        .from_select([*columns, table.c.study_version_id], rows)
        .on_conflict_do_nothing(index_elements=[table.c.sop_instance_uid])
    )


INSERT_INSTANCE = {
    "sqlite": _insert_instance(sqlite.insert),
    "postgresql": _insert_instance(postgresql.insert),
}
"""Let an instance join the open version of its study; it adds one row, or none when its UID is known.

Both statements count rows and return no values, which SQLite would collect first.
"""


def statement_values(stored: Stored) -> dict[str, Any]:
    """Return the values of ``TOUCH`` and ``INSERT_INSTANCE``."""
    identity = stored.identity
    return {
        "study": identity.study_instance_uid,
        "at": stored.received_at,
        "sop_instance_uid": identity.sop_instance_uid,
        "sop_class_uid": identity.sop_class_uid,
        "study_instance_uid": identity.study_instance_uid,
        "series_instance_uid": identity.series_instance_uid,
        "modality": identity.modality,
        "transfer_syntax_uid": stored.transfer_syntax_uid,
        "path": stored.path,
        "size": stored.size,
        "sha256": stored.sha256,
        "calling_ae": stored.origin.calling_ae,
        "received_at": stored.received_at,
    }


class Joining:
    """The statements as the driver of ``dialect`` takes them."""

    def __init__(self, dialect: Dialect) -> None:
        on_sqlite = dialect.name == "sqlite"
        named = sqlite.dialect(paramstyle="named") if on_sqlite else dialect
        self._begin = "BEGIN IMMEDIATE" if on_sqlite else None  # psycopg begins by itself
        self._touch = str(TOUCH.compile(dialect=named))
        self._insert = str(INSERT_INSTANCE[dialect.name].compile(dialect=named))
        processor: Callable[[datetime], Any] | None = (
            UTCDateTime().dialect_impl(dialect).bind_processor(dialect)
        )
        self._time = processor or (lambda moment: moment)

    def join(self, connection: Any, batch: Sequence[Stored]) -> bool:
        """Commit the rows of ``batch`` on a DBAPI connection.

        Returns
        -------
        bool
            False: nothing is recorded, since one of them is known already or its study is not open.
        """
        cursor = connection.cursor()
        try:
            if self._begin:
                cursor.execute(self._begin)
            rows = [self._values(stored) for stored in batch]
            # The last of each study restarts its quiet period
            studies = {row["study"]: row for row in rows}.values()
            joined = all(self._changes_one(cursor, self._touch, row) for row in studies) and all(
                self._changes_one(cursor, self._insert, row) for row in rows
            )
        finally:
            cursor.close()
        if joined:
            connection.commit()
        else:
            connection.rollback()
        return joined

    def _values(self, stored: Stored) -> dict[str, Any]:
        values = statement_values(stored)
        values["at"] = values["received_at"] = self._time(stored.received_at)
        return values

    @staticmethod
    def _changes_one(cursor: Any, statement: str, values: dict[str, Any]) -> bool:
        cursor.execute(statement, values)
        return bool(cursor.rowcount == 1)
