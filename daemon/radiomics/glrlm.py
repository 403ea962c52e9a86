"""Grey level run lengths: how far a level continues in a straight line (IBSI TP0I)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.radiomics import grey_level_matrix
from voxtrial.daemon.radiomics.aggregation import (
    Columns,
    Dimension,
    Matrices,
    Values,
    aggregate_directed,
)

KEYS = (
    ("Short runs emphasis", "22OV"),
    ("Long runs emphasis", "W4KF"),
    ("Low grey level run emphasis", "V3SW"),
    ("High grey level run emphasis", "G3QZ"),
    ("Short run low grey level emphasis", "HTZT"),
    ("Short run high grey level emphasis", "GD3A"),
    ("Long run low grey level emphasis", "IVPO"),
    ("Long run high grey level emphasis", "3KUM"),
    ("Grey level non-uniformity", "R5YN"),
    ("Normalised grey level non-uniformity", "OVBL"),
    ("Run length non-uniformity", "W92Y"),
    ("Normalised run length non-uniformity", "IC23"),
    ("Run percentage", "9ZK5"),
    ("Grey level variance", "8CE5"),
    ("Run length variance", "SXLW"),
    ("Run entropy", "HJ9O"),
)


def features(
    levels: NDArray[np.int32], n_levels: int, dimensions: Sequence[Dimension]
) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of the 16 run length features.

    Parameters
    ----------
    levels
        (z, y, x) grey levels from 1, 0 outside the region.

    References
    ----------
    Galloway 1975, doi:10.1016/S0146-664X(75)80008-6.
    """
    voxels = (levels > 0).sum(axis=(1, 2)).astype(float)
    lengths = np.arange(1, max(levels.shape) + 1, dtype=float)

    def count(directions: NDArray[np.int64], by_slice: bool) -> tuple[Matrices, Columns]:
        return _runs(levels, directions, n_levels, by_slice), lengths

    return aggregate_directed(dimensions, count, voxels, partial(grey_level_matrix.statistics, keys=KEYS))


@compiled
def _runs(
    levels: NDArray[np.int32], directions: NDArray[np.int64], n_levels: int, by_slice: bool
) -> NDArray[np.float64]:
    depth, height, width = levels.shape
    longest = max(depth, height, width)
    counts = np.zeros((depth if by_slice else 1, len(directions), n_levels, longest))
    for d in range(len(directions)):
        dz, dy, dx = directions[d]
        for z in range(depth):
            s = z if by_slice else 0
            for y in range(height):
                for x in range(width):
                    level = levels[z, y, x]
                    if level == 0:
                        continue
                    z2, y2, x2 = z - dz, y - dy, x - dx
                    inside = 0 <= z2 < depth and 0 <= y2 < height and 0 <= x2 < width
                    if inside and levels[z2, y2, x2] == level:
                        continue  # not the first voxel of its run
                    length = 1
                    z2, y2, x2 = z + dz, y + dy, x + dx
                    while 0 <= z2 < depth and 0 <= y2 < height and 0 <= x2 < width:
                        if levels[z2, y2, x2] != level:
                            break
                        length += 1
                        z2, y2, x2 = z2 + dz, y2 + dy, x2 + dx
                    counts[s, d, level - 1, length - 1] += 1
    return counts
