"""An ordered list of steps with one digest, and a record of what each did to a volume.

The digest depends on the steps and their parameters alone, defaults written out: two spellings of the same
recipe have the same digest, and a change of any default is a change of the digest.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.harmonize.resample import orientation
from voxtrial.daemon.harmonize.steps import AnyStep, Step
from voxtrial.daemon.volume import Shape, Spacing, Volume

SCHEMA = "voxtrial-recipe/1"
"""Part of the digest; raised when a step of the same name and parameters computes something else."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a step may change about a volume."""

    shape: Shape
    spacing_mm: Spacing
    """(z, y, x), mm."""
    axes: str
    """Where the array indices grow to, e.g. ``SPL``."""
    unit: str

    @classmethod
    def of(cls, volume: Volume) -> Facts:
        """Return the facts of ``volume``."""
        grid = volume.grid
        z, y, x = (round(s, 6) for s in grid.spacing_mm)
        return cls(shape=grid.shape, spacing_mm=(z, y, x), axes=orientation(grid), unit=volume.unit)


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One line of the provenance."""

    step: str
    parameters: dict[str, Any]
    before: Facts
    after: Facts
    reason: str
    found: dict[str, float | str]
    """What the step measured in this volume and used."""
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document


@dataclass(frozen=True, kw_only=True)
class Harmonized:
    """A volume after a recipe, and what was done to it."""

    volume: Volume
    record: tuple[StepRecord, ...]
    recipe_digest: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of all steps, in order."""
        return tuple(w for line in self.record for w in line.warnings)


class Recipe(BaseModel):
    """Ordered steps from the scanner's volume to the model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[AnyStep, ...] = ()

    @classmethod
    def from_steps(cls, steps: Sequence[Mapping[str, Any]]) -> Recipe:
        """Return the recipe of plain dictionaries, as they stand in a manifest.

        Raises
        ------
        Misconfigured
            Unknown step or parameter, or a value that does not fit; names the nearest known one.
        """
        return cls(steps=tuple(_parsed(number, step) for number, step in enumerate(steps, 1)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the canonical form of the steps."""
        document = {"schema": SCHEMA, "steps": [_parameters(s) for s in self.steps]}
        return hashlib.sha256(
            json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        ).hexdigest()

    def apply(self, volume: Volume, *, threads: int = 1) -> Harmonized:
        """Return ``volume`` after all steps, with one record each.

        Raises
        ------
        Refused
            A step cannot treat this volume (see the step).
        """
        record = []
        for step in self.steps:
            applied = step.apply(volume, threads)
            parameters = _parameters(step)
            record.append(
                StepRecord(
                    step=parameters.pop("step"),
                    parameters=parameters,
                    before=Facts.of(volume),
                    after=Facts.of(applied.volume),
                    reason=step.reason or step.general_reason(),
                    found=applied.found,
                    warnings=applied.warnings,
                )
            )
            volume = applied.volume
        return Harmonized(volume=volume, record=tuple(record), recipe_digest=self.digest)


def _parameters(step: Step) -> dict[str, Any]:
    return step.model_dump(mode="json", exclude={"reason"})


KNOWN_STEPS: dict[str, type[Step]] = {
    kind.model_fields["step"].default: kind for kind in get_args(get_args(AnyStep)[0])
}
"""Every step by the name that it has in a manifest."""
_PARSER: TypeAdapter[Any] = TypeAdapter(AnyStep)


def _parsed(number: int, step: Mapping[str, Any]) -> Any:
    name = str(step.get("step", ""))
    where = f'Step {number} of the recipe ("{name}")'
    if name not in KNOWN_STEPS:
        raise Misconfigured(f"{where} is unknown{_nearest(name, list(KNOWN_STEPS))}.")
    for key in step:
        fields = KNOWN_STEPS[name].model_fields
        if key not in fields:
            raise Misconfigured(f'{where} has no parameter "{key}"{_nearest(key, list(fields))}.')
    try:
        return _PARSER.validate_python(dict(step))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"][1:])
        raise Misconfigured(f"{where}: {place} is {first['input']!r}: {first['msg']}.") from error


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, 1)
    return f'; did you mean "{found[0]}"?' if found else f"; known are {', '.join(sorted(known))}"
