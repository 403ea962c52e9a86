"""From the database to frozen tables: the only module of the statistics that reads SQL.

Every study version that the protocol's rule names ends in exactly one bucket, so that the participant flow of
a report adds up. A study that is analysed becomes one row of the ``studies`` table, with the ids of the
records behind every number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session

from voxtrial.db.base import utc_now
from voxtrial.db.jobs import Job, Model
from voxtrial.db.outcomes import Protocol as ProtocolRow
from voxtrial.db.outcomes import ReferenceReading, ValidationRun
from voxtrial.db.results import Measurement, ResultObject
from voxtrial.db.states import JobState, StudyState
from voxtrial.db.studies import Series, StudyVersion
from voxtrial.validation import comparability, regions
from voxtrial.validation import protocol as plan
from voxtrial.validation.registry import Undefined
from voxtrial.validation.segmentation.mask_agreement import segmentation_agreement

ANALYSED = "analysed"


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """What a report is computed from; nothing is read from the database after this.

    Parameters
    ----------
    studies
        One row an analysed study version.
    flow
        Bucket of every study version of the cohort rule: (study version id, bucket, reason).
    model
        Manifest of the model under test.
    """

    studies: pd.DataFrame
    flow: pd.DataFrame
    model: dict[str, Any]
    protocol_id: int
    registered_at: datetime
    first_outcome_access_at: datetime

    @property
    def digest(self) -> str:
        """SHA-256 of the tables, in canonical JSON."""
        tables = {
            "studies": self.studies.astype(object).where(self.studies.notna(), None).to_dict("records"),
            "flow": self.flow.to_dict("records"),
        }
        return plan.digest(tables)


def register(session: Session, protocol: plan.Protocol) -> ProtocolRow:
    """Lock a protocol: store its canonical form with the time, once.

    The model's digest is written into the plan when the plan names none, so that the locked protocol names
    exactly one model.

    Raises
    ------
    ProtocolError
        The model is not in the database, or another plan of that name and version is registered.
    """
    document = protocol.document()
    if not protocol.model_digest:
        newest = select(Model).where(Model.name == protocol.model).order_by(Model.added_at.desc()).limit(1)
        model = session.scalar(newest)
        if model is None:
            known = ", ".join(session.scalars(select(Model.name).distinct())) or "none"
            raise plan.ProtocolError(f"No model {protocol.model!r} has been used here (known: {known}).")
        document["model_digest"] = model.digest
    locked = plan.Protocol.from_document(document)
    for row in session.scalars(select(ProtocolRow).where(ProtocolRow.name == locked.name)):
        if row.digest == locked.digest:
            return row
        if row.document.get("version") == locked.version:
            raise plan.ProtocolError(
                f"Protocol {locked.name} version {locked.version} is registered with other content; "
                "give the changed plan a new version."
            )
    row = ProtocolRow(name=locked.name, digest=locked.digest, document=locked.document())
    session.add(row)
    session.flush()
    return row


def find(session: Session, name_or_digest: str) -> ProtocolRow:
    """Return the newest registered protocol of that name, or the one of that digest."""
    query = select(ProtocolRow).where(
        (ProtocolRow.name == name_or_digest) | ProtocolRow.digest.startswith(name_or_digest)
    )
    row = session.scalar(query.order_by(ProtocolRow.registered_at.desc()).limit(1))
    if row is None:
        known = ", ".join(session.scalars(select(ProtocolRow.name).distinct())) or "none"
        raise plan.ProtocolError(
            f"No protocol {name_or_digest!r} is registered (known: {known}); "
            "register it first: voxtrial protocol register FILE."
        )
    return row


def load(session: Session, row: ProtocolRow, data: Path) -> Cohort:
    """Read everything that the protocol asks for, and note when that happened first.

    Parameters
    ----------
    data
        Folder below which the regions are stored.
    """
    protocol = plan.Protocol.from_document(row.document)
    if row.first_outcome_access_at is None:
        row.first_outcome_access_at = utc_now()
        session.flush()
    versions = _versions(session, protocol.cohort)
    references = _references(session, protocol.reference, [v.study_instance_uid for v in versions])
    names = {patient: f"subject-{n:03d}" for n, patient in enumerate(_patients(versions), start=1)}
    rows, flow = [], []
    for version in versions:
        bucket, reason, job = _bucket(session, version, protocol, references)
        flow.append({"study_version": version.id, "bucket": bucket, "reason": reason})
        if bucket == ANALYSED and job is not None:
            mine = references[version.study_instance_uid]
            rows.append(_row(session, version, job, mine, protocol, data, names[_patient(version)]))
    model = session.get(Model, protocol.model_digest)
    return Cohort(
        studies=pd.DataFrame(rows),
        flow=pd.DataFrame(flow, columns=["study_version", "bucket", "reason"]),
        model={} if model is None else dict(model.manifest),
        protocol_id=row.id,
        registered_at=row.registered_at,
        first_outcome_access_at=row.first_outcome_access_at,
    )


def record_run(session: Session, cohort: Cohort, report_sha256: str, path: Path) -> None:
    """Store that a report was made, from which cohort, with which bytes."""
    session.add(
        ValidationRun(
            protocol_id=cohort.protocol_id,
            cohort_digest=cohort.digest,
            report_sha256=report_sha256,
            path=str(path),
        )
    )


def _versions(session: Session, rule: plan.CohortRule) -> list[StudyVersion]:
    query = select(StudyVersion).order_by(StudyVersion.id)
    if rule.patient_ids:
        query = query.where(StudyVersion.patient_id.in_(rule.patient_ids))
    if rule.received_from:
        query = query.where(StudyVersion.first_instance_at >= _day(rule.received_from))
    if rule.received_until:
        query = query.where(StudyVersion.first_instance_at < _day(rule.received_until, next_day=True))
    versions = list(session.scalars(query))
    if not rule.modality:
        return versions
    modalities: dict[int, set[str]] = {}
    for version_id, modality in session.execute(select(Series.study_version_id, Series.modality)):
        modalities.setdefault(version_id, set()).add(modality)
    open_states = (StudyState.RECEIVING, StudyState.CONFIRMED, StudyState.ASSUMED)
    return [v for v in versions if rule.modality in modalities.get(v.id, ()) or v.state in open_states]


def _day(text: str, *, next_day: bool = False) -> datetime:
    day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    return day + pd.Timedelta(days=1).to_pytimedelta() if next_day else day


def _patient(version: StudyVersion) -> str:
    return f"{version.issuer_of_patient_id}\\{version.patient_id or version.study_instance_uid}"


def _patients(versions: Sequence[StudyVersion]) -> list[str]:
    """Return the patients in order of first receipt: subjects are numbered, never named."""
    return list(dict.fromkeys(_patient(version) for version in versions))


def _references(
    session: Session, standard: plan.ReferenceStandard, studies: Sequence[str]
) -> dict[str, dict[str, ReferenceReading]]:
    """Return the newest reading of each kind by study."""
    found: dict[str, dict[str, ReferenceReading]] = {}
    labels = {"mask": standard.mask_label, "value": standard.volume_label, "class": standard.class_label}
    query = select(ReferenceReading).where(ReferenceReading.reader == standard.reader)
    wanted = set(studies)
    for reading in session.scalars(query.order_by(ReferenceReading.version)):
        label = labels.get(reading.kind, "")
        if reading.study_instance_uid in wanted and label in ("", reading.label):
            found.setdefault(reading.study_instance_uid, {})[reading.kind] = reading
    return found


def _bucket(
    session: Session,
    version: StudyVersion,
    protocol: plan.Protocol,
    references: Mapping[str, Mapping[str, ReferenceReading]],
) -> tuple[str, str, Job | None]:
    """Return the one bucket of a study version, with the reason."""
    successor = session.scalar(
        select(StudyVersion.version).where(
            StudyVersion.study_instance_uid == version.study_instance_uid,
            StudyVersion.version > version.version,
        )
    )
    if successor is not None:
        return "superseded", f"late instances made version {successor}", None
    if version.state in (StudyState.RECEIVING, StudyState.CONFIRMED, StudyState.ASSUMED):
        return "still open", "not closed when the report was made", None
    if version.state == StudyState.REFUSED:
        return "refused by the geometry gate", version.rule or version.reason, None
    if version.state == StudyState.INCOMPLETE:
        return "incomplete", version.reason, None
    if version.basis == "quiet" and not protocol.cohort.accept_assumed:
        return "completeness not confirmed", "the protocol asks for a count by the source", None
    job = session.scalar(
        select(Job).where(Job.study_version_id == version.id, Job.model_digest == protocol.model_digest)
    )
    if job is None:
        return "not routed to the model", "", None
    if job.state == JobState.REFUSED:
        return "refused by the model", job.rule or job.reason, None
    if job.state != JobState.SUCCEEDED:
        return "inference failed", f"{job.state}: {job.reason}", None
    if not references.get(version.study_instance_uid):
        return "no reference reading", f"reader {protocol.reference.reader}", None
    return ANALYSED, "", job


def _row(
    session: Session,
    version: StudyVersion,
    job: Job,
    readings: Mapping[str, ReferenceReading],
    protocol: plan.Protocol,
    data: Path,
    subject: str,
) -> dict[str, Any]:
    measured = list(session.scalars(select(Measurement).where(Measurement.job_id == job.id)))
    objects = session.scalars(select(ResultObject).where(ResultObject.job_id == job.id)).all()
    any_reading = next(iter(readings.values()))
    row: dict[str, Any] = {
        "record": version.id,
        "job": job.id,
        "objects": " ".join(sorted(o.sop_instance_uid for o in objects)),
        "readings": " ".join(str(r.id) for r in readings.values()),
        "subject": subject,
        "site": any_reading.site or "unknown",
        **{key: job.provenance.get("acquisition", {}).get(key) for key in _FACTORS},
        **comparability.facts(job.provenance),
    }
    folder = (data / objects[0].path).parent if objects else data
    _add_segmentation(row, measured, readings, protocol, data, job.provenance.get("labels"), folder)
    _add_classification(row, measured, readings, protocol)
    return row


_VOLUME = "118565006"
"""SCT code of the volume that findings are measured with."""

_FACTORS = ("Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "SliceThickness")


def _add_segmentation(
    row: dict[str, Any],
    measured: Sequence[Measurement],
    readings: Mapping[str, ReferenceReading],
    protocol: plan.Protocol,
    data: Path,
    labels: Mapping[str, str] | None,
    folder: Path,
) -> None:
    """Add volume and overlap of the union of all findings; a study without a finding measures 0 mm³."""
    row["volume_mm3"] = sum(m.value for m in measured if m.concept_code == _VOLUME and m.roi > 0)
    truth: regions.Region | None = None
    if "mask" in readings and labels:
        predicted = regions.read(folder / labels["name"], labels["sha256"])
        truth = regions.read(data / readings["mask"].path, readings["mask"].sha256)
        if truth.array.shape != predicted.array.shape or not np.allclose(
            truth.affine, predicted.affine, atol=1e-3
        ):
            raise plan.ProtocolError(
                f"The reference mask of record {row['record']} stands on another grid than the result; "
                "import it again: voxtrial reference import."
            )
        row.update(_overlap(truth, predicted, protocol.surface_tolerance_mm))
    if "value" in readings and readings["value"].value is not None:
        row["reference_volume_mm3"] = readings["value"].value
    elif truth is not None:
        row["reference_volume_mm3"] = truth.volume_mm3
    reference = row.get("reference_volume_mm3")
    if reference:
        row["volume_error_percent"] = 100 * (row["volume_mm3"] - reference) / reference
    row["log_volume"] = float(np.log(row["volume_mm3"])) if row["volume_mm3"] > 0 else None


def _overlap(truth: regions.Region, predicted: regions.Region, tolerance_mm: float) -> dict[str, Any]:
    """Return the columns of the cohort table that compare two regions; None where a measure is not defined.

    A study in which the model found nothing has Dice 0 and no distance.
    """
    found = segmentation_agreement(truth.array, predicted.array, predicted.spacing_mm, (tolerance_mm,))
    names = {
        "dice": "dice",
        "jaccard": "jaccard",
        "hd95_mm": "hd95_surfel",
        "masd_mm": "masd_mean_of_means",
        "surface_dice": f"nsd_surfel_{tolerance_mm:g}mm",
    }
    values = {column: found[name] for column, name in names.items()}
    return {column: None if isinstance(value, Undefined) else value for column, value in values.items()}


def _add_classification(
    row: dict[str, Any],
    measured: Sequence[Measurement],
    readings: Mapping[str, ReferenceReading],
    protocol: plan.Protocol,
) -> None:
    """Add the study's score: the highest of its findings, 0 when the model found nothing.

    A study without a finding is a negative call, not a missing one (intention to diagnose).
    """
    if protocol.operating_point is not None:
        scores = [m.value for m in measured if m.concept_meaning == protocol.operating_point.score]
        row["score"] = max(scores, default=0.0)
        row["positive"] = int(row["score"] >= protocol.operating_point.threshold)
        row["negative"] = 1 - row["positive"]
    row["findings"] = len({m.roi for m in measured if m.roi > 0})
    if "class" in readings and readings["class"].value is not None:
        row["reference_class"] = int(readings["class"].value)
