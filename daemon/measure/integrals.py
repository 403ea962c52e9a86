"""Integrals over a probability, as a fixed layer without parameters: volume, mass, total uptake, column.

Each is sum(p * density * dV), linear in the probability p, so its gradient is the density times the voxel
volume, everywhere and exactly. :func:`layer` gives the same integrals to a network that is trained through
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.volume import Grid, Volume

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Integral:
    """Value of an integral and its gradient with respect to the probability of every voxel."""

    value: float
    gradient: NDArray[np.float64]
    """(z, y, x), in units of the value."""


def volume_ml(probability: Array, grid: Grid) -> Integral:
    """Return the expected volume, ml."""
    return _integral(probability, np.ones(grid.shape), grid.voxel_volume_mm3 / 1000)


def mass_g(probability: Array, image: Volume) -> Integral:
    """Return the expected mass, g, from a CT in HU: density (HU + 1000) / 1000 g/ml, never below that of air.

    Below -1000 HU (the corner of the field, metal artefacts) the density is 0.
    """
    return _integral(probability, tissue_density(image.array), image.grid.voxel_volume_mm3 / 1000)


def total_lesion_glycolysis(probability: Array, image: Volume) -> Integral:
    """Return sum(p SUV dV), g: the total lesion glycolysis of a PET in SUVbw (g/ml)."""
    return _integral(probability, np.asarray(image.array, float), image.grid.voxel_volume_mm3 / 1000)


def column(probability: Array, density: Array, grid: Grid, axis: int = 0) -> NDArray[np.float64]:
    """Return the integral of p * density along one array axis, in density units times mm.

    Along z of an axial CT and with density in g/ml, a tenth of it is the projected mass in g/cm².
    """
    return np.asarray((probability * np.asarray(density, float)).sum(axis=axis) * grid.spacing_mm[axis])


def tissue_density(hounsfield: Array) -> NDArray[np.float64]:
    """Return g/ml from HU: (HU + 1000) / 1000, at least 0."""
    return np.maximum((np.asarray(hounsfield, float) + 1000) / 1000, 0.0)


def layer(density: Array, grid: Grid) -> Callable[[Any], Any]:
    """Return a function from a torch probability (..., z, y, x) to the integral (...).

    The result is in density units times ml. The density is a constant of the layer: nothing in it is
    trained, and gradients flow to the probability alone.
    """
    import torch

    weights = torch.from_numpy(np.asarray(density, np.float64) * (grid.voxel_volume_mm3 / 1000))

    def integrate(probability: torch.Tensor) -> torch.Tensor:
        constant = weights.to(device=probability.device)
        return (probability.to(constant.dtype) * constant).sum(dim=(-3, -2, -1))

    return integrate


def _integral(probability: Array, density: NDArray[np.float64], voxel_ml: float) -> Integral:
    if probability.shape != density.shape:
        raise ValueError(f"the probability has shape {probability.shape}, the image {density.shape}")
    gradient = density * voxel_ml
    return Integral(value=float(np.vdot(probability.astype(np.float64), gradient)), gradient=gradient)
