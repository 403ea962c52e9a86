"""The analysis plan, locked by its digest before the first outcome is read.

A protocol is a TOML file. Its digest is the SHA-256 of its canonical JSON: comments and layout do not count,
any change of content does.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from voxtrial.validation import catalogue
from voxtrial.validation.reports.acceptance import Criterion, CriterionError, parse
from voxtrial.validation.tables import nearest


class ProtocolError(ValueError):
    """The protocol cannot be used; the message says which entry and what to write instead."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CohortRule(_Part):
    """Which study versions belong to the cohort."""

    modality: str = Field("", description="Modality that the study must have; empty: any.")
    patient_ids: tuple[str, ...] = Field((), description="Patients of the cohort; empty: all.")
    received_from: str = Field("", description="First day of receipt, YYYY-MM-DD; empty: no bound.")
    received_until: str = Field("", description="Last day of receipt, YYYY-MM-DD; empty: no bound.")
    accept_assumed: bool = Field(
        True, description="Whether studies closed by the quiet period count as complete."
    )


class ReferenceStandard(_Part):
    """What the model is held against."""

    reader: str = Field(description="Reader (or adjudication) whose readings are the reference.")
    mask_label: str = Field("", description="Label of the reference masks; empty: any.")
    volume_label: str = Field("", description="Label of the reference volumes; empty: the mask's volume.")
    class_label: str = Field("", description="Label of the reference class; empty: no class.")


class OperatingPoint(_Part):
    """The decision that the model's score is turned into, fixed before the test data are read."""

    score: str = Field(description="Measured concept meaning that is the score, e.g. Probability of cancer.")
    threshold: float = Field(description="A study is positive when its score is at least this.")


class Endpoint(_Part):
    """One statistic of one cohort table, with what it must reach."""

    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Stable name in report, files and traceability."
    )
    title: str = Field(description="What the reader of the report sees.")
    statistic: str = Field(description="Name in the catalogue: `voxtrial statistic list`.")
    table: Literal["studies", "by_site"] = Field(
        "studies", description="One row a study, or one row a subject with a column for each site."
    )
    role: str = Field("wide", description="Role that the statistic gives the table: wide, long.")
    column: str = Field("", description="Column that `by_site` spreads over the sites.")
    where: dict[str, Any] = Field(default_factory=dict, description="Rows to keep: column = value.")
    inputs: dict[str, Any] = Field(
        default_factory=dict, description="Columns and parameters of the statistic."
    )
    show: tuple[str, ...] = Field((), description="Values to print, in order; empty: all.")
    unit: str = Field("1", description="UCUM unit of the values.")
    criterion: str = Field(
        "", description="Predicate on the values, e.g. ci_low(auc) > 0.80; empty: descriptive."
    )
    primary: bool = Field(False, description="Whether the verdict of the study rests on it.")
    subgroups: tuple[str, ...] = Field((), description="Columns to break the statistic down by.")

    @field_validator("statistic")
    @classmethod
    def _known(cls, name: str) -> str:
        if catalogue.module_of(name) is None:
            raise ValueError(f"there is no statistic {name!r}{nearest(name, catalogue.names())}")
        return name

    @field_validator("criterion")
    @classmethod
    def _parses(cls, text: str) -> str:
        if text:
            parse(text)
        return text

    @property
    def acceptance(self) -> Criterion | None:
        """Return the predicate, or None for a descriptive endpoint."""
        return parse(self.criterion) if self.criterion else None


class Protocol(_Part):
    """Everything that is decided before the outcomes are read."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="Stable name of the protocol.")
    title: str = Field(description="Title of the report.")
    version: str = Field("1", description="Version of the protocol.")
    intended_use: str = Field("", description="Intended use that the study supports.")
    author: str = Field("", description="Who is responsible for the plan.")
    model: str = Field(description="Name of the model under test.")
    model_digest: str = Field(
        "", description="SHA-256 of the model; empty: locked to the newest at registration."
    )
    unit_of_analysis: Literal["study", "patient"] = Field("study", description="What one observation is.")
    surface_tolerance_mm: float = Field(1.0, gt=0, description="Tolerance of the surface Dice, mm.")
    minimum_subgroup: Annotated[int, Field(ge=1)] = Field(
        5, description="A subgroup below this size is reported as too small."
    )
    seed: int = Field(20260101, description="Seed of every resampling; streams are spawned per endpoint.")
    multiplicity: Literal["none", "holm", "hierarchical"] = Field(
        "none", description="How several primary endpoints share the error; none: all must be met."
    )
    cohort: CohortRule = Field(default_factory=CohortRule)
    reference: ReferenceStandard
    operating_point: OperatingPoint | None = None
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)

    @field_validator("endpoints")
    @classmethod
    def _unique(cls, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        names = [endpoint.id for endpoint in endpoints]
        if len(set(names)) != len(names):
            raise ValueError("two endpoints share an id")
        return endpoints

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Protocol:
        """Read a protocol from its canonical form.

        Raises
        ------
        ProtocolError
            An entry is unknown, missing or out of range.
        """
        try:
            return cls(**document)
        except (ValidationError, CriterionError) as error:
            raise ProtocolError(_first_problem(error)) from error

    @classmethod
    def load(cls, path: Path) -> Protocol:
        """Read a protocol from a TOML file.

        Raises
        ------
        ProtocolError
            The file is missing, is no TOML, or an entry cannot be used.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ProtocolError(f"Cannot read the protocol {path}: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise ProtocolError(f"{path} is not valid TOML: {error}.") from error
        try:
            return cls.from_document(document)
        except ProtocolError as error:
            raise ProtocolError(f"{path}: {error}") from error

    def document(self) -> dict[str, Any]:
        """Return the canonical form: JSON values, every default written out."""
        document: dict[str, Any] = self.model_dump(mode="json")
        return document

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest(self.document())


def digest(document: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``document``: sorted keys, no spaces, UTF-8."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _first_problem(error: ValidationError | CriterionError) -> str:
    if isinstance(error, CriterionError):
        return str(error)
    found = error.errors()
    # A misspelt key also leaves its right name missing: say the first.
    problem = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known: dict[str, Any] = {**Protocol.model_fields, **Endpoint.model_fields, **CohortRule.model_fields}
        return f"[{where}] is not a known entry{nearest(str(problem['loc'][-1]), known)}"
    return f"[{where}] {problem['msg']}."
