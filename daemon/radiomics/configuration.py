"""What is done to an image before its features are counted: IBSI configurations A to E, and those of a site.

A configuration is a TOML file. `load` finds the five of IBSI 1 by their letter and anything else by its path;
its digest names it in provenance.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.aggregation import Dimension
from voxtrial.daemon.radiomics.filters.settings import Filter

SHIPPED = ("A", "B", "C", "D", "E")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interpolation(_Section):
    """Put image and mask on another grid, aligned by centre, size rounded up."""

    spacing_mm: tuple[float, float, float] | None = None
    """New voxel size along (z, y, x), 0 to keep that of an axis; without it nothing is interpolated."""
    method: Literal["nearest", "linear", "cubic", "bspline"] = "linear"
    """``linear`` and ``bspline`` are IBSI's trilinear and tricubic spline interpolation."""
    partial_volume: float = Field(default=0.5, gt=0, le=1)
    """Part of a new voxel that must lie in the mask, by linear interpolation."""
    round_intensities: bool = False
    """Round to the nearest integer afterwards, as suits HU."""


class Resegmentation(_Section):
    """Take voxels out of the intensity mask."""

    range: tuple[float, float] | None = None
    """Closed interval of the intensities that stay; ``inf`` leaves a side open."""
    outlier_sigma: float | None = Field(default=None, gt=0)
    """Keep the mean of the region ± this many standard deviations."""


class Discretisation(_Section):
    """Bins: a fixed number over the range that occurs, or a fixed size from the range's lower end."""

    fixed_bin_number: int | None = Field(default=None, ge=1, le=4096)
    fixed_bin_size: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.fixed_bin_number is not None and self.fixed_bin_size is not None:
            message = "give fixed_bin_number or fixed_bin_size, not both"
            raise ValueError(message)
        return self


class Texture(_Section):
    """How texture matrices are counted."""

    dimensions: tuple[Dimension, ...] = ("3D",)
    """Neighbours in the slice (2D: averaged over slices, 2.5D: merged), or in the volume (3D)."""
    distance: int = Field(default=1, ge=1)
    """Chebyshev distance of neighbours in GLCM, NGTDM and NGLDM, voxels."""
    coarseness: int = Field(default=0, ge=0)
    """Largest difference of grey levels that NGLDM still takes for dependent."""


class Configuration(_Section):
    """A whole recipe from image and mask to features."""

    name: str
    interpolation: Interpolation = Interpolation()
    filter: Filter | None = None
    """IBSI 2 filter whose response map the features are counted on; the range still re-segments the image."""
    resegmentation: Resegmentation = Resegmentation()
    discretisation: Discretisation = Discretisation()
    """For texture and intensity histogram; without bins the intensities must be integers from 1 already."""
    intensity_volume_histogram: Discretisation = Discretisation()
    """For the intensity-volume histogram; without bins the intensities are used as they are."""
    texture: Texture = Texture()

    @property
    def range_of_bins(self) -> tuple[float, float] | None:
        """Range that bins of a fixed size refer to: that of the image, and none for a response map."""
        return self.resegmentation.range if self.filter is None else None

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of all settings but the name."""
        settings = self.model_dump(mode="json", exclude={"name"})
        canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load(name: str | Path) -> Configuration:
    """Return configuration A, B, C, D or E of IBSI 1, or the one in a TOML file.

    Raises
    ------
    Misconfigured
        There is no such file, or it has a key or a value that is not known.
    """
    if name in SHIPPED:
        text = (resources.files("voxtrial.daemon.radiomics") / "configurations" / f"{name}.toml").read_text()
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            message = (
                f"Radiomics configuration {name} is neither one of {', '.join(SHIPPED)} nor a readable file."
            )
            raise Misconfigured(message) from error
    try:
        return Configuration.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"Radiomics configuration {name} is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Misconfigured(f"Radiomics configuration {name}, key {key}: {first['msg']}.") from error
