"""Group files into candidate volumes: one entry for every series, or for every volume that a series holds.

Nothing is dropped without a reason: what is not an image, or cannot be read, becomes an entry with its
refusal.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from voxtrial.daemon.dicom.elements import PYDICOM_FAILURES, quietly, read_data_set, read_header
from voxtrial.daemon.dicom.header import Header
from voxtrial.daemon.dicom.pet import pet_facts
from voxtrial.daemon.dicom.plane import Plane, plain_value, planes
from voxtrial.daemon.dicom.splitting import split
from voxtrial.daemon.errors import Refused

ACQUISITION_FACTS = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "StationName",
    "BodyPartExamined",
    "ProtocolName",
    "ConvolutionKernel",
    "FilterType",
    "ReconstructionDiameter",
    "SliceThickness",
    "KVP",
    "XRayTubeCurrent",
    "Exposure",
    "GantryDetectorTilt",
    "SpiralPitchFactor",
    "ContrastBolusAgent",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "SequenceName",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "SeriesDate",
    "SeriesTime",
    "AcquisitionDate",
    "AcquisitionTime",
    "Units",
    "SUVType",
    "DecayCorrection",
    "DecayCorrected",
    "DecayCorrectionDateTime",
    "AttenuationCorrected",
    "CorrectedImage",
    "ReconstructionMethod",
    "AttenuationCorrectionMethod",
    "PatientWeight",
    "PatientSize",
    "PatientSex",
)
"""Facts of the scanner and of the acquisition that reports break down by and that SUV is computed from."""

RADIOPHARMACEUTICAL_FACTS = (
    "Radiopharmaceutical",
    "RadiopharmaceuticalStartTime",
    "RadiopharmaceuticalStartDateTime",
    "RadionuclideTotalDose",
    "RadionuclideHalfLife",
    "RadionuclidePositronFraction",
)

PRIVATE_FACTS = {
    "PhilipsSUVScaleFactor": ("Philips PET Private Group", 0x7053, 0x00),
    "PhilipsActivityConcentrationScaleFactor": ("Philips PET Private Group", 0x7053, 0x09),
    "GEScanDateTime": ("GEMS_PETD_01", 0x0009, 0x0D),
}
"""Name here, private creator, group and element offset."""


DAMAGE = frozenset(("malformed_header", "missing_geometry", "truncated", "unsupported_transfer_syntax"))
"""Rules that refuse a slice but mean the whole series: without its last slice it would look complete."""


@dataclass(frozen=True, kw_only=True)
class SeriesFiles:
    """One candidate volume, or files that cannot be one.

    Parameters
    ----------
    study_instance_uid, series_instance_uid, modality
        As the files say; empty where they do not.
    part
        What sets this volume apart from others of the same series; empty when the series is one volume.
    description
        Series Description.
    frame_of_reference_uid, patient_id
        As the first plane says.
    image_type
        Values of ImageType of the first plane.
    files
        Planes in slice order; for refused objects that are no images, one entry a file.
    acquisition
        Facts by DICOM keyword, from the file of the first plane; of a PET, AcquisitionDate and
        AcquisitionTime are those of the plane that was acquired first, whatever bed or time frame it is of.
    refusal
        Why the entry cannot be a volume; None where the geometry gate has the word.
    repeats
        Files left out because they repeat another one of the series byte for byte.
    """

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    part: str = ""
    description: str = ""
    frame_of_reference_uid: str = ""
    patient_id: str = ""
    image_type: tuple[str, ...] = ()
    files: tuple[Plane, ...]
    acquisition: dict[str, Any] = field(default_factory=dict)
    refusal: Refused | None = None
    repeats: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Description, or modality, with the part: for messages."""
        name = self.description or f"{self.modality or 'unknown'} series"
        return f"{name} ({self.part})" if self.part else name

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files, in slice order, each once."""
        return tuple(dict.fromkeys(plane.path for plane in self.files))


def group(paths: Iterable[Path]) -> list[SeriesFiles]:
    """Return the candidate volumes among ``paths``, and an entry with a refusal for everything else.

    Files of one series that repeat a SOP Instance UID with equal bytes count once; with other bytes the
    whole series is refused (``conflicting_duplicate``).
    """
    images: dict[tuple[str, str], list[Plane]] = defaultdict(list)
    others: dict[tuple[str, str, str], list[tuple[Plane, Refused]]] = defaultdict(list)
    for path in sorted(paths, key=os.fspath):
        header = Header(path=path)
        try:
            header = read_header(path)
            found = planes(header)
        except Refused as refusal:
            plane = Plane(header=header, frame=None, values=header.values)
            others[*_series_key(plane), refusal.rule].append((plane, refusal))
        else:
            images[_series_key(found[0])].extend(found)
    damaged = {
        (study, series): entries[0][1] for (study, series, rule), entries in others.items() if rule in DAMAGE
    }
    volumes = [one for key, members in images.items() for one in _volumes(members, damaged.get(key))]
    return volumes + [_refused(entries) for entries in others.values()]


def _series_key(plane: Plane) -> tuple[str, str]:
    return plane.text("StudyInstanceUID"), plane.text("SeriesInstanceUID")


def _volumes(members: Sequence[Plane], damage: Refused | None) -> list[SeriesFiles]:
    unique, repeats, conflict = _without_repeats(members)
    data_set = _data_set(unique[0])
    facts = pet_facts(unique) if unique[0].text("Modality") == "PT" else {}
    return [
        _entry(
            part.planes, data_set, part=part.name, refusal=conflict or damage, repeats=repeats, facts=facts
        )
        for part in split(unique)
    ]


def _refused(entries: Sequence[tuple[Plane, Refused]]) -> SeriesFiles:
    """Return one entry for files of one series that share a rule; the first file's message speaks for all."""
    plane, refusal = entries[0]
    message = str(refusal) if len(entries) == 1 else f"{refusal} (and {len(entries) - 1} more)"
    data_set = _data_set(plane)
    return _entry(
        tuple(plane for plane, _ in entries), data_set, part="", refusal=Refused(message, rule=refusal.rule)
    )


