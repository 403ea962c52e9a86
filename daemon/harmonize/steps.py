"""The steps of a recipe: what each is called in a manifest, which parameters it takes, why it is there.

A step is a frozen value. ``apply`` returns the new volume; everything that decides the result is a field,
so that the fields alone make the digest.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize import bias, intensity, nyul, psf, resample, suv, tilt
from voxtrial.daemon.harmonize.bands import Interpolator
from voxtrial.daemon.volume import Volume

Range = tuple[float, float]
Three = tuple[float, float, float]
Region = Literal["all", "nonzero", "above_mean", "otsu"]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """Volume after a step."""

    volume: Volume
    found: dict[str, float | str] = field(default_factory=dict)
    """What the step measured in this volume and used: the mean and sd of a z-score, the factor of an SUV."""
    warnings: tuple[str, ...] = ()
    """What a reader of the result should know."""


class Step(BaseModel):
    """One operation on a volume.

    ``reason`` may say in the author's words why this recipe has the step; it is printed in the provenance
    in place of the general reason and is no part of the digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = ""

    @abstractmethod
    def apply(self, volume: Volume, threads: int) -> Applied:
        """Return the volume after this step."""

    @abstractmethod
    def general_reason(self) -> str:
        """Why a recipe has such a step, in one sentence."""


def _finer(before: Volume, after: Volume) -> tuple[str, ...]:
    finer = resample.finer_than_source(before.grid, after.grid)
    return (finer,) if finer else ()


class Resample(Step):
    """Isotropic (or any) spacing along the axes of the acquisition: centres aligned, size rounded up."""

    step: Literal["resample"] = "resample"
    spacing_mm: float | Three = 1.0
    """One number, or (z, y, x); 0 keeps an axis as it is."""
    interpolator: Interpolator = "linear"
    anti_alias: bool = True

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Interpolate on the new grid."""
        grid = resample.isotropic_grid(volume.grid, self.spacing_mm)
        after = resample.to_grid(volume, grid, self.interpolator, anti_alias=self.anti_alias, threads=threads)
        return Applied(volume=after, warnings=_finer(volume, after))

    def general_reason(self) -> str:
        """One ruler for all scanners."""
        return "A filter of the model must span the same millimetres in every study."


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

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Interpolate on the cube; outside the acquisition is ``fill``."""
        grid = resample.conformed_grid(
            volume.grid, self.shape, self.spacing_mm, self.axes, centre=self.centre
        )
        after = resample.to_grid(
            volume, grid, self.interpolator, anti_alias=self.anti_alias, fill=self.fill, threads=threads
        )
        return Applied(volume=after, warnings=_finer(volume, after))

    def general_reason(self) -> str:
        """Whole-head models learned on one cube."""
        return "The model was trained on volumes of this shape, spacing and orientation."


class Reorient(Step):
    """Reorder and turn the array axes without interpolation."""

    step: Literal["reorient"] = "reorient"
    axes: str

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Return the same voxels in another order."""
        grid = resample.reoriented(volume.grid, self.axes)
        return Applied(volume=resample.to_grid(volume, grid, "nearest", threads=threads))

    def general_reason(self) -> str:
        """Array axes have a meaning to the model."""
        return "The model knows left from right by the order of the array."


class Window(Step):
    """Clip to an intensity window and map it on a range."""

    step: Literal["window"] = "window"
    low: float
    high: float
    to: Range = (0.0, 1.0)

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Clip and scale."""
        array = intensity.window(volume.array, self.low, self.high, self.to, threads=threads)
        return Applied(volume=volume.with_array(array, unit="1"))

    def general_reason(self) -> str:
        """Values outside the window carry no information for the task."""
        return "Intensities outside the window say nothing about the task and would widen the scale."


class Clip(Step):
    """Clip to a range and keep the unit."""

    step: Literal["clip"] = "clip"
    low: float
    high: float

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Clip."""
        bounds = (self.low, self.high)
        return Applied(
            volume=volume.with_array(intensity.window(volume.array, *bounds, bounds, threads=threads))
        )

    def general_reason(self) -> str:
        """Extremes are metal, air and artefacts."""
        return "Extremes are metal, air and artefacts."


class ZScore(Step):
    """Mean 0 and standard deviation 1 over a region."""

    step: Literal["zscore"] = "zscore"
    region: Region = "all"
    fill: float | None = None
    """Value outside the region; unset transforms every voxel."""

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Centre and scale."""
        inside = intensity.region(volume.array, self.region)
        mean, sd = intensity.mean_and_sd(volume.array, inside)
        array = intensity.standardised(volume.array, mean, sd, inside, fill=self.fill, threads=threads)
        return Applied(volume=volume.with_array(array, unit="1"), found={"mean": mean, "sd": sd})

    def general_reason(self) -> str:
        """Arbitrary units need a common origin and scale."""
        return "Intensities in arbitrary units need a common origin and scale."


