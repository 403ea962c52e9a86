"""Intensities to grey levels 1, 2, ... by a fixed number of bins or by bins of a fixed size.

The lowest level is 1, never 0: several texture features divide by the level.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fixed_bin_number(intensities: NDArray[np.float64], bins: int) -> NDArray[np.int32]:
    """Cut the range that occurs into ``bins`` bins of equal width.

    Parameters
    ----------
    intensities
        (n,) intensities of the region; the maximum itself falls into the last bin.

    Notes
    -----
    One intensity only: there is no range to cut, and everything is in bin 1.

    References
    ----------
    IBSI K15C.
    """
    low, high = intensities.min(), intensities.max()
    if low == high:
        return np.ones(intensities.shape, np.int32)
    # Multiplying before dividing keeps integer intensities exact on bin edges.
    levels = np.floor(bins * (intensities - low) / (high - low)) + 1
    return np.asarray(np.minimum(levels, bins), np.int32)


def fixed_bin_size(intensities: NDArray[np.float64], width: float, low: float) -> NDArray[np.int32]:
    """Cut into bins of ``width`` from ``low`` upwards; an intensity on an edge belongs to the upper bin.

    Parameters
    ----------
    intensities
        (n,) intensities of the region, none below ``low``.
    low
        Lower bound of the re-segmentation range, or the minimum of the region where there is no range.

    References
    ----------
    IBSI Q3RU.
    """
    return np.asarray(np.floor((intensities - low) / width) + 1, np.int32)


def lower_end(intensities: NDArray[np.float64], intensity_range: tuple[float, float] | None) -> float:
    """Return where bins of a fixed size begin: the finite lower bound of the range, else the minimum."""
    if intensity_range is not None and np.isfinite(intensity_range[0]):
        return float(intensity_range[0])
    return float(intensities.min())


def upper_end(intensities: NDArray[np.float64], intensity_range: tuple[float, float] | None) -> float:
    """Return the finite upper bound of the range, else the maximum."""
    if intensity_range is not None and np.isfinite(intensity_range[1]):
        return float(intensity_range[1])
    return float(intensities.max())
