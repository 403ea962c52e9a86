"""At start, make rows and files agree: the file is the truth.

A ``.part`` that nobody holds was never acknowledged and is deleted. A file of a final name without a row is
complete, since it was linked after its last byte, but is checked all the same and gets its row; what fails
the check goes to the quarantine. Only series folders that changed since the last sweep are looked at.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from sqlalchemy import Engine, select

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.ledger import Ledger, Origin, Outcome, Stored
from voxtrial.daemon.network.scan import Identity, Malformed, Scanner, is_uid
from voxtrial.daemon.network.spool import COPY_BYTES, Spool
from voxtrial.db.base import utc_now
from voxtrial.db.studies import Instance, StudyVersion

LOGGER = logging.getLogger(__name__)
MARGIN_SECONDS = 60.0
"""Folders changed this long before the last sweep are looked at again: clocks of file servers differ."""
SWEEP = Origin(calling_ae="")


@dataclass
class Swept:
    """What one sweep did."""

    parts_deleted: int = 0
    rows_added: int = 0
    quarantined: int = 0


def sweep(spool: Spool, ledger: Ledger) -> Swept:
    """Bring spool and rows together; safe while other processes receive."""
    begun = time.time()
    mark = spool.root / "swept"
    since = mark.stat().st_mtime - MARGIN_SECONDS if mark.exists() else 0.0
    result = Swept(parts_deleted=sum(_delete_if_unheld(part) for part in spool.incoming.glob("*.part")))
    for folder in _changed_series(spool.root, since):
        for path in _without_row(folder, ledger.engine):
            if _adopt(path, spool, ledger):
                result.rows_added += 1
            else:
                result.quarantined += 1
    _make_rows_durable(ledger.engine)
    mark.touch()
    os.utime(mark, (begun, begun))
    LOGGER.info("spool swept", extra=vars(result))
    return result


def _delete_if_unheld(part: Path) -> bool:
    """Delete a part whose writer is gone; the lock of a living one is held."""
    try:
        with part.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _changed_series(root: Path, since: float) -> Iterator[Path]:
    for study in root.iterdir():
        if not is_uid(study.name) or not study.is_dir():
            continue
        for series in study.iterdir():
            if series.is_dir() and series.stat().st_mtime >= since:
                yield series


def _without_row(folder: Path, engine: Engine) -> list[Path]:
    study, series = folder.parent.name, folder.name
    with engine.connect().execution_options(read_only=True) as connection:
        known = set(
            connection.scalars(
                select(Instance.sop_instance_uid)
                .join(StudyVersion)
                .where(StudyVersion.study_instance_uid == study, Instance.series_instance_uid == series)
            )
        )
    return [path for path in sorted(folder.glob("*.dcm")) if path.stem not in known]


def _adopt(path: Path, spool: Spool, ledger: Ledger) -> bool:
    """Insert the row of a complete file and return True; quarantine any other."""
    try:
        identity, transfer_syntax_uid, size, sha256 = _read(path)
    except (InvalidDicomError, Malformed) as error:
        _quarantine(path, spool, ledger, str(error))
        return False
    if spool.final_path(identity) != str(path):
        _quarantine(path, spool, ledger, f"its UIDs do not belong to {spool.relative(path)}")
        return False
    outcome = ledger.record(
        Stored(
            identity=identity,
            transfer_syntax_uid=transfer_syntax_uid,
            path=spool.relative(path),
            size=size,
            sha256=sha256,
            origin=SWEEP,
            received_at=utc_now(),
        )
    )
    if outcome is Outcome.OWN_RESULT:
        path.unlink()
        return True
    if outcome is Outcome.CONFLICT:
        _quarantine(path, spool, ledger, "another object is stored under this UID")
        return False
    return True


def _read(path: Path) -> tuple[Identity, str, int, str]:
    handle, transfer_syntax_uid = part10.open_dataset(path)
    digest, size, scanner = hashlib.sha256(), 0, Scanner(transfer_syntax_uid)
    with handle:
        os.fsync(handle.fileno())
        while piece := handle.read(COPY_BYTES):
            scanner.feed(piece)
            digest.update(piece)
            size += len(piece)
    return scanner.identity(), transfer_syntax_uid, size, digest.hexdigest()


def _quarantine(path: Path, spool: Spool, ledger: Ledger, reason: str) -> None:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    place = path.replace(spool.quarantine / f"{digest}.dcm")
    uid = path.stem if is_uid(path.stem) else ""
    ledger.quarantine(
        path=spool.relative(place), sha256=digest, reason=reason, origin=SWEEP, sop_instance_uid=uid
    )


def _make_rows_durable(engine: Engine) -> None:
    """Move SQLite's log into the database file, synced: the next sweep may start from here."""
    if engine.dialect.name != "sqlite":
        return
    raw = engine.raw_connection()  # outside the transactions that the engine begins
    try:
        raw.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
    finally:
        raw.close()
