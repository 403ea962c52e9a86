"""The rows of received objects: instance, study version, quarantine.

Associations that end an instance at the same time share one transaction: the first to come writes the rows of
all who wait (group commit), and each learns its own outcome.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from sqlalchemy import Connection, Engine, Executable, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from voxtrial.daemon.network.joining import (
    INSERT_INSTANCE,
    TOUCH,
    Joining,
    Origin,
    Stored,
    statement_values,
)
from voxtrial.daemon.network.turn import Turn
from voxtrial.db import audit
from voxtrial.db.jobs import Event
from voxtrial.db.results import ResultObject
from voxtrial.db.states import StudyState
from voxtrial.db.studies import Instance, Quarantined, StudyVersion

__all__ = ["Ledger", "Origin", "Outcome", "Stored"]

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
    _leading: threading.Lock = field(default_factory=threading.Lock, init=False)
    _turn: Turn = field(init=False)
    _connection: Connection | None = field(default=None, init=False)
    _joining: Joining = field(init=False)
    _driver_error: type[Exception] = field(init=False)

    def __post_init__(self) -> None:
        self._joining = Joining(self.engine.dialect)
        self._turn = Turn(self.engine)
        assert self.engine.dialect.dbapi is not None
        self._driver_error = self.engine.dialect.dbapi.Error

    def close(self) -> None:
        """Give the connection back; the next record opens another."""
        with self._leading:
            self._turn.close()
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
        with self._leading:
            while ticket.outcome is None and ticket.error is None:
                try:
                    with self._turn:  # whoever comes while we wait for it joins
                        count = min(len(self._waiting), MAXIMUM_BATCH)
                        self._settle([self._waiting.popleft() for _ in range(count)])
                except OSError as error:  # no turn, for nobody
                    for _ in range(len(self._waiting)):
                        self._waiting.popleft().error = OperationalError("the turn to write", None, error)
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
            if self._join(self._connection, batch):
                return
            with self._connection.begin():
                outcomes = [_record(self._connection, ticket.stored) for ticket in batch]
        except Exception:
            self._connection.close()
            self._connection = None
            raise
        for ticket, outcome in zip(batch, outcomes, strict=True):
            ticket.outcome = outcome

    def _join(self, connection: Connection, batch: list[_Ticket]) -> bool:
        """Try the short way, which serves new instances of open studies only; return whether it did."""
        if any(_may_be_own_result(ticket.stored) for ticket in batch):
            return False
        try:
            joined = self._joining.join(connection.connection, [ticket.stored for ticket in batch])
        except self._driver_error as error:
            connection.invalidate()
            raise OperationalError("rows of instances", None, error) from error
        if joined:
            for ticket in batch:
                ticket.outcome = Outcome.NEW
        return joined

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

    def refused(self, *, action: str, reason: str, origin: Origin, subject: str = "", times: int = 1) -> None:
        """Write one audit row for something that was turned away, so many times."""
        with Session(self.engine) as session, session.begin():
            audit.record(
                session,
                actor=origin.calling_ae or "unknown",
                action=action,
                subject=subject[:128],
                reason=reason if times == 1 else f"{reason} ({times} times more)",
                times=times,
                called=origin.called_ae,
                peer=origin.peer_address,
            )


def _record(connection: Connection, stored: Stored) -> Outcome:
    identity = stored.identity
    if _may_be_own_result(stored) and _is_own_result(connection, identity.sop_instance_uid):
        return Outcome.OWN_RESULT
    if not _touch(connection, stored):
        known = _known(connection, stored)
        if known is not None:
            return known
        _open_version(connection, stored)
    if _changes_one(connection, INSERT_INSTANCE[connection.dialect.name], stored):
        return Outcome.NEW
    known = _known(connection, stored)
    assert known is not None  # the insert met it
    return known


def _may_be_own_result(stored: Stored) -> bool:
    """Return whether the UID is of the kind that results get: derived from a hash, below 2.25."""
    return stored.identity.sop_instance_uid.startswith("2.25.")


def _is_own_result(connection: Connection, sop_instance_uid: str) -> bool:
    """Return whether we made the object."""
    query = select(ResultObject.id).where(ResultObject.sop_instance_uid == sop_instance_uid)
    return connection.execute(query).first() is not None


def _touch(connection: Connection, stored: Stored) -> bool:
    """Restart the quiet period of the open version; return whether there is one."""
    return _changes_one(connection, TOUCH, stored)


def _changes_one(connection: Connection, statement: Executable, stored: Stored) -> bool:
    counting = statement.execution_options(preserve_rowcount=True)
    return connection.execute(counting, statement_values(stored)).rowcount == 1


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


def _open_version(connection: Connection, stored: Stored) -> None:
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
        if version is None and _touch(connection, stored):
            return
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
