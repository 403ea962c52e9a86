"""Interpolating kernels as banded matrices: which samples make one new sample, with which weights.

``nearest``, ``linear``, ``cubic`` (cubic convolution), ``bspline`` (cubic B-spline), ``quintic`` (B-spline
of degree 5) and ``box`` (the share of the new voxel that each old voxel fills). All but the B-splines act
on the samples themselves; a B-spline acts on coefficients
(:func:`voxtrial.daemon.harmonize.kernels.filter_planes`).

References
----------
Keys (1981), cubic convolution interpolation, doi:10.1109/TASSP.1981.1163711.
Unser (1999), Splines: a perfect fit for signal and image processing, doi:10.1109/79.799930.
Cardoso et al. (2015), Scale factor point spread function matching, doi:10.1007/978-3-319-24571-3_81.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Interpolator = Literal["nearest", "linear", "cubic", "bspline", "quintic", "box"]
INTERPOLATORS: tuple[str, ...] = get_args(Interpolator)

KIND = {"nearest": 0, "linear": 1, "cubic": 2, "bspline": 3, "quintic": 5}
"""Number by which the compiled kernels know the interpolator."""

_WIDTH = {"nearest": 1, "linear": 2, "cubic": 4, "bspline": 4, "quintic": 6}

_POLES = {
    "bspline": (math.sqrt(3) - 2,),
    "quintic": (
        math.sqrt(67.5 - math.sqrt(4436.25)) + math.sqrt(26.25) - 6.5,
        math.sqrt(67.5 + math.sqrt(4436.25)) - math.sqrt(26.25) - 6.5,
    ),
}

_FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian in units of its standard deviation."""


def poles(interpolator: Interpolator) -> NDArray[np.float64]:
    """Poles of the filter that turns samples into B-spline coefficients; empty for the others."""
    return np.array(_POLES.get(interpolator, ()), float)


@dataclass(frozen=True, kw_only=True)
class Band:
    """A banded matrix (n_out, n_in): row ``i`` has ``weights[i]`` from column ``first[i]`` on."""

    first: NDArray[np.int64]
    weights: NDArray[np.float64]

    def dense(self, n_in: int) -> NDArray[np.float64]:
        """Return the same matrix (n_out, n_in) with its zeros."""
        matrix = np.zeros((len(self.first), n_in))
        for k in range(self.weights.shape[1]):
            matrix[np.arange(len(self.first)), self.first + k] += self.weights[:, k]
        return matrix


def blur_sigma(step: float) -> float:
    """Return the standard deviation, in old voxels, of the blur for voxels ``step`` times as wide.

    Both point spread functions are taken as Gaussians with the voxel width at half maximum (Cardoso 2015);
    0 when the grid does not get coarser.
    """
    return math.sqrt(max(step * step - 1.0, 0.0)) / _FWHM


def discrete_gaussian(sigma: float) -> NDArray[np.float64]:
    """Return 2 r + 1 weights of a sampled Gaussian with sum 1 and variance ``sigma``².

    The samples of a narrow Gaussian vary less than it does; its width is raised until they vary enough.
    """
    from scipy.optimize import brentq

    x = np.arange(-math.ceil(6 * sigma + 2), math.ceil(6 * sigma + 2) + 1)

    def sampled(width: float) -> NDArray[np.float64]:
        weights = np.exp(-0.5 * (x / width) ** 2)
        return np.asarray(weights / weights.sum())

    def excess(width: float) -> float:
        return float(sampled(width) @ x**2) - sigma * sigma

    weights = sampled(brentq(excess, 0.5 * sigma, sigma + 1, xtol=1e-14))
    weights = weights[weights > 1e-12]
    return np.asarray(weights / weights.sum())


def interpolation_band(
    coordinates: NDArray[np.float64], n: int, interpolator: Interpolator, *, sigma: float = 0.0
) -> Band:
    """Return the operator from ``n`` samples to the points at ``coordinates``.

    Parameters
    ----------
    coordinates
        Fractional sample indices. Points before the first and behind the last sample take the nearest value.
    n
        Number of samples.
    interpolator
        See the module; ``box`` needs :func:`coverage_band`.
    sigma
        Standard deviation, in samples, of a Gaussian blur before the interpolation; 0 for none.

    Notes
    -----
    Samples beyond the ends repeat the end value, or are mirrored for the B-splines, whose coefficients are.
    """
    from voxtrial.daemon.harmonize.kernels import spline_taps

    inside = np.clip(coordinates, 0.0, n - 1.0)
    if interpolator == "nearest":
        # Ties go up; rounding first keeps noise of 1e-12 from deciding them.
        first = np.floor(np.round(inside, 9) + 0.5).astype(np.int64)
        weights = np.ones((len(inside), 1))
    else:
        below = np.floor(inside)
        weights = np.empty((len(inside), _WIDTH[interpolator]))
        offset = spline_taps(KIND[interpolator], inside - below, weights)
        first = below.astype(np.int64) + offset
    if sigma > 0:
        blur = discrete_gaussian(sigma)
        radius = len(blur) // 2
        weights = np.stack([np.convolve(row, blur) for row in weights])
        first = first - radius
    return _fold(first, weights, n, mirror=interpolator in _POLES)


def coverage_band(coordinates: NDArray[np.float64], n: int, step: float) -> Band:
    """Return the operator that gives the mean over voxels of width ``step`` centred at ``coordinates``.

    Every old voxel counts by the share of the new voxel that it fills, so sums are kept: what partial volume
    means. The part of a new voxel that lies outside the old ones takes the nearest value.
    """
    low, high = coordinates - step / 2, coordinates + step / 2
    first = np.floor(low + 0.5 + 1e-9).astype(np.int64)
    width = math.ceil(step) + 1
    left = first[:, None] + np.arange(width) - 0.5
    overlap = np.minimum(left + 1, high[:, None]) - np.maximum(left, low[:, None])
    return _fold(first, np.clip(overlap, 0, None) / step, n, mirror=False)


def _fold(first: NDArray[np.int64], weights: NDArray[np.float64], n: int, *, mirror: bool) -> Band:
    """Bring every column index into ``0 ... n - 1``: repeat the end sample, or mirror about it."""
    wanted = weights.shape[1]
    columns = first[:, None] + np.arange(wanted)
    if mirror and n > 1:
        columns = np.mod(columns, 2 * n - 2)
        columns = np.where(columns < n, columns, 2 * n - 2 - columns)
    columns = np.clip(columns, 0, n - 1)
    width = min(wanted, n)
    start = np.clip(np.where(weights != 0, columns, n).min(axis=1), 0, n - width)
    folded = np.zeros((len(first), width))
    place = np.clip(columns - start[:, None], 0, width - 1)
    np.add.at(folded, (np.arange(len(first))[:, None], place), weights)
    return Band(first=start.astype(np.int64), weights=folded)
