"""The rows of received objects: instance, study version, quarantine.

Associations that end an instance at the same time share one transaction: the first to come writes the rows of
all who wait (group commit), and each learns its own outcome.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from voxtrial.daemon.network.scan import Identity
from voxtrial.db import audit
from voxtrial.db.jobs import Event
from voxtrial.db.results import ResultObject
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, Quarantined, StudyVersion

MAXIMUM_BATCH = 64


class Outcome(Enum):
    """What became of the row."""

    NEW = "new"
    SAME = "same"
    """The very object was there already."""
    CONFLICT = "conflict"
    """Another object has the UID."""
    OWN_RESULT = "own result"
    """A result of ours that comes home: no input, and no reason for a new study version."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who sent an object."""

    calling_ae: str = ""
    called_ae: str = ""
    peer_address: str = ""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object on disk, as its row will say."""

    identity: Identity
    transfer_syntax_uid: str
    path: str
    """Below the data folder."""
    size: int
    sha256: str
    origin: Origin
    received_at: datetime


@dataclass
class _Ticket:
    stored: Stored
    outcome: Outcome | None = None
    error: Exception | None = None


@dataclass
class Ledger:
    """Writes rows through ``engine``; any thread may call it."""

    engine: Engine
    _waiting: deque[_Ticket] = field(default_factory=deque, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)
    _connection: Connection | None = field(default=None, init=False)

    def close(self) -> None:
        """Give the connection back; the next record opens another."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def record(self, stored: Stored) -> Outcome:
        """Commit the row of ``stored``, together with those of others who wait.

        Raises
        ------
        SQLAlchemyError
            The database refused or is out of reach; nothing is recorded.
        """
        ticket = _Ticket(stored)
        self._waiting.append(ticket)
        with self._turn:
            if ticket.outcome is None and ticket.error is None:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAXIMUM_BATCH))]
                while ticket not in batch:
                    self._settle(batch)
                    batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAXIMUM_BATCH))]
                self._settle(batch)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcome is not None
        return ticket.outcome

    def _settle(self, batch: list[_Ticket]) -> None:
        try:
            self._commit(batch)
        except Exception as error:
            # Whatever it is, everybody who waits must learn of it: nobody else will settle their rows
            if len(batch) == 1:
                batch[0].error = error
                return
            for ticket in batch:  # one row that the database refuses must not refuse the others
                self._settle([ticket])

    def _commit(self, batch: list[_Ticket]) -> None:
        # One connection is kept: taking one from the pool for every instance costs as much as an insert
        if self._connection is None:
            self._connection = self.engine.connect()
        try:
            with self._connection.begin():
                outcomes = [_record(self._connection, ticket.stored) for ticket in batch]
        except Exception:
            self._connection.close()
            self._connection = None
            raise
        for ticket, outcome in zip(batch, outcomes, strict=True):
            ticket.outcome = outcome

    def quarantine(
        self, *, path: str, sha256: str, reason: str, origin: Origin, sop_instance_uid: str = ""
    ) -> None:
        """Record an object that was not taken, once for each content and reason, and audit it each time."""
        with Session(self.engine) as session, session.begin():
            known = session.scalar(
                select(Quarantined.id).where(Quarantined.sha256 == sha256, Quarantined.reason == reason)
            )
            if known is None:
                stored = select(Instance.sha256).where(Instance.sop_instance_uid == sop_instance_uid)
                session.add(
                    Quarantined(
                        sop_instance_uid=sop_instance_uid[:64],
                        path=path,
                        sha256=sha256,
                        stored_sha256=session.scalar(stored) or "",
                        reason=reason,
                        calling_ae=origin.calling_ae,
                    )
                )
            audit.record(
                session,
                actor=origin.calling_ae or "import",
                action="instance quarantined",
                subject=sop_instance_uid[:64],
                reason=reason,
                sha256=sha256,
                peer=origin.peer_address,
            )

    def refused(self, *, action: str, reason: str, origin: Origin, subject: str = "") -> None:
        """Write one audit row for something that was turned away."""
        with Session(self.engine) as session, session.begin():
            audit.record(
                session,
                actor=origin.calling_ae or "unknown",
                action=action,
                subject=subject[:128],
                reason=reason,
                called=origin.called_ae,
                peer=origin.peer_address,
            )


