"""Fetch what was sent and compare it with what we keep: "sent" has meant "lost" too often."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from voxtrial.daemon.errors import Fatal
from voxtrial.daemon.network import query
from voxtrial.daemon.network.scu import Peer
from voxtrial.db.results import ResultObject

# Patient and study level, which an archive may reconcile with its own records (PS3.4 B.4.1 coercion). What an
# object says about the image is not among them.
COERCIBLE = frozenset(
    {
        "AccessionNumber",
        "InstanceAvailability",
        "InstitutionName",
        "IssuerOfPatientID",
        "OtherPatientIDs",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "PatientSex",
        "ReferringPhysicianName",
        "RetrieveAETitle",
        "SpecificCharacterSet",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyTime",
        "TimezoneOffsetFromUTC",
    }
)


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What a peer gave back of one object.

    Parameters
    ----------
    basis
        ``read-back`` when the object came back equal, ``c-find`` when the peer only lists it, else empty.
    problem
        Why it is not confirmed; empty when it is.
    """

    basis: str = ""
    problem: str = ""
    coerced: tuple[str, ...] = ()


def read_back(
    objects: Sequence[ResultObject], data: Path, peer: Peer, *, ae_title: str
) -> dict[str, ReadBack]:
    """Return what ``peer`` holds of each object, by SOP Instance UID.

    C-GET, so that no port of ours must be open to the peer and nothing comes in as a late instance; a peer
    without C-GET is asked by C-FIND.

    Raises
    ------
    Retryable
        The peer is out of reach.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="voxtrial-readback-") as name:
            folder = Path(name)
            query.retrieve_all(
                [keys for study, of in _by_study(objects).items() for keys in query.by_instance(study, of)],
                peer,
                query.into_folder(folder),
                ae_title=ae_title,
                sop_classes=sorted({o.sop_class_uid for o in objects}),
            )
            return {o.sop_instance_uid: _compared(data / o.path, folder, o) for o in objects}
    except Fatal:
        return _listed(objects, peer, ae_title)


def differences(ours: Dataset, theirs: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the attributes that differ although they must not, and those that were coerced."""
    different: list[str] = []
    coerced: list[str] = []
    for element in ours:
        name = element.keyword or str(element.tag)
        other = theirs.get(element.tag)
        if other is None or other.value != element.value:
            (coerced if name in COERCIBLE else different).append(name)
    return tuple(different), tuple(coerced)


def _by_study(objects: Sequence[ResultObject]) -> Mapping[str, dict[str, str]]:
    studies: dict[str, dict[str, str]] = {}
    for o in objects:
        studies.setdefault(o.study_instance_uid, {})[o.sop_instance_uid] = o.series_instance_uid
    return studies


def _compared(ours: Path, folder: Path, expected: ResultObject) -> ReadBack:
    theirs = folder / f"{expected.sop_instance_uid}.dcm"
    if not theirs.exists():
        return ReadBack(problem="the peer did not give it back")
    different, coerced = differences(dcmread(ours), dcmread(theirs))
    if different:
        return ReadBack(problem=f"the peer gave back another object: {', '.join(different[:5])} differ")
    return ReadBack(basis="read-back", coerced=coerced)


def _listed(objects: Sequence[ResultObject], peer: Peer, ae_title: str) -> dict[str, ReadBack]:
    found: dict[str, ReadBack] = {}
    for study, series_of in _by_study(objects).items():
        held = query.instance_uids(study, peer, ae_title=ae_title)
        for uid in series_of:
            found[uid] = (
                ReadBack(basis="c-find") if uid in held else ReadBack(problem="the peer does not list it")
            )
    return found
