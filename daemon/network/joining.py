"""Rows of instances that join an open study version: the case of all but the first instance of a study.

The statements are compiled once and run on the driver's own cursor. What SQLAlchemy does around each
execution costs more than the database itself, and would be half of the Python time of a listener.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Dialect, bindparam, update
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


TOUCH = (
    update(StudyVersion)
    .where(
        StudyVersion.study_instance_uid == bindparam("study"),
        StudyVersion.state == bindparam("open_state", StudyState.RECEIVING.value),
    )
    .values(last_instance_at=bindparam("at"))
    .returning(StudyVersion.id)
)
"""Restart the quiet period of the open version of ``study``."""

_INSTANCE_COLUMNS = (
    "sop_instance_uid",
    "sop_class_uid",
    "study_instance_uid",
    "series_instance_uid",
    "study_version_id",
    "modality",
    "transfer_syntax_uid",
    "path",
    "size",
    "sha256",
    "calling_ae",
    "received_at",
)


def _insert_instance(insert: Any) -> Any:
    return (
        insert(Instance.__table__)
        .values({name: bindparam(name) for name in _INSTANCE_COLUMNS})
        .on_conflict_do_nothing(index_elements=["sop_instance_uid"])
        .returning(Instance.__table__.c.id)
    )


INSERT_INSTANCE = {
    "sqlite": _insert_instance(sqlite.insert),
    "postgresql": _insert_instance(postgresql.insert),
}


def instance_values(stored: Stored, version: int) -> dict[str, Any]:
    """Return the values of ``INSERT_INSTANCE``."""
    identity = stored.identity
    return {
        "sop_instance_uid": identity.sop_instance_uid,
        "sop_class_uid": identity.sop_class_uid,
        "study_instance_uid": identity.study_instance_uid,
        "series_instance_uid": identity.series_instance_uid,
        "study_version_id": version,
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
            times = [self._time(stored.received_at) for stored in batch]
            versions = self._touch_studies(cursor, batch, times)
            joined = versions is not None and all(
                self._insert_into(cursor, versions[stored.identity.study_instance_uid], stored, at)
                for stored, at in zip(batch, times, strict=True)
            )
        finally:
            cursor.close()
        if joined:
            connection.commit()
        else:
            connection.rollback()
        return joined

    def _touch_studies(
        self, cursor: Any, batch: Sequence[Stored], times: Sequence[Any]
    ) -> dict[str, int] | None:
        """Restart the quiet periods once for each study; return the open versions, None when one lacks."""
        studies = (stored.identity.study_instance_uid for stored in batch)
        latest = dict(zip(studies, times, strict=True))
        versions = {}
        for study, at in latest.items():
            values = {"study": study, "open_state": StudyState.RECEIVING.value, "at": at}
            cursor.execute(self._touch, values)
            version = cursor.fetchone()
            if version is None:
                return None
            versions[study] = version[0]
        return versions

    def _insert_into(self, cursor: Any, version: int, stored: Stored, at: Any) -> bool:
        values = instance_values(stored, version)
        values["received_at"] = at
        cursor.execute(self._insert, values)
        return cursor.fetchone() is not None
