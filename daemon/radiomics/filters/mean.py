"""Mean over a cube of voxels (IBSI S60F)."""

from __future__ import annotations

import numpy as np

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary, separable


def mean(array: Array, support: int, boundary: Boundary, *, in_plane: bool = False) -> Array:
    """Return the mean over ``support`` voxels along every axis, or along y and x only.

    Parameters
    ----------
    support
        Odd number of voxels.
    """
    if support < 1 or support % 2 == 0:
        raise Misconfigured(f"support of the mean filter is {support}; it has a middle when it is odd.")
    line = np.full(support, 1 / support)
    return separable(array, [np.ones(1) if in_plane else line, line, line], boundary)
