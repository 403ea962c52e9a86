"""Laplacian of Gaussian: second derivatives at a scale in mm (IBSI L6PA)."""

from __future__ import annotations

import numpy as np

from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary, convolve
from voxtrial.daemon.volume import Spacing

TRUNCATION = 4.0
"""Reach of the kernel in standard deviations."""


def laplacian_of_gaussian(
    array: Array,
    sigma_mm: float,
    spacing_mm: Spacing,
    boundary: Boundary,
    *,
    truncation: float = TRUNCATION,
    in_plane: bool = False,
) -> Array:
    """Return the Laplacian of ``array`` blurred by a Gaussian; bright blobs respond negatively.

    Parameters
    ----------
    sigma_mm
        Standard deviation of the Gaussian; it takes as many voxels as the spacing says.

    Notes
    -----
    In units of intensity per voxel², as IBSI defines it with sigma in voxels; voxels along the filtered axes
    should be of one size.
    """
    return np.asarray(convolve(array, kernel(sigma_mm, spacing_mm, truncation, in_plane), boundary), float)


def kernel(sigma_mm: float, spacing_mm: Spacing, truncation: float, in_plane: bool) -> Array:
    """Return -1/s² (D - r²/s²) times the Gaussian in D dimensions, s and r in voxels."""
    axes = [1, 2] if in_plane else [0, 1, 2]
    sigma = sigma_mm / np.array(spacing_mm)
    offsets: list[Array] = [np.zeros(1)] * 3
    for axis in axes:
        reach = int(truncation * sigma[axis] + 0.5)
        offsets[axis] = np.arange(-reach, reach + 1) / sigma[axis]
    r2 = offsets[0][:, None, None] ** 2 + offsets[1][:, None] ** 2 + offsets[2] ** 2
    # Voxels of unequal size: each axis has its own s in r²/s², and the unit is their geometric mean.
    scale = float(np.prod(sigma[axes]))
    mean_square = scale ** (2 / len(axes))
    gaussian = np.exp(-r2 / 2) / ((2 * np.pi) ** (len(axes) / 2) * scale)
    return np.asarray(-(len(axes) - r2) * gaussian / mean_square)