# Statements of every instance are built once: building them costs more than running them.

_TOUCH = (
    update(StudyVersion)
    .where(
        StudyVersion.study_instance_uid == bindparam("study"),
        StudyVersion.state == StudyState.RECEIVING.value,
    )
    .values(last_instance_at=bindparam("at"))
    .returning(StudyVersion.id)
)

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


_INSERT_INSTANCE = {
    "sqlite": _insert_instance(sqlite.insert),
    "postgresql": _insert_instance(postgresql.insert),
}


def _record(connection: Connection, stored: Stored) -> Outcome:
    identity = stored.identity
    if _is_own_result(connection, identity.sop_instance_uid):
        return Outcome.OWN_RESULT
    version = _touch(connection, stored)
    if version is None:
        known = _known(connection, stored)
        if known is not None:
            return known
        version = _open_version(connection, stored)
    values = {
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
    if connection.execute(_INSERT_INSTANCE[connection.dialect.name], values).first() is not None:
        return Outcome.NEW
    known = _known(connection, stored)
    assert known is not None  # the insert met it
    return known


def _is_own_result(connection: Connection, sop_instance_uid: str) -> bool:
    """Return whether we made the object; the UIDs of results are derived from hashes, below 2.25."""
    if not sop_instance_uid.startswith("2.25."):
        return False
    query = select(ResultObject.id).where(ResultObject.sop_instance_uid == sop_instance_uid)
    return connection.execute(query).first() is not None


def _touch(connection: Connection, stored: Stored) -> int | None:
    """Restart the quiet period of the open version; return its id, None when there is none."""
    values = {"study": stored.identity.study_instance_uid, "at": stored.received_at}
    return connection.execute(_TOUCH, values).scalar()


def _known(connection: Connection, stored: Stored) -> Outcome | None:
    """Return how the object relates to the row of its UID; None: there is no such row."""
    row = connection.execute(
        select(Instance.id, Instance.sha256, Instance.deleted_at).where(
            Instance.sop_instance_uid == stored.identity.sop_instance_uid
        )
    ).first()
    if row is None:
        return None
    if row.sha256 != stored.sha256:
        return Outcome.CONFLICT
    if row.deleted_at is not None:  # retention took the file; now it is back
        connection.execute(update(Instance).where(Instance.id == row.id).values(deleted_at=None))
    return Outcome.SAME


def _open_version(connection: Connection, stored: Stored) -> int:
    """Open version 1, or the successor of the last closed one; another process may be faster."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    identity, origin = stored.identity, stored.origin
    version = None
    while version is None:
        last = connection.execute(
            select(StudyVersion.id, StudyVersion.version)
            .where(StudyVersion.study_instance_uid == identity.study_instance_uid)
            .order_by(StudyVersion.version.desc())
            .limit(1)
        ).first()
        version = connection.execute(
            insert(StudyVersion).on_conflict_do_nothing().returning(StudyVersion.id),
            {
                "study_instance_uid": identity.study_instance_uid,
                "version": last.version + 1 if last else 1,
                "predecessor_id": last.id if last else None,
                "state": StudyState.RECEIVING.value,
                "patient_id": identity.patient_id,
                "issuer_of_patient_id": identity.issuer_of_patient_id,
                "accession_number": identity.accession_number,
                "study_date": identity.study_date,
                "study_description": identity.study_description,
                "calling_ae": origin.calling_ae,
                "called_ae": origin.called_ae,
                "peer_address": origin.peer_address,
                "first_instance_at": stored.received_at,
                "last_instance_at": stored.received_at,
            },
        ).scalar()
        if version is None and (open_version := _touch(connection, stored)) is not None:
            return open_version
    connection.execute(
        insert(Event),
        {
            "subject": "study",
            "subject_id": version,
            "after": StudyState.RECEIVING.value,
            "actor": origin.calling_ae or "import",
            "reason": f"late instance after version {last.version}" if last else "first instance",
        },
    )
    return version
