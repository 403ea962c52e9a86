"""Laws' texture kernels: level, edge, spot, wave, ripple along each axis, and their energy (IBSI JTXT)."""

from __future__ import annotations

import re

import numpy as np

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary, separable
from voxtrial.daemon.radiomics.filters.mean import mean

_SHAPES = {
    "L3": (1, 2, 1),
    "E3": (-1, 0, 1),
    "S3": (-1, 2, -1),
    "L5": (1, 4, 6, 4, 1),
    "E5": (-1, -2, 0, 2, 1),
    "S5": (-1, 0, 2, 0, -1),
    "W5": (-1, 2, 0, -2, 1),
    "R5": (1, -4, 6, -4, 1),
}
KERNELS = {name: np.array(shape) / np.linalg.norm(shape) for name, shape in _SHAPES.items()}
"""Kernels of unit energy by name."""


def laws(array: Array, names: str, boundary: Boundary) -> Array:
    """Return the response to kernels such as ``L5E5S5``, along x, y and z; two names act in the slice only.

    References
    ----------
    Laws 1980, doi:10.1117/12.959169.
    """
    found = re.findall(r"[LESWR][35]", names)
    if "".join(found) != names or len(found) not in (2, 3) or not set(found) <= set(KERNELS):
        message = f'Laws kernels are "{names}"; write two or three of {", ".join(KERNELS)}, as in L5E5S5.'
        raise Misconfigured(message)
    along_z = KERNELS[found[2]] if len(found) == 3 else np.ones(1)
    return separable(array, [along_z, KERNELS[found[1]], KERNELS[found[0]]], boundary)


def energy(response: Array, distance: int, boundary: Boundary, *, in_plane: bool = False) -> Array:
    """Return the mean absolute response up to a Chebyshev ``distance`` (IBSI PQSD)."""
    return mean(np.abs(response), 2 * distance + 1, boundary, in_plane=in_plane)
