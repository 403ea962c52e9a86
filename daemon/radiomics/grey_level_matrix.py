"""The sixteen statistics that run-length, size-zone, distance-zone and dependence matrices share.

A matrix counts elements (runs, zones, dependences) by grey level i and by a second property j (length, size,
distance, dependence). IBSI gives each family its own names and identifiers for the same sixteen formulas.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from voxtrial.daemon.radiomics.aggregation import Columns, Counts, FeatureKey, Matrices, Stack


def statistics(matrices: Matrices, sizes: Columns, voxels: Counts, keys: tuple[FeatureKey, ...]) -> Stack:
    """Return the sixteen statistics of each of k matrices under ``keys``.

    Parameters
    ----------
    matrices
        (k, levels, columns) counts; row 0 is grey level 1.
    sizes
        (columns,) value of j in each column; columns that never occur may be missing.
    voxels
        (k,) voxels that each matrix was counted over: denominator of the percentage.
    keys
        Sixteen (name, identifier) pairs in the order: small, large, low level, high level, small low, small
        high, large low, large high emphasis; level non-uniformity, the same normalised; size non-uniformity,
        the same normalised; percentage; level variance, size variance, entropy.

    Notes
    -----
    A matrix without elements gives NaN.
    """
    n = matrices.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = matrices / n[:, None, None]
        levels = np.arange(1, matrices.shape[1] + 1, dtype=float)
        p_level, p_size = p.sum(axis=2), p.sum(axis=1)
        i2, j2 = levels**2, sizes**2
        weighted_low, weighted_high = p / i2[:, None], p * i2[:, None]
        low, high = weighted_low.sum(axis=1), weighted_high.sum(axis=1)
        level_uniformity = (p_level**2).sum(axis=1)
        size_uniformity = (p_size**2).sum(axis=1)
        values = (
            p_size @ (1 / j2),
            p_size @ j2,
            p_level @ (1 / i2),
            p_level @ i2,
            low @ (1 / j2),
            high @ (1 / j2),
            low @ j2,
            high @ j2,
            n * level_uniformity,
            level_uniformity,
            n * size_uniformity,
            size_uniformity,
            n / voxels,
            _variance(p_level, levels),
            _variance(p_size, sizes),
            -(xlogy(p, p)).sum(axis=(1, 2)) / np.log(2),
        )
    return dict(zip(keys, values, strict=True))


def _variance(p: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = p @ values
    return np.asarray((p * (values - mean[:, None]) ** 2).sum(axis=1))
