"""Connected voxels of one grey level: the zones that size-zone and distance-zone matrices count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.radiomics.aggregation import Columns, Matrices

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Zones:
    """Every zone of a region, in the order of its first voxel.

    Parameters
    ----------
    slice_index, level, size, distance
        (n,) slice of the zone (0 when zones run through the volume), grey level, voxels, and smallest
        distance of its voxels to the outside of the morphological mask (1 for a voxel at the border).
    n_slices, n_levels
        Shape of the matrices that are counted from the zones.
    """

    slice_index: Integers
    level: Integers
    size: Integers
    distance: Integers
    n_slices: int
    n_levels: int

    def count(self, sizes: Integers) -> tuple[Matrices, Columns]:
        """Count zones by slice, level and ``sizes`` (n,); return (slices, levels, columns) and column values.

        Only values that occur get a column: a zone may have any size up to the whole region.
        """
        values, column = np.unique(sizes, return_inverse=True)
        shape = (self.n_slices, self.n_levels, len(values))
        flat = np.ravel_multi_index((self.slice_index, self.level - 1, column), shape)
        matrices = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(float)
        return matrices, values.astype(float)


def find_zones(
    levels: NDArray[np.int32], n_levels: int, morphology: NDArray[np.bool_], *, by_slice: bool
) -> Zones:
    """Find the zones of a region: 8-connected in each slice, or 26-connected in the volume.

    Parameters
    ----------
    levels
        (z, y, x) grey levels from 1, 0 outside the intensity mask.
    morphology
        (z, y, x) morphological mask, from whose outside distances are counted in steps along the axes.

    References
    ----------
    Thibault et al. 2014, doi:10.1109/TBME.2013.2284600 (size and distance zones).
    """
    distances = _border_distance(morphology, by_slice)
    found = _zones(levels, distances, by_slice)
    return Zones(
        slice_index=found[:, 0],
        level=found[:, 1],
        size=found[:, 2],
        distance=found[:, 3],
        n_slices=len(levels) if by_slice else 1,
        n_levels=n_levels,
    )


@compiled
def _border_distance(mask: NDArray[np.bool_], by_slice: bool) -> Integers:
    """City-block distance to the nearest voxel outside the mask or the image, by two sweeps."""
    depth, height, width = mask.shape
    distance = np.zeros(mask.shape, np.int64)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if mask[z, y, x]:
                    near = 0 if x == 0 else distance[z, y, x - 1]
                    near = min(near, 0 if y == 0 else distance[z, y - 1, x])
                    if not by_slice:
                        near = min(near, 0 if z == 0 else distance[z - 1, y, x])
                    distance[z, y, x] = near + 1
    for z in range(depth - 1, -1, -1):
        for y in range(height - 1, -1, -1):
            for x in range(width - 1, -1, -1):
                if mask[z, y, x]:
                    near = 0 if x == width - 1 else distance[z, y, x + 1]
                    near = min(near, 0 if y == height - 1 else distance[z, y + 1, x])
                    if not by_slice:
                        near = min(near, 0 if z == depth - 1 else distance[z + 1, y, x])
                    distance[z, y, x] = min(distance[z, y, x], near + 1)
    return distance


@compiled
def _zones(levels: NDArray[np.int32], distances: Integers, by_slice: bool) -> Integers:
    """Flood each zone once; rows are (slice, level, size, distance)."""
    depth, height, width = levels.shape
    visited = levels == 0
    n = visited.size - visited.sum()
    stack = np.empty((n, 3), np.int64)
    zones = np.empty((n, 4), np.int64)
    found = 0
    reach = 0 if by_slice else 1
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if visited[z, y, x]:
                    continue
                level = levels[z, y, x]
                visited[z, y, x] = True
                stack[0, 0], stack[0, 1], stack[0, 2] = z, y, x
                waiting, size, distance = 1, 0, distances[z, y, x]
                while waiting:
                    waiting -= 1
                    z1, y1, x1 = stack[waiting]
                    size += 1
                    distance = min(distance, distances[z1, y1, x1])
                    for z2 in range(max(z1 - reach, 0), min(z1 + reach + 1, depth)):
                        for y2 in range(max(y1 - 1, 0), min(y1 + 2, height)):
                            for x2 in range(max(x1 - 1, 0), min(x1 + 2, width)):
                                if not visited[z2, y2, x2] and levels[z2, y2, x2] == level:
                                    visited[z2, y2, x2] = True
                                    stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = z2, y2, x2
                                    waiting += 1
                zones[found, 0] = z if by_slice else 0
                zones[found, 1], zones[found, 2], zones[found, 3] = level, size, distance
                found += 1
    return zones[:found]
