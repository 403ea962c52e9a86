"""Where a region ends: the points at which a field passes its level, between two neighbouring voxels.

For a mask these are the middles between a voxel inside and one outside; for a probability they lie where
linear interpolation reaches the level, which follows a smooth surface far below the size of a voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def cropped(
    field: NDArray[Any], inside: NDArray[np.bool_], *, beyond: float = 0.0
) -> tuple[Points, NDArray[np.int64]]:
    """Return the bounding box of ``inside`` with a margin, and the index of its first voxel.

    The margin is one voxel of the field and one of ``beyond``.
    """
    low, high = [], []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis)))
        low.append(max(int(used[0]) - 1, 0))
        high.append(min(int(used[-1]) + 2, field.shape[axis]))
    part = field[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float64)
    return np.pad(part, 1, constant_values=beyond), np.array(low) - 1


def crossings(field: Points, axis: int, level: float) -> Points:
    """Return the (n, 3) indices where ``field`` passes ``level`` between neighbours along ``axis``."""
    moved = np.moveaxis(field, axis, 0)
    a, b = moved[:-1], moved[1:]
    found = np.argwhere((a >= level) != (b >= level))
    before, after = a[tuple(found.T)], b[tuple(found.T)]
    points = found.astype(float)
    points[:, 0] += (level - before) / (after - before)
    order = [1, 2]
    order.insert(axis, 0)
    return points[:, order]


def all_crossings(field: Points, level: float) -> Points:
    """Return the (n, 3) indices where ``field`` passes ``level`` along any axis."""
    return np.concatenate([crossings(field, axis, level) for axis in range(3)])
