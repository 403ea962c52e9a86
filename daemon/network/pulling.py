"""Fetch studies from a PACS: by C-FIND keys or a worklist, only what is missing here, at a chosen pace."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydicom.datadict import tag_for_keyword
from sqlalchemy import Engine, select

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network import query
from voxtrial.daemon.network.intake import Intake
from voxtrial.daemon.network.scu import Peer
from voxtrial.db.studies import Instance

Keys = Mapping[str, str]
MOVE_PATIENCE_SECONDS = 60.0
"""How long objects of a C-MOVE may take to arrive after the PACS has answered."""


class Archive(Protocol):
    """Where studies are fetched from."""

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""

    def instances(self, study_instance_uid: str) -> dict[str, str]:
        """Return the series of every instance, by SOP Instance UID."""

    def fetch(self, study_instance_uid: str, missing: Mapping[str, str]) -> None:
        """Bring ``missing`` instances, given as ``instances`` does, into the store."""


@dataclass
class Pulled:
    """What one pull did."""

    studies: int = 0
    known: int = 0
    """Instances that were here before."""
    fetched: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    """Instances that did not come, by study."""
    not_found: list[dict[str, str]] = field(default_factory=list)
    """Queries that nothing matched."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reason by study or query."""


@dataclass(frozen=True)
class DimsePACS:
    """A PACS by C-FIND, and C-GET or C-MOVE.

    Parameters
    ----------
    how
        ``get``: objects come on our own association; ``move``: they come to the listener, which must run and
        be known to the PACS.
    """

    peer: Peer
    intake: Intake
    how: str
    ae_title: str

    def studies(self, keys: Keys) -> list[str]:
        """Return the Study Instance UIDs that match."""
        found = query.find("STUDY", {"StudyInstanceUID": "", **keys}, self.peer, ae_title=self.ae_title)
        return [str(match.StudyInstanceUID) for match in found]

    def instances(self, study_instance_uid: str) -> dict[str, str]:
        """Return the series of every instance, by SOP Instance UID."""
        return query.instance_uids(study_instance_uid, self.peer, ae_title=self.ae_title)

    def fetch(self, study_instance_uid: str, missing: Mapping[str, str]) -> None:
        """Bring what is missing, in requests of at most 100 instances of a series."""
        for keys in query.by_instance(study_instance_uid, missing):
            if self.how == "move":
                query.move(keys, self.peer, self.ae_title, ae_title=self.ae_title)
            else:
                into = query.into_store(self.intake)
                query.retrieve(keys, self.peer, into, ae_title=self.ae_title)
        if self.how == "move":
            self._await(missing)

    def _await(self, missing: Mapping[str, str]) -> None:
        """Wait for the objects at the listener: some archives answer a C-MOVE before they have sent."""
        deadline = time.monotonic() + MOVE_PATIENCE_SECONDS
        while missing.keys() - held(self.intake.ledger.engine, missing) and time.monotonic() < deadline:
            time.sleep(0.2)


def pull(
    queries: Iterable[Keys],
    archive: Archive,
    engine: Engine,
    *,
    pause_seconds: float = 0.0,
    on_study: Callable[[str, int, int], None] = lambda _study, _fetched, _missing: None,
) -> Pulled:
    """Fetch every study that a query matches; what is here already is not fetched again.

    Parameters
    ----------
    pause_seconds
        Rest after each study, for a PACS that has other work.
    on_study
        Called after each study with its UID and the numbers of instances fetched and still missing.
    """
    result = Pulled()
    done: set[str] = set()
    for keys in queries:
        try:
            studies = archive.studies(keys)
        except (Fatal, Retryable) as error:
            result.failed[str(dict(keys))] = str(error)
            continue
        if not studies:
            result.not_found.append(dict(keys))
        for study in studies:
            if study not in done:
                done.add(study)
                fetched, missing = _pull_study(study, archive, engine, result)
                on_study(study, fetched, missing)
                if fetched:
                    time.sleep(pause_seconds)
    return result


def _pull_study(study: str, archive: Archive, engine: Engine, result: Pulled) -> tuple[int, int]:
    result.studies += 1
    wanted: dict[str, str] = {}
    before: set[str] = set()
    try:
        wanted = archive.instances(study)
        before = held(engine, wanted)
        missing = {uid: series for uid, series in wanted.items() if uid not in before}
        if missing:
            archive.fetch(study, missing)
    except (Fatal, Retryable) as error:
        result.failed[study] = str(error)
    now = held(engine, wanted)
    result.known += len(before)
    result.fetched += len(now) - len(before)
    if len(now) < len(wanted):
        result.missing[study] = len(wanted) - len(now)
    return len(now) - len(before), len(wanted) - len(now)


def held(engine: Engine, sop_instance_uids: Iterable[str]) -> set[str]:
    """Return which of the instances have rows."""
    wanted = list(sop_instance_uids)
    found: set[str] = set()
    with engine.connect().execution_options(read_only=True) as connection:
        for first in range(0, len(wanted), 500):
            part = wanted[first : first + 500]
            rows = select(Instance.sop_instance_uid).where(Instance.sop_instance_uid.in_(part))
            found.update(connection.scalars(rows))
    return found


def parse_keys(arguments: Sequence[str]) -> dict[str, str]:
    """Read ``Keyword=value`` arguments.

    Raises
    ------
    Misconfigured
        An argument is of another form, or its keyword is not in the DICOM dictionary.
    """
    keys = {}
    for argument in arguments:
        keyword, equals, value = argument.partition("=")
        if not equals:
            raise Misconfigured(f"{argument!r} is no key: write Keyword=value, e.g. PatientID=1234.")
        keys[_known(keyword.strip())] = value.strip()
    return keys


def read_worklist(path: Path) -> Iterator[dict[str, str]]:
    """Yield one query a row of a CSV file whose columns are DICOM keywords; empty cells are left out.

    Raises
    ------
    Misconfigured
        The file cannot be read, or a column is no DICOM keyword.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = csv.DictReader(handle)
            columns = [_known(column.strip()) for column in rows.fieldnames or ()]
            for row in rows:
                values = (str(value or "").strip() for value in row.values())
                keys = {c: v for c, v in zip(columns, values, strict=False) if v}
                if keys:
                    yield keys
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Misconfigured(f"Cannot read the worklist {path}: {error}.") from error


def _known(keyword: str) -> str:
    if tag_for_keyword(keyword) is None:
        raise Misconfigured(f"{keyword!r} is no DICOM keyword; write e.g. PatientID or StudyInstanceUID.")
    return keyword
