"""Neighbouring grey level dependence: how many neighbours agree with a voxel (IBSI REK0)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.radiomics import grey_level_matrix
from voxtrial.daemon.radiomics.aggregation import (
    Columns,
    Counts,
    Dimension,
    Matrices,
    Stack,
    Values,
    aggregate_undirected,
)

KEYS = (
    ("Low dependence emphasis", "SODN"),
    ("High dependence emphasis", "IMOQ"),
    ("Low grey level count emphasis", "TL9H"),
    ("High grey level count emphasis", "OAE7"),
    ("Low dependence low grey level emphasis", "EQ3F"),
    ("Low dependence high grey level emphasis", "JA6D"),
    ("High dependence low grey level emphasis", "NBZI"),
    ("High dependence high grey level emphasis", "9QMG"),
    ("Grey level non-uniformity", "FP8K"),
    ("Normalised grey level non-uniformity", "5SPA"),
    ("Dependence count non-uniformity", "Z87G"),
    ("Normalised dependence count non-uniformity", "OKJI"),
    ("Dependence count percentage", "6XV8"),
    ("Grey level variance", "1PFV"),
    ("Dependence count variance", "DNX2"),
    ("Dependence count entropy", "FCBV"),
)


def features(
    levels: NDArray[np.int32],
    n_levels: int,
    dimensions: Sequence[Dimension],
    *,
    distance: int = 1,
    coarseness: int = 0,
) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of the 17 dependence features.

    Parameters
    ----------
    levels
        (z, y, x) grey levels from 1, 0 outside the region.
    distance
        Chebyshev distance up to which a voxel is a neighbour.
    coarseness
        Largest difference of levels that still counts as dependent.

    References
    ----------
    Sun, Wee 1983, doi:10.1016/0734-189X(83)90032-4.
    """
    voxels = (levels > 0).sum(axis=(1, 2)).astype(float)

    def count(by_slice: bool) -> tuple[Matrices, Columns]:
        matrices = _dependences(levels, n_levels, distance, coarseness, by_slice)
        return matrices, np.arange(1, matrices.shape[2] + 1, dtype=float)

    return aggregate_undirected(dimensions, count, voxels, _statistics)


def _statistics(matrices: Matrices, dependences: Columns, voxels: Counts) -> Stack:
    p = matrices / matrices.sum(axis=(1, 2), keepdims=True)
    return {
        **grey_level_matrix.statistics(matrices, dependences, voxels, KEYS),
        ("Dependence count energy", "CAS9"): (p**2).sum(axis=(1, 2)),
    }


@compiled
def _dependences(
    levels: NDArray[np.int32], n_levels: int, distance: int, coarseness: int, by_slice: bool
) -> NDArray[np.float64]:
    depth, height, width = levels.shape
    reach = 0 if by_slice else distance
    side = 2 * distance + 1
    counts = np.zeros((depth if by_slice else 1, n_levels, side * side * (2 * reach + 1)))
    for z in range(depth):
        s = z if by_slice else 0
        for y in range(height):
            for x in range(width):
                level = levels[z, y, x]
                if level == 0:
                    continue
                dependence = 0  # the voxel itself is met in the loop and makes it at least 1
                for z2 in range(max(z - reach, 0), min(z + reach + 1, depth)):
                    for y2 in range(max(y - distance, 0), min(y + distance + 1, height)):
                        for x2 in range(max(x - distance, 0), min(x + distance + 1, width)):
                            other = levels[z2, y2, x2]
                            if other > 0 and abs(other - level) <= coarseness:
                                dependence += 1
                counts[s, level - 1, dependence - 1] += 1
    return counts
