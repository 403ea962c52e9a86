"""The steps of a recipe: what each is called in a manifest, which parameters it takes, why it is there.

A step is a frozen value. ``apply`` returns the new volume; everything that decides the result is a field,
so that the fields alone make the digest.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from voxtrial.daemon.harmonize import intensity, resample
from voxtrial.daemon.harmonize.bands import Interpolator
from voxtrial.daemon.volume import Volume

Range = tuple[float, float]
Three = tuple[float, float, float]
Region = Literal["all", "nonzero", "above_mean", "otsu"]


class Step(BaseModel):
    """One operation on a volume.

    ``reason`` may say in the author's words why this recipe has the step; it is printed in the provenance
    in place of the general reason and is no part of the digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = ""

    @abstractmethod
    def apply(self, volume: Volume, threads: int) -> Volume:
        """Return the volume after this step."""

    @abstractmethod
    def general_reason(self) -> str:
        """Why a recipe has such a step, in one sentence."""

    def warnings(self, before: Volume, after: Volume) -> tuple[str, ...]:
        """Say what a reader of the result should know."""
        return ()


class Resample(Step):
    """Isotropic (or any) spacing along the axes of the acquisition: centres aligned, size rounded up."""

    step: Literal["resample"] = "resample"
    spacing_mm: float | Three = 1.0
    """One number, or (z, y, x); 0 keeps an axis as it is."""
    interpolator: Interpolator = "linear"
    anti_alias: bool = True

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Interpolate on the new grid."""
        grid = resample.isotropic_grid(volume.grid, self.spacing_mm)
        return resample.to_grid(volume, grid, self.interpolator, anti_alias=self.anti_alias, threads=threads)

    def general_reason(self) -> str:
        """One ruler for all scanners."""
        return "A filter of the model must span the same millimetres in every study."

    def warnings(self, before: Volume, after: Volume) -> tuple[str, ...]:
        """Say where the new grid is finer than the acquisition."""
        finer = resample.finer_than_source(before.grid, after.grid)
        return (finer,) if finer else ()


class Conform(Step):
    """A cube along the patient's axes, centred on the volume, as FreeSurfer's conform makes it."""

    step: Literal["conform"] = "conform"
    shape: tuple[int, int, int] = (256, 256, 256)
    spacing_mm: float | Three = 1.0
    axes: str = "SPL"
    """Where the three array indices grow to."""
    centre: Literal["freesurfer", "volume"] = "freesurfer"
    """What is kept in place: the voxel of index n // 2, or the middle of the volume."""
    interpolator: Interpolator = "linear"
    anti_alias: bool = False
    fill: float = 0.0

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Interpolate on the cube; outside the acquisition is ``fill``."""
        grid = resample.conformed_grid(
            volume.grid, self.shape, self.spacing_mm, self.axes, centre=self.centre
        )
        return resample.to_grid(
            volume, grid, self.interpolator, anti_alias=self.anti_alias, fill=self.fill, threads=threads
        )

    def general_reason(self) -> str:
        """Whole-head models learned on one cube."""
        return "The model was trained on volumes of this shape, spacing and orientation."

    def warnings(self, before: Volume, after: Volume) -> tuple[str, ...]:
        """Say where the new grid is finer than the acquisition."""
        finer = resample.finer_than_source(before.grid, after.grid)
        return (finer,) if finer else ()


class Reorient(Step):
    """Reorder and turn the array axes without interpolation."""

    step: Literal["reorient"] = "reorient"
    axes: str

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Return the same voxels in another order."""
        grid = resample.reoriented(volume.grid, self.axes)
        return resample.to_grid(volume, grid, "nearest", threads=threads)

    def general_reason(self) -> str:
        """Array axes have a meaning to the model."""
        return "The model knows left from right by the order of the array."


class Window(Step):
    """Clip to an intensity window and map it on a range."""

    step: Literal["window"] = "window"
    low: float
    high: float
    to: Range = (0.0, 1.0)

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Clip and scale."""
        return volume.with_array(
            intensity.window(volume.array, self.low, self.high, self.to, threads=threads), unit="1"
        )

    def general_reason(self) -> str:
        """Values outside the window carry no information for the task."""
        return "Intensities outside the window say nothing about the task and would widen the scale."


class Clip(Step):
    """Clip to a range and keep the unit."""

    step: Literal["clip"] = "clip"
    low: float
    high: float

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Clip."""
        bounds = (self.low, self.high)
        return volume.with_array(intensity.window(volume.array, *bounds, bounds, threads=threads))

    def general_reason(self) -> str:
        """Extremes are metal, air and artefacts."""
        return "Extremes are metal, air and artefacts."


class ZScore(Step):
    """Mean 0 and standard deviation 1 over a region."""

    step: Literal["zscore"] = "zscore"
    region: Region = "all"
    fill: float | None = None
    """Value outside the region; unset transforms every voxel."""

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Centre and scale."""
        inside = intensity.region(volume.array, self.region)
        return volume.with_array(
            intensity.zscore(volume.array, inside, fill=self.fill, threads=threads), unit="1"
        )

    def general_reason(self) -> str:
        """Arbitrary units need a common origin and scale."""
        return "Intensities in arbitrary units need a common origin and scale."


class MinMax(Step):
    """Least and greatest value on a range."""

    step: Literal["minmax"] = "minmax"
    to: Range = (0.0, 1.0)
    region: Region = "all"

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Stretch."""
        inside = intensity.region(volume.array, self.region)
        return volume.with_array(intensity.minmax(volume.array, inside, self.to, threads=threads), unit="1")

    def general_reason(self) -> str:
        """Models expect a fixed range."""
        return "The model was trained on this range of values."


class Percentile(Step):
    """Two percentiles on a range, clipped to it unless told otherwise."""

    step: Literal["percentile"] = "percentile"
    low: Annotated[float, Field(ge=0, le=100)] = 1.0
    high: Annotated[float, Field(ge=0, le=100)] = 99.0
    to: Range = (0.0, 1.0)
    region: Region = "all"
    """Where ``high`` is taken; ``low`` too unless ``low`` is 0, which is the least value of all voxels."""
    integer: bool = False
    """Round to whole numbers, as models do that were trained on 8-bit images."""
    clip: bool = True
    """False keeps what lies beyond the percentiles beyond the range."""

    def apply(self, volume: Volume, threads: int) -> Volume:
        """Stretch, clip, round if asked."""
        inside = intensity.region(volume.array, self.region)
        if self.low == 0:
            low = float(volume.array.min())
            high = intensity.percentiles(volume.array, [self.high], inside)[0]
        else:
            low, high = intensity.percentiles(volume.array, [self.low, self.high], inside)
        if self.clip or not high > low:
            array = intensity.window(volume.array, low, high, self.to, threads=threads)
        else:
            least, greatest = float(volume.array.min()), float(volume.array.max())
            factor = (self.to[1] - self.to[0]) / (high - low)
            to = (self.to[0] + (least - low) * factor, self.to[0] + (greatest - low) * factor)
            array = intensity.window(volume.array, least, greatest, to, threads=threads)
        return volume.with_array(np.rint(array) if self.integer else array, unit="1")

    def general_reason(self) -> str:
        """Extreme voxels should not set the scale."""
        return "A few extreme voxels must not set the scale of all the others."


AnyStep = Annotated[
    Resample | Conform | Reorient | Window | Clip | ZScore | MinMax | Percentile,
    Field(discriminator="step"),
]
