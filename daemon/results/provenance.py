"""Who made an object and from what: equipment, algorithm, times and identity that all objects share."""

from __future__ import annotations

import hashlib
import io
import os
from datetime import UTC
from pathlib import Path
from typing import TypedDict

from highdicom import AlgorithmIdentificationSequence, ContributingEquipment
from highdicom.sr import AlgorithmIdentification
from pydicom.dataset import Dataset

from voxtrial.daemon.job import ResultFile
from voxtrial.daemon.results import codes
from voxtrial.daemon.results.content import Work

MANUFACTURER = "Voxtrial"
RESEARCH = "(research)"

# What highdicom does not copy from the source, although every reader files objects by it.
_COPIED_KEYWORDS = ("IssuerOfPatientID", "StudyDescription", "OtherPatientIDs", "ClinicalTrialSubjectID")


class Equipment(TypedDict):
    """The equipment attributes of every object (PS3.3 C.7.5.1), as highdicom names them."""

    manufacturer: str
    manufacturer_model_name: str
    software_versions: str
    device_serial_number: str


def equipment(work: Work) -> Equipment:
    """Return the model as the equipment that made the object."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": work.model_name,
        "software_versions": f"{work.code_version}; model {work.model_version}",
        "device_serial_number": work.model_digest[:16],
    }


def contributing_equipment(work: Work) -> list[ContributingEquipment]:
    """Return the algorithm as contributing equipment (IHE AIR 6.5.3.1)."""
    item = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.PROCESSING_EQUIPMENT.coded(),
        manufacturer_model_name=work.model_name,
        software_versions=[work.code_version, work.model_version],
        contribution_description=f"{RESEARCH} {work.intended_use}".strip(),
    )
    # highdicom knows the published purposes alone; the profile asks for its own code.
    item.PurposeOfReferenceCodeSequence = [codes.PROCESSING_ALGORITHM.coded()]
    item.DeviceUID = work.device_uid
    return [item]


def _parameters(work: Work) -> tuple[str, ...]:
    return (f"model sha256={work.model_digest}", f"recipe sha256={work.recipe_digest}", *work.parameters)


def algorithm_sequence(work: Work) -> AlgorithmIdentificationSequence:
    """Return the algorithm identification of a segment (PS3.3 10.16)."""
    sequence = AlgorithmIdentificationSequence(
        name=work.model_name,
        family=codes.ARTIFICIAL_INTELLIGENCE.coded(),
        version=work.model_version,
        source=MANUFACTURER,
    )
    sequence[0].AlgorithmParameters = "; ".join(_parameters(work))
    return sequence


def algorithm_identification(work: Work) -> AlgorithmIdentification:
    """Return the algorithm identification of a report (TID 4019)."""
    return AlgorithmIdentification(
        name=work.model_name, version=work.model_version, parameters=list(_parameters(work))
    )


def stamp(dataset: Dataset, work: Work, description: str) -> None:
    """Give the object its research marking, the times of the first attempt, and what the source says."""
    source = work.source[0]
    for keyword in _COPIED_KEYWORDS:
        if keyword in source and keyword not in dataset:
            dataset[keyword] = source[keyword]
    moment = work.first_started_at.astimezone(UTC)
    date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
    for prefix in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{prefix}Date", date)
        setattr(dataset, f"{prefix}Time", time)
    for item in dataset.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = f"{date}{time}+0000"
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.SeriesDescription = f"{work.model_name} {work.model_version} {description} {RESEARCH}"[:64]


def save(dataset: Dataset, kind: str, folder: Path) -> ResultFile:
    """Write the object below ``folder`` under its UID and return what the database records of it.

    The file is on disk, whole, before it has its name: a send never meets half an object.
    """
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    path = folder / f"{dataset.SOPInstanceUID}.dcm"
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    return ResultFile(
        kind=kind,
        path=str(path),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
