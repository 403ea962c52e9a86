"""Neighbourhood grey tone differences: how a voxel stands out from the mean around it (IBSI IPET)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.radiomics.aggregation import (
    Columns,
    Counts,
    Dimension,
    Matrices,
    Stack,
    Values,
    aggregate_undirected,
)

MAXIMUM_COARSENESS = 1e6


def features(
    levels: NDArray[np.int32], n_levels: int, dimensions: Sequence[Dimension], distance: int = 1
) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of the 5 grey tone difference features.

    Parameters
    ----------
    levels
        (z, y, x) grey levels from 1, 0 outside the region.
    distance
        Chebyshev distance up to which a voxel belongs to the neighbourhood.

    Notes
    -----
    IBSI decides the flat cases: without any difference coarseness is 10⁶ and strength 0; with one level
    contrast and busyness are 0. No voxel with a neighbour: NaN.

    References
    ----------
    Amadasun, King 1989, doi:10.1109/21.44046.
    """
    voxels = (levels > 0).sum(axis=(1, 2)).astype(float)

    def count(by_slice: bool) -> tuple[Matrices, Columns]:
        return _differences(levels, n_levels, distance, by_slice), np.array([])

    return aggregate_undirected(dimensions, count, voxels, _statistics)


def _statistics(matrices: Matrices, _: Columns, __: Counts) -> Stack:
    """Return the features of k matrices whose columns are voxels with a neighbour, and summed differences."""
    each = [_of_one(n_i, s_i) for n_i, s_i in matrices.transpose(0, 2, 1)]
    return {key: np.array([values[key] for values in each]) for key in each[0]}


def _of_one(n_i: NDArray[np.float64], s_i: NDArray[np.float64]) -> Values:
    present = n_i > 0
    n, s, i = n_i[present], s_i[present], np.flatnonzero(present) + 1.0
    voxels, difference = n.sum(), s.sum()
    if voxels == 0:
        coarseness = contrast = busyness = complexity = strength = float("nan")
    else:
        p = n / voxels
        apart = i[:, None] - i
        weighted = p @ s
        coarseness = min(1 / weighted, MAXIMUM_COARSENESS) if weighted > 0 else MAXIMUM_COARSENESS
        pairs = len(i) * (len(i) - 1)
        contrast = (p @ apart**2 @ p) / pairs * difference / voxels if pairs else 0.0
        ip = i * p
        spread = np.abs(ip[:, None] - ip).sum()
        busyness = weighted / spread if spread > 0 else 0.0
        complexity = (np.abs(apart) * _pair_mean(p, p * s)).sum() / voxels
        strength = ((p[:, None] + p) * apart**2).sum() / difference if difference > 0 else 0.0
    return {
        ("Coarseness", "QCDE"): coarseness,
        ("Contrast", "65HE"): contrast,
        ("Busyness", "NQ30"): busyness,
        ("Complexity", "HDEZ"): complexity,
        ("Strength", "1X9X"): strength,
    }


def _pair_mean(p: NDArray[np.float64], ps: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((ps[:, None] + ps) / (p[:, None] + p))


@compiled
def _differences(
    levels: NDArray[np.int32], n_levels: int, distance: int, by_slice: bool
) -> NDArray[np.float64]:
    depth, height, width = levels.shape
    reach = 0 if by_slice else distance
    sums = np.zeros((depth if by_slice else 1, n_levels, 2))
    for z in range(depth):
        s = z if by_slice else 0
        for y in range(height):
            for x in range(width):
                level = levels[z, y, x]
                if level == 0:
                    continue
                total, neighbours = -level, -1  # the voxel itself is met in the loop
                for z2 in range(max(z - reach, 0), min(z + reach + 1, depth)):
                    for y2 in range(max(y - distance, 0), min(y + distance + 1, height)):
                        for x2 in range(max(x - distance, 0), min(x + distance + 1, width)):
                            if levels[z2, y2, x2] > 0:
                                total += levels[z2, y2, x2]
                                neighbours += 1
                if neighbours > 0:
                    sums[s, level - 1, 0] += 1
                    sums[s, level - 1, 1] += abs(level - total / neighbours)
    return sums
