"""Boxes of indices about a region, on its own grid or on another one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.volume import Grid

Box = tuple[slice, slice, slice]
Index = NDArray[np.float64]


def extent(mask: NDArray[np.bool_]) -> tuple[Index, Index]:
    """Return the smallest and the largest (z, y, x) index of the voxels of a mask that has some."""
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([u[0] for u in used], float), np.array([u[-1] for u in used], float)


def carried_over(first: Index, last: Index, grid: Grid, to_grid: Grid) -> tuple[Index, Index]:
    """Return the indices on ``to_grid`` that enclose the box from ``first`` to ``last`` of ``grid``."""
    ends = np.stack([first, last])
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i, j, k in np.ndindex(2, 2, 2)])
    corners = to_grid.index(grid.world(corners))
    return np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))


def box(first: Index, last: Index, margin: Index | float, shape: tuple[int, ...]) -> Box:
    """Return ``first`` to ``last``, both included, with ``margin`` voxels about them, cut to ``shape``."""
    begin = np.maximum(first - margin, 0).astype(int)
    end = np.minimum(last + margin + 1, shape).astype(int)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(begin, end, strict=True))
    return z, y, x


def cropped(grid: Grid, part: Box) -> Grid:
    """Return the grid of the voxels of ``grid`` in ``part``."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.array([s.start for s in part], float))
    z, y, x = (s.stop - s.start for s in part)
    return Grid(shape=(z, y, x), affine=affine)
