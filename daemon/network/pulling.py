"""Fetch studies from a PACS: by C-FIND keys or a worklist, only what is missing here, at a chosen pace."""

from __future__ import annotations

import csv
import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.datadict import keyword_dict, tag_for_keyword
from sqlalchemy import Engine

from voxtrial.daemon.errors import Fatal, Misconfigured, Retryable
from voxtrial.daemon.network.archives import Archive, Keys, held


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
            result.failed[written(keys)] = str(error)
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
    wanted: Set[str] = frozenset()
    before: set[str] = set()
    try:
        listed = archive.instances(study)
        wanted = listed.series_of.keys()
        before = held(engine, wanted)
        if missing := wanted - before:
            archive.fetch(study, listed.only(missing))
    except (Fatal, Retryable) as error:
        result.failed[study] = str(error)
    now = held(engine, wanted)
    result.known += len(before)
    result.fetched += len(now) - len(before)
    if len(now) < len(wanted):
        result.missing[study] = len(wanted) - len(now)
    return len(now) - len(before), len(wanted) - len(now)


def parse_keys(arguments: Sequence[str]) -> dict[str, str]:
    """Read ``Keyword=value`` arguments.

    Raises
    ------
    Misconfigured
        An argument is of another form, its keyword is not in the DICOM dictionary, or all of them match
        anything.
    """
    keys = {}
    for argument in arguments:
        keyword, equals, value = argument.partition("=")
        if not equals:
            raise Misconfigured(f"{argument!r} is no key: write Keyword=value, e.g. PatientID=1234.")
        keys[_known(keyword.strip())] = value.strip()
    if not any(value.strip("*") for value in keys.values()):
        raise Misconfigured(
            f"{written(keys)} matches every study of the archive; narrow it, e.g. with StudyDate=20260101-."
        )
    return keys


def written(keys: Keys) -> str:
    """Return keys as they are written on the command line."""
    return " ".join(f"{keyword}={value}" for keyword, value in keys.items())


def read_worklist(path: Path) -> Iterator[dict[str, str]]:
    """Yield one query a row of a CSV file whose columns are DICOM keywords; empty cells are left out.

    Columns are separated by commas, semicolons or tabs, as spreadsheets write them.

    Raises
    ------
    Misconfigured
        The file cannot be read, or a column is no DICOM keyword.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            head = handle.readline()
            handle.seek(0)
            rows = csv.DictReader(handle, delimiter=max(",;\t", key=head.count))
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
        nearest = difflib.get_close_matches(keyword, keyword_dict, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "write e.g. PatientID or StudyInstanceUID."
        raise Misconfigured(f"{keyword!r} is no DICOM keyword; {hint}")
    return keyword
