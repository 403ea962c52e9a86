"""Filters as a configuration file writes them: a kind with its parameters, applied to an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.radiomics.filters import laws as laws_filter
from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary
from voxtrial.daemon.radiomics.filters.gabor import gabor
from voxtrial.daemon.radiomics.filters.laplacian_of_gaussian import TRUNCATION, laplacian_of_gaussian
from voxtrial.daemon.radiomics.filters.mean import mean
from voxtrial.daemon.radiomics.filters.rotation import Pooling, invariant
from voxtrial.daemon.radiomics.filters.spectral import Frequencies, simoncelli
from voxtrial.daemon.radiomics.filters.wavelet import Family, wavelet
from voxtrial.daemon.volume import Spacing


class _Filter(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    boundary: Boundary = "mirror"
    """What lies outside the image."""


class Mean(_Filter):
    """Mean over a cube, or a square of the slice."""

    kind: Literal["mean"]
    support: int
    """Voxels along each axis, odd."""
    in_plane: bool = False

    def respond(self, image: Array, spacing_mm: Spacing) -> Array:
        """Return the response map of (z, y, x) intensities."""
        return mean(image, self.support, self.boundary, in_plane=self.in_plane)


class LaplacianOfGaussian(_Filter):
    """Second derivatives at a scale."""

    kind: Literal["log"]
    sigma_mm: float = Field(gt=0)
    truncation: float = Field(default=TRUNCATION, gt=0)
    """Reach of the kernel in sigma."""
    in_plane: bool = False

    def respond(self, image: Array, spacing_mm: Spacing) -> Array:
        """Return the response map of (z, y, x) intensities."""
        return laplacian_of_gaussian(
            image,
            self.sigma_mm,
            spacing_mm,
            self.boundary,
            truncation=self.truncation,
            in_plane=self.in_plane,
        )


class Laws(_Filter):
    """Level, edge, spot, wave and ripple."""

    kind: Literal["laws"]
    kernels: str
    """Along x, y and z, as in ``L5E5S5``; two act in the slice only."""
    rotation_invariant: Pooling | None = None
    """Pool over right-angle rotations."""
    energy_distance: int | None = Field(default=None, ge=0)
    """Replace the response by its mean modulus up to this Chebyshev distance."""

    def respond(self, image: Array, spacing_mm: Spacing) -> Array:
        """Return the response map of (z, y, x) intensities."""
        in_plane = len(self.kernels) == 4
        response = _pooled(
            image,
            spacing_mm,
            lambda turned: laws_filter.laws(turned, self.kernels, self.boundary),
            self.rotation_invariant,
            in_plane,
        )
        if self.energy_distance is None:
            return response
        return laws_filter.energy(response, self.energy_distance, self.boundary, in_plane=in_plane)


class Gabor(_Filter):
    """Stripes of a wavelength, in planes."""

    kind: Literal["gabor"]
    sigma_mm: float = Field(gt=0)
    wavelength_mm: float = Field(gt=0)
    aspect_ratio: float = Field(default=1.0, gt=0)
    theta: float = 0.0
    """Direction across the stripes, radians from x towards y."""
    rotation_step: float | None = Field(default=None, gt=0)
    """Average over the full circle in these steps, radians."""
    orthogonal_planes: bool = False

    def respond(self, image: Array, spacing_mm: Spacing) -> Array:
        """Return the response map of (z, y, x) intensities."""
        _check_equal(spacing_mm if self.orthogonal_planes else spacing_mm[1:], "Gabor filter")
        return gabor(
            image,
            sigma_mm=self.sigma_mm,
            wavelength_mm=self.wavelength_mm,
            aspect_ratio=self.aspect_ratio,
            spacing_mm=spacing_mm[2],
            boundary=self.boundary,
            theta=self.theta,
            rotation_step=self.rotation_step,
            orthogonal_planes=self.orthogonal_planes,
        )


class Wavelet(_Filter):
    """A sub-band of a separable undecimated wavelet transform."""

    kind: Literal["wavelet"]
    family: Family
    passes: str
    """L or H along x, y and z, as in ``LLH``; two act in the slice only."""
    level: int = Field(default=1, ge=1)
    rotation_invariant: Pooling | None = None
    """Pool over right-angle rotations."""

    def respond(self, image: Array, spacing_mm: Spacing) -> Array:
        """Return the response map of (z, y, x) intensities."""
        return _pooled(
            image,
            spacing_mm,
            lambda turned: wavelet(turned, self.family, self.passes, self.level, self.boundary),
            self.rotation_invariant,
            len(self.passes) == 2,
        )


class Simoncelli(_Filter):
    """An isotropic band, as it is or by a component of its Riesz transform."""

    kind: Literal["simoncelli"]
    level: int = Field(default=1, ge=1)
    riesz_order: tuple[int, int, int] | None = None
    """Order along z, y and x."""
    in_plane: bool = False
    frequencies: Frequencies = "exact"
    """``ibsi`` for the consensus values of IBSI 2."""

    def respond(self, image: Array, spacing_mm: Spacing) -> Array:
        """Return the response map of (z, y, x) intensities."""
        return simoncelli(
            image,
            self.level,
            self.boundary,
            riesz_order=self.riesz_order,
            in_plane=self.in_plane,
            frequencies=self.frequencies,
        )


Filter = Annotated[
    Mean | LaplacianOfGaussian | Laws | Gabor | Wavelet | Simoncelli, Field(discriminator="kind")
]


def _pooled(
    image: Array,
    spacing_mm: Spacing,
    respond: Callable[[Array], Array],
    pooling: Pooling | None,
    in_plane: bool,
) -> Array:
    if pooling is None:
        return respond(image)
    _check_equal(spacing_mm[1:] if in_plane else spacing_mm, "rotation")
    return invariant(image, respond, pooling, in_plane=in_plane)


def _check_equal(spacing_mm: tuple[float, ...], what: str) -> None:
    if np.ptp(spacing_mm) > 1e-3 * max(spacing_mm):
        sizes = " x ".join(f"{s:.4g}" for s in spacing_mm)
        message = f"The {what} needs voxels of equal sides; these have {sizes} mm: interpolate first."
        raise Refused(message, rule="anisotropic_voxels")
