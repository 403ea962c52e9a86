"""The geometry gate of a closed study version: which series are volumes, and which models run on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxtrial.daemon.dicom import geometry
from voxtrial.daemon.dicom.select import choose
from voxtrial.daemon.dicom.series import SeriesFiles, group
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.settings import Condition, Route

if TYPE_CHECKING:
    from voxtrial.daemon.models.store import StoredModel


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One candidate volume with the gate's word."""

    series: SeriesFiles
    part: int
    """Volumes of one series count from 0."""
    refusal: Refused | None

    @property
    def acquisition(self) -> dict[str, Any]:
        """Facts for reports, with what sets the part apart."""
        name = {"part": self.series.part} if self.series.part else {}
        return {**self.series.acquisition, **name}


def judge(files: Sequence[Path], *, allow_tilt: bool = False) -> list[Candidate]:
    """Group ``files`` into candidate volumes and ask the geometry gate about each."""
    parts: Counter[str] = Counter()
    candidates = []
    for series in group(files):
        refusal = None
        try:
            geometry.check(series, allow_tilt=allow_tilt)
        except Refused as refused:
            refusal = refused
        part = parts[series.series_instance_uid]
        parts[series.series_instance_uid] += 1
        candidates.append(Candidate(series=series, part=part, refusal=refusal))
    return candidates


def study_refusal(candidates: Sequence[Candidate]) -> Refused | None:
    """Return why the study has no volume at all: the refusal of its largest series; None when it has one."""
    refused = [c for c in candidates if c.refusal is not None]
    if len(refused) < len(candidates):
        return None
    if not refused:
        return Refused("The study holds no readable file.", rule="no_files")
    return max(refused, key=lambda c: len(c.series.files)).refusal


def matches(
    condition: Condition, candidates: Sequence[Candidate], *, calling_ae: str, study_description: str
) -> bool:
    """Return whether a route is for a study with these candidates."""
    modalities = {c.series.modality for c in candidates if c.refusal is None}
    if condition.modality and condition.modality not in modalities:
        return False
    if condition.calling_ae and condition.calling_ae != calling_ae:
        return False
    pattern = condition.study_description
    return not pattern or re.search(pattern, study_description, re.IGNORECASE) is not None


def planned_peak_mib(candidates: Sequence[Candidate], model: StoredModel) -> int:
    """Return what a job will take, MiB; 0 when the model will refuse the study."""
    from voxtrial.daemon.inference import sizing

    series = [candidate.series for candidate in candidates]
    try:
        grids = {one.role: choose(series, one.selector).geometry.grid for one in model.manifest.inputs}
        return sizing.planned_peak_mib(model.manifest, grids)
    except (Refused, LookupError, TypeError):  # no suitable series, unsuitable parameters: the job says so
        return 0


def allows_tilt(models: Sequence[tuple[Route, StoredModel]]) -> bool:
    """Return whether a model corrects gantry tilt itself: its selector says so."""
    return any(wanted.selector.allow_tilt for _, model in models for wanted in model.manifest.inputs)
