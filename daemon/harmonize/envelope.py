"""The locked envelope: for which inputs a model was validated, and what happens outside.

A rule names one fact of the study, what is allowed, and whether a violation refuses the study or flags its
result. The envelope is part of the model's manifest, so it is locked with the model. :func:`audit` writes
down the facts that decide comparability before and after the recipe, whether or not a rule asks for them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.recipe import Facts, Harmonized
from voxtrial.daemon.harmonize.resample import orientation
from voxtrial.daemon.harmonize.tilt import tilt_degrees
from voxtrial.daemon.volume import Volume

Action = Literal["refuse", "flag"]

MEASURED = (
    "slice_spacing_mm",
    "pixel_spacing_mm",
    "slices",
    "rows",
    "columns",
    "extent_mm",
    "axes",
    "tilt_degrees",
    "unit",
    "modality",
)
"""Facts that are measured on the volume; every other name is a DICOM keyword of the acquisition."""


class Rule(BaseModel):
    """What one fact may be.

    ``minimum`` and ``maximum`` bound a number, both included; ``among`` lists texts, compared without case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fact: str
    minimum: float | None = None
    maximum: float | None = None
    among: tuple[str, ...] = ()
    action: Action = "refuse"
    missing: Action | Literal["accept"] = "flag"
    """What happens when the study does not tell the fact."""

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if (self.minimum is None and self.maximum is None) == (not self.among):
            raise ValueError(f'the rule on "{self.fact}" needs either minimum/maximum or among')
        return self

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if self.among:
            return ", ".join(self.among)
        if self.minimum is None:
            return f"at most {self.maximum:g}"
        if self.maximum is None:
            return f"at least {self.minimum:g}"
        return f"{self.minimum:g} to {self.maximum:g}"

    def accepts(self, value: object) -> bool:
        """Whether ``value`` lies inside; a text that is no number lies outside of every range."""
        if self.among:
            return str(value).strip().casefold() in {a.casefold() for a in self.among}
        try:
            number = float(str(value))
        except ValueError:
            return False
        low = -float("inf") if self.minimum is None else self.minimum
        high = float("inf") if self.maximum is None else self.maximum
        return low - 1e-6 <= number <= high + 1e-6


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A fact outside of the envelope."""

    fact: str
    value: str
    """As found; empty when the study does not tell it."""
    allowed: str
    action: Action

    @property
    def sentence(self) -> str:
        """The rule and the value in one sentence."""
        found = f"{self.fact} is {self.value}" if self.value else f"{self.fact} is not told by the study"
        return f"{found}; the model was validated for {self.allowed}."


class Envelope(BaseModel):
    """All rules of a model's input; they are independent of each other and all are checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = ()

    @classmethod
    def from_rules(cls, rules: Sequence[Mapping[str, Any]]) -> Envelope:
        """Return the envelope of plain dictionaries, as they stand in a manifest.

        Raises
        ------
        Misconfigured
            A rule that cannot be understood.
        """
        try:
            envelope = cls.model_validate({"rules": list(rules)})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(p) for p in first["loc"])
            raise Misconfigured(f"Envelope, {place}: {first['msg']}.") from error
        for rule in envelope.rules:
            if rule.fact not in MEASURED and rule.fact.islower():
                close = difflib.get_close_matches(rule.fact, MEASURED, 1)
                hint = f'did you mean "{close[0]}"' if close else f"measured are {', '.join(MEASURED)}"
                raise Misconfigured(f'Envelope: "{rule.fact}" is no DICOM keyword and not measured; {hint}.')
        return envelope

    def violations(self, volume: Volume) -> tuple[Violation, ...]:
        """Return every rule that ``volume``, as it was acquired, violates."""
        known = facts(volume)
        found = []
        for rule in self.rules:
            value = known.get(rule.fact)
            if value is None or value == "":
                if rule.missing != "accept":
                    found.append(
                        Violation(fact=rule.fact, value="", allowed=rule.allowed, action=rule.missing)
                    )
            elif not rule.accepts(value):
                shown = f"{value:.4g}" if isinstance(value, float) else str(value)
                found.append(Violation(fact=rule.fact, value=shown, allowed=rule.allowed, action=rule.action))
        return tuple(found)

    def check(self, volume: Volume) -> tuple[Violation, ...]:
        """Refuse ``volume``, or return what has to be flagged in its result.

        Raises
        ------
        Refused
            ``outside_envelope``, with every refusing rule and its value.
        """
        found = self.violations(volume)
        refusing = [v.sentence for v in found if v.action == "refuse"]
        if refusing:
            raise Refused(" ".join(refusing), rule="outside_envelope")
        return found


def facts(volume: Volume) -> dict[str, Any]:
    """Return what rules may ask for: the measured facts, and the acquisition by DICOM keyword."""
    z, y, x = volume.spacing_mm
    shape = volume.array.shape
    measured = {
        "slice_spacing_mm": z,
        "pixel_spacing_mm": max(y, x),
        "slices": shape[0],
        "rows": shape[1],
        "columns": shape[2],
        "extent_mm": z * shape[0],
        "axes": orientation(volume.grid),
        "tilt_degrees": tilt_degrees(volume.grid),
        "unit": volume.unit,
        "modality": volume.source.modality,
    }
    return {**volume.source.acquisition, **measured}


def receptive_field_mm(
    spacing_mm: Sequence[float], receptive_field_voxels: Sequence[int]
) -> tuple[float, ...]:
    """Return how many millimetres one output voxel of the model sees along (z, y, x)."""
    return tuple(round(n * s, 3) for n, s in zip(receptive_field_voxels, spacing_mm, strict=True))


def stacked_convolutions(layers: int, kernel: int = 3) -> int:
    """Return the receptive field, voxels, of ``layers`` convolutions of one width on top of each other."""
    return layers * (kernel - 1) + 1


AUDITED = ("SliceThickness", "ConvolutionKernel", "Manufacturer", "ManufacturerModelName", "KVP")


def audit(
    before: Volume, harmonized: Harmonized, *, receptive_field_voxels: Sequence[int] = ()
) -> dict[str, Any]:
    """Return, as JSON values, the facts that decide comparability before and after the recipe.

    Parameters
    ----------
    receptive_field_voxels
        What one output voxel of the model sees along (z, y, x); given in mm for the native and the harmonized
        grid.
    """
    states = {}
    for name, volume in (("before", before), ("after", harmonized.volume)):
        known = Facts.of(volume)
        state: dict[str, Any] = {
            "shape": list(known.shape),
            "spacing_mm": list(known.spacing_mm),
            "axes": known.axes,
            "tilt_degrees": round(tilt_degrees(volume.grid), 3),
            "unit": known.unit,
        }
        if receptive_field_voxels:
            state["receptive_field_mm"] = list(receptive_field_mm(volume.spacing_mm, receptive_field_voxels))
        states[name] = state
    acquisition = before.source.acquisition
    return {
        **states,
        "acquisition": {key: acquisition[key] for key in AUDITED if key in acquisition},
        "recipe_digest": harmonized.recipe_digest,
        "steps": [line.as_json() for line in harmonized.record],
        "warnings": list(harmonized.warnings),
    }
