"""What a job is given and what it gives back: values only, so that any process on any host can run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from voxtrial.daemon.volume import SourceInstance


@dataclass(frozen=True, kw_only=True)
class JobInput:
    """One model over one study version.

    ``instances`` carry absolute paths. ``first_started_at`` is the start of the first attempt: every re-run
    writes it into its objects, so that identical work gives identical bytes.
    """

    job_id: int
    study_instance_uid: str
    study_version: int
    instances: tuple[SourceInstance, ...]
    model_folder: str
    model_digest: str
    recipe_digest: str
    objects_folder: str
    """Existing folder that the result objects are written into."""
    first_started_at: datetime
    site: str
    threads: int = 1
    predecessor_sr: str = ""
    """Absolute path of the report of the superseded study version; empty for the first."""


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """One encoded DICOM object on disk."""

    kind: str
    """``SEG``, ``SR``, ..."""
    path: str
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    size: int
    sha256: str
    """Of the whole file."""


@dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """One number of one finding, with the code that says what it is."""

    roi: int
    """Finding within the job, from 1; 0 for the study as a whole."""
    tracking_id: str
    tracking_uid: str
    concept_code: str
    concept_scheme: str
    concept_meaning: str
    unit: str
    """UCUM."""
    value: float


@dataclass(frozen=True, kw_only=True)
class JobOutput:
    """Everything that the worker records when the job has succeeded."""

    objects: tuple[ResultFile, ...]
    measurements: tuple[MeasuredValue, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """By pipeline step."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Selected series by role, recipe record, versions, device: JSON values only."""