class MinMax(Step):
    """Least and greatest value on a range."""

    step: Literal["minmax"] = "minmax"
    to: Range = (0.0, 1.0)
    region: Region = "all"

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Stretch."""
        inside = intensity.region(volume.array, self.region)
        low, high = intensity.extremes(volume.array, inside)
        array = intensity.stretched(volume.array, low, high, self.to, threads=threads)
        return Applied(volume=volume.with_array(array, unit="1"), found={"low": low, "high": high})

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

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Stretch, clip, round if asked."""
        inside = intensity.region(volume.array, self.region)
        if self.low == 0:
            low = float(volume.array.min())
            high = intensity.percentiles(volume.array, [self.high], inside)[0]
        else:
            low, high = intensity.percentiles(volume.array, [self.low, self.high], inside)
        array = intensity.stretched(volume.array, low, high, self.to, clip=self.clip, threads=threads)
        return Applied(
            volume=volume.with_array(np.rint(array) if self.integer else array, unit="1"),
            found={"low": low, "high": high},
        )

    def general_reason(self) -> str:
        """Extreme voxels should not set the scale."""
        return "A few extreme voxels must not set the scale of all the others."


class Nyul(Step):
    """Move the landmarks of the foreground onto a standard scale that was learned from a cohort."""

    step: Literal["nyul"] = "nyul"
    percentiles: tuple[float, ...] = nyul.LANDMARKS
    values: tuple[float, ...]
    """Intensity of each percentile on the standard scale."""
    region: Region = "above_mean"

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Match."""
        scale = nyul.StandardScale(percentiles=self.percentiles, values=self.values)
        inside = intensity.region(volume.array, self.region)
        array = nyul.matched(volume.array, scale, inside, threads=threads)
        return Applied(volume=volume.with_array(array, unit="1"))

    def general_reason(self) -> str:
        """MR intensities have no unit."""
        return "The same tissue must have the same intensity on every scanner."


class Suv(Step):
    """Standardised uptake value by body weight, from activity, counts (Philips) or as stored."""

    step: Literal["suv"] = "suv"

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Multiply by the factor of the series."""
        found = suv.uptake(volume.source.acquisition)
        return Applied(volume=suv.suv(volume), found={"factor": found.factor, "basis": found.basis})

    def general_reason(self) -> str:
        """Activity depends on dose, weight and time."""
        return "Uptake is comparable only after dose, decay and body weight are taken out."


class N4(Step):
    """Remove the slow shading of MR coils."""

    step: Literal["n4"] = "n4"
    region: Region = "otsu"
    shrink: Annotated[int, Field(ge=1)] = bias.SHRINK
    iterations: tuple[int, ...] = bias.ITERATIONS
    convergence: Annotated[float, Field(gt=0)] = 1e-3

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Divide by the estimated field."""
        result = bias.n4(
            volume,
            region=self.region,
            shrink=self.shrink,
            iterations=self.iterations,
            convergence=self.convergence,
            threads=threads,
        )
        low, high = float(result.field.min()), float(result.field.max())
        return Applied(volume=volume.with_array(result.array), found={"field_low": low, "field_high": high})

    def general_reason(self) -> str:
        """Shading looks like contrast."""
        return "The shading of the coil would be taken for a difference of tissue."


class CommonPsf(Step):
    """Blur to an edge spread that all sites reach."""

    step: Literal["psf"] = "psf"
    sigma_mm: Annotated[float, Field(gt=0)]
    """Common edge spread."""
    own_sigma_mm: dict[str, float] = Field(default_factory=dict)
    """Edge spread by ConvolutionKernel, as measured once for the site; empty measures each study."""

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Blur by what is missing."""
        if self.own_sigma_mm:
            kernel = str(volume.source.acquisition.get("ConvolutionKernel", ""))
            if kernel not in self.own_sigma_mm:
                known = ", ".join(self.own_sigma_mm)
                raise Refused(
                    f'The kernel "{kernel}" has no measured edge spread; known are {known}.',
                    rule="unknown_kernel",
                )
            own = self.own_sigma_mm[kernel]
        else:
            own = psf.edge_spread(volume).sigma_mm
        blur = psf.matching_blur_mm(own, self.sigma_mm)
        return Applied(
            volume=psf.blurred(volume, blur, threads=threads), found={"own_sigma_mm": own, "blur_mm": blur}
        )

    def general_reason(self) -> str:
        """Kernels differ on equal grids."""
        return "Equal grids do not make images equally sharp; the kernel would be taken for texture."


class Straighten(Step):
    """Correct the shear of a tilted gantry, slice by slice."""

    step: Literal["straighten"] = "straighten"
    fill: float | None = None
    """Value beside the displaced slices; unset takes the least of the volume."""

    def apply(self, volume: Volume, threads: int) -> Applied:
        """Move every slice within its plane."""
        tilted = tilt.tilt_degrees(volume.grid)
        return Applied(
            volume=tilt.straightened(volume, fill=self.fill, threads=threads), found={"tilt_degrees": tilted}
        )

    def general_reason(self) -> str:
        """Models expect right angles."""
        return "A sheared stack is not the box that the model's filters expect."


AnyStep = Annotated[
    Resample
    | Conform
    | Reorient
    | Straighten
    | Window
    | Clip
    | ZScore
    | MinMax
    | Percentile
    | Nyul
    | Suv
    | N4
    | CommonPsf,
    Field(discriminator="step"),
]
