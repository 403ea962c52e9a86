"""Reference readings into the database: who said what of which study, with the bytes that it came from.

A table (CSV) names one reading a row. A mask is drawn on the grid of the series that the model read, so that
result and reference are compared voxel by voxel.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from voxtrial.daemon.dicom import geometry, masks, series
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.volume import Grid
from voxtrial.db import audit
from voxtrial.db.jobs import Job
from voxtrial.db.outcomes import ReferenceReading
from voxtrial.db.states import JobState
from voxtrial.db.studies import Instance, StudyVersion
from voxtrial.validation import regions

KINDS = ("mask", "value", "class")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One row of a table of readings.

    Parameters
    ----------
    kind
        ``mask`` (``path``: a SEG, RTSTRUCT or NIfTI), ``value`` or ``class`` (``value``: the number).
    subject, site
        How the statistics group the study; empty where the table does not say.
    """

    study_instance_uid: str
    reader: str
    kind: str
    label: str = ""
    value: float | None = None
    unit: str = ""
    path: Path | None = None
    subject: str = ""
    site: str = ""


def read_table(table: Path) -> list[Reading]:
    """Read a CSV of readings; paths are relative to the table.

    Raises
    ------
    Misconfigured
        A column is missing, or a row cannot be understood; the message names the line.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise Misconfigured(f"Cannot read the table {table}: {error.strerror}.") from error
    return [_parsed(row, table, line) for line, row in enumerate(rows, start=2)]


def _parsed(row: dict[str, str], table: Path, line: int) -> Reading:
    where = f"{table} line {line}"
    for column in ("study_instance_uid", "reader", "kind"):
        if not (row.get(column) or "").strip():
            raise Misconfigured(f"{where}: the column {column} is empty or missing.")
    kind = row["kind"].strip()
    if kind not in KINDS:
        raise Misconfigured(f"{where}: kind {kind!r} is not one of {', '.join(KINDS)}.")
    text = (row.get("value") or "").strip()
    try:
        value = float(text) if text else None
    except ValueError as error:
        raise Misconfigured(f"{where}: {text!r} is not a number.") from error
    path = (row.get("path") or "").strip()
    if kind == "mask" and not path:
        raise Misconfigured(f"{where}: a mask needs the column path.")
    if kind != "mask" and value is None:
        raise Misconfigured(f"{where}: a {kind} needs the column value.")
    return Reading(
        study_instance_uid=row["study_instance_uid"].strip(),
        reader=row["reader"].strip(),
        kind=kind,
        label=(row.get("label") or "").strip(),
        value=value,
        unit=(row.get("unit") or "").strip(),
        path=table.parent / path if path else None,
        subject=(row.get("subject") or "").strip(),
        site=(row.get("site") or "").strip(),
    )


def store(
    session: Session, data: Path, readings: Sequence[Reading], *, actor: str
) -> Iterator[ReferenceReading]:
    """Store readings one by one; the same reading again changes nothing, another one is a new version.

    Parameters
    ----------
    data
        Folder below which masks are kept.
    actor
        Who imports them, for the audit trail.

    Yields
    ------
    ReferenceReading
        The stored row of each reading.

    Raises
    ------
    Misconfigured
        A study is not here, or a mask cannot be placed on it.
    """
    grids: dict[str, Grid] = {}
    for reading in readings:
        study = reading.study_instance_uid
        if study not in grids and reading.kind == "mask":
            grids[study] = _grid_of(session, data, study)
        yield _store_one(session, data, reading, grids.get(study), actor)


def _store_one(
    session: Session, data: Path, reading: Reading, grid: Grid | None, actor: str
) -> ReferenceReading:
    row = ReferenceReading(
        study_instance_uid=reading.study_instance_uid,
        reader=reading.reader,
        kind=reading.kind,
        label=reading.label,
        value=reading.value,
        unit=reading.unit,
        subject=reading.subject,
        site=reading.site,
        source=reading.path.name if reading.path else "",
    )
    if grid is not None and reading.path is not None:
        labels = _rasterised(reading.path, grid, reading.label)
        content = hashlib.sha256(np.packbits(labels).tobytes()).hexdigest()
        row.path = f"references/{reading.study_instance_uid}/{content[:32]}.npz"
        row.sha256 = regions.write(data / row.path, labels.astype(np.uint8), grid.affine)
    newest = session.scalar(
        select(ReferenceReading)
        .where(
            ReferenceReading.study_instance_uid == row.study_instance_uid,
            ReferenceReading.reader == row.reader,
            ReferenceReading.kind == row.kind,
            ReferenceReading.label == row.label,
        )
        .order_by(ReferenceReading.version.desc())
        .limit(1)
    )
    if newest is not None:
        if (newest.value, newest.path, newest.site) == (row.value, row.path, row.site):
            return newest
        row.version = newest.version + 1
    session.add(row)
    session.flush()
    audit.record(
        session,
        actor=actor,
        action="reference imported",
        subject=f"reading {row.id}",
        kind=row.kind,
        version=row.version,
        sha256=row.sha256,
    )
    return row


def _rasterised(path: Path, grid: Grid, label: str) -> NDArray[np.bool_]:
    """Return the union of the regions of that label; every region when none bears the label."""
    found = masks.read(path, grid)
    named = [mask for mask in found if mask.label == label] or found
    if not named:
        raise Misconfigured(f"{path} holds no region.")
    return np.asarray(np.any([mask.array for mask in named], axis=0))


def stored_instances(session: Session, version: StudyVersion) -> list[Instance]:
    """Return every instance of a study version, those of its predecessors included."""
    query = (
        select(Instance)
        .join(StudyVersion, Instance.study_version_id == StudyVersion.id)
        .where(
            StudyVersion.study_instance_uid == version.study_instance_uid,
            StudyVersion.version <= version.version,
        )
        .order_by(Instance.id)
    )
    return list(session.scalars(query))


def _grid_of(session: Session, data: Path, study: str) -> Grid:
    """Return the grid of the series that the newest result of the study was made from."""
    version = session.scalar(
        select(StudyVersion)
        .where(StudyVersion.study_instance_uid == study)
        .order_by(StudyVersion.version.desc())
        .limit(1)
    )
    if version is None:
        raise Misconfigured(f"Study {study} is not here; receive or import its images before its reference.")
    paths = [data / instance.path for instance in stored_instances(session, version)]
    candidates = [s for s in series.group(paths) if s.refusal is None]
    job = session.scalar(
        select(Job)
        .where(Job.study_version_id == version.id, Job.state == JobState.SUCCEEDED)
        .order_by(Job.id.desc())
        .limit(1)
    )
    if job is not None:
        chosen = next(iter(job.provenance["inputs"].values()))
        key = (chosen["series_instance_uid"], chosen["part"])
        candidates = [s for s in candidates if (s.series_instance_uid, s.part) == key]
    if len(candidates) != 1:
        raise Misconfigured(
            f"Study {study} holds {len(candidates)} usable series and no result yet; "
            "run a model on it first, so that the reference is drawn on the series that the model read."
        )
    return geometry.check(candidates[0]).grid