def _data_set(plane: Plane) -> Dataset:
    """Return the data set that the facts are taken from; an empty one where pydicom cannot read the file."""
    try:
        return read_data_set(plane.path, stop_before_pixels=True)
    except Refused:
        return Dataset()


def _entry(
    files: tuple[Plane, ...],
    data_set: Dataset,
    *,
    part: str,
    refusal: Refused | None,
    repeats: tuple[Path, ...] = (),
    facts: Mapping[str, Any] | None = None,
) -> SeriesFiles:
    first = files[0]
    study_instance_uid, series_instance_uid = _series_key(first)
    return SeriesFiles(
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        modality=first.text("Modality"),
        part=part,
        description=str(_fact(data_set, "SeriesDescription") or ""),
        frame_of_reference_uid=first.text("FrameOfReferenceUID"),
        patient_id=str(_fact(data_set, "PatientID") or ""),
        image_type=first.texts("ImageType"),
        files=files,
        acquisition=_acquisition(data_set) | dict(facts or {}),
        refusal=refusal,
        repeats=repeats,
    )


def _without_repeats(members: Sequence[Plane]) -> tuple[list[Plane], tuple[Path, ...], Refused | None]:
    """Return each instance once, the files that repeat one, and a refusal if one repeats with other bytes."""
    first: dict[tuple[str, int | None], Plane] = {}
    repeats: dict[Path, None] = {}
    for plane in members:
        earlier = first.setdefault((plane.sop_instance_uid, plane.frame), plane)
        if earlier is plane or plane.path in repeats:
            continue
        if _digest(earlier.path) != _digest(plane.path):
            message = (
                f"{earlier.path.name} and {plane.path.name} have one SOP Instance UID but different contents"
            )
            return list(members), (), Refused(message, rule="conflicting_duplicate")
        repeats[plane.path] = None
    return list(first.values()), tuple(repeats), None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _acquisition(data_set: Dataset) -> dict[str, Any]:
    facts = {keyword: _fact(data_set, keyword) for keyword in ACQUISITION_FACTS}
    tracers = _fact(data_set, "RadiopharmaceuticalInformationSequence")
    if tracers:
        facts |= {keyword: _fact(tracers[0], keyword) for keyword in RADIOPHARMACEUTICAL_FACTS}
    for name, (creator, group_number, offset) in PRIVATE_FACTS.items():
        try:
            facts[name] = data_set.private_block(group_number, creator)[offset].value
        except PYDICOM_FAILURES:
            continue
    return {keyword: plain_value(value) for keyword, value in facts.items() if value not in (None, "", [])}


def _fact(data_set: Dataset, keyword: str) -> Any:
    """Return a value as pydicom reads it; None where it is absent or does not parse."""
    try:
        with quietly():
            return data_set.get(keyword)
    except PYDICOM_FAILURES:
        return None
