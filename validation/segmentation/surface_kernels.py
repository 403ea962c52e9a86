"""Find the boundary of a mask, and the nearest boundary point of another, by passes over grid rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.compiled import compiled
from voxtrial.validation.tables import Floats

Octets = NDArray[np.uint8]
Indices = NDArray[np.int64]


@compiled
def overlap(reference: Octets, test: Octets) -> tuple[Indices, Indices, Indices, Indices]:
    """Count and enclose two (z, y, x) masks of 0 and 1 in one pass.

    Returns
    -------
    counts
        Voxels of the reference, of the test, and of both.
    box
        Half-open (z0, z1, y0, y1, x0, x1) around their union; empty when both are empty.
    reference_sums, test_sums
        Sums of the indices (z, y, x) over each mask: the centroid is sums / count.
    """
    depth, height, width = reference.shape
    counts = np.zeros(3, np.int64)
    box = np.array([depth, 0, height, 0, width, 0])
    sums = np.zeros((2, 3), np.int64)
    for z in range(depth):
        for y in range(height):
            a = 0
            b = 0
            both = 0
            for x in range(width):
                a += reference[z, y, x]
                b += test[z, y, x]
                both += reference[z, y, x] & test[z, y, x]
            if a + b == 0:
                continue
            counts += np.array([a, b, both])
            sums[0, 0] += z * a
            sums[0, 1] += y * a
            sums[1, 0] += z * b
            sums[1, 1] += y * b
            first = width
            last = -1
            for x in range(width):
                sums[0, 2] += x * reference[z, y, x]
                sums[1, 2] += x * test[z, y, x]
                if reference[z, y, x] | test[z, y, x]:
                    first = min(first, x)
                    last = x
            box[0] = min(box[0], z)
            box[1] = z + 1
            box[2] = min(box[2], y)
            box[3] = max(box[3], y + 1)
            box[4] = min(box[4], first)
            box[5] = max(box[5], last + 1)
    return counts, box, sums[0], sums[1]


@compiled
def border_voxels(mask: Octets, box: Indices) -> Indices:
    """Return (n, 3) indices of the voxels in ``box`` that lose a face neighbour: the mask minus its erosion.

    Outside the array is background, so a mask that touches the edge has a border there.
    """
    depth, height, width = mask.shape
    found = np.empty((1024, 3), np.int64)
    n = 0
    for z in range(box[0], box[1]):
        for y in range(box[2], box[3]):
            edge_row = z == 0 or z == depth - 1 or y == 0 or y == height - 1
            for x in range(box[4], box[5]):
                if not mask[z, y, x]:
                    continue
                if not (edge_row or x == 0 or x == width - 1) and (
                    mask[z - 1, y, x]
                    & mask[z + 1, y, x]
                    & mask[z, y - 1, x]
                    & mask[z, y + 1, x]
                    & mask[z, y, x - 1]
                    & mask[z, y, x + 1]
                ):
                    continue
                if n == found.shape[0]:
                    larger = np.empty((2 * n, 3), np.int64)
                    larger[:n] = found
                    found = larger
                found[n, 0] = z
                found[n, 1] = y
                found[n, 2] = x
                n += 1
    return found[:n]


@compiled
def surface_elements(mask: Octets, box: Indices) -> tuple[Indices, Octets]:
    """Return the cubes of eight voxel centres that the surface passes, and their patterns.

    Returns
    -------
    index
        (n, 3): the cube's lowest corner (z, y, x), from -1 on; its centre lies half a voxel further.
    pattern
        (n,): bit 7 - (4 z + 2 y + x) is set where that corner is inside; outside the array is background.
    """
    depth, height, width = mask.shape
    found = np.empty((1024, 3), np.int64)
    patterns = np.empty(1024, np.uint8)
    n = 0
    for z in range(box[0] - 1, box[1]):
        for y in range(box[2] - 1, box[3]):
            pattern = 0
            for x in range(box[4] - 2, box[5]):
                pattern = (pattern & 0x55) << 1
                if 0 <= x + 1 < width:
                    if z >= 0:
                        if y >= 0:
                            pattern |= mask[z, y, x + 1] << 6
                        if y + 1 < height:
                            pattern |= mask[z, y + 1, x + 1] << 4
                    if z + 1 < depth:
                        if y >= 0:
                            pattern |= mask[z + 1, y, x + 1] << 2
                        if y + 1 < height:
                            pattern |= mask[z + 1, y + 1, x + 1]
                if pattern in (0, 255) or x < box[4] - 1:
                    continue
                if n == found.shape[0]:
                    larger = np.empty((2 * n, 3), np.int64)
                    larger[:n] = found
                    found = larger
                    more = np.empty(2 * n, np.uint8)
                    more[:n] = patterns
                    patterns = more
                found[n, 0] = z
                found[n, 1] = y
                found[n, 2] = x
                patterns[n] = pattern
                n += 1
    return found[:n], patterns[:n]


@compiled
def nearest_in_rows(
    points: Indices,
    targets: Indices,
    box: Indices,
    spacing: Floats,
    steps: Indices,
    step_squares: Floats,
) -> Floats:
    """Return the squared distance of each point to its nearest target, searched row by row.

    Both are (n, 3) indices (z, y, x) in ascending order, as the passes above return them. The rows around a
    point are visited from near to far and each is searched by bisection, until the next row is farther than
    the nearest target found.

    Parameters
    ----------
    box
        As returned by ``overlap``; indices may lie one below it.
    spacing
        Along (z, y, x), mm.
    steps, step_squares
        Rows to visit as (m, 2) offsets (z, y) with their squared distances in mm², ascending.

    Returns
    -------
    array
        (n,) squared distances in mm²; infinity where no target is nearer than the last row visited.
    """
    rows_z = box[1] - box[0] + 1
    rows_y = box[3] - box[2] + 1
    start = np.zeros(rows_z * rows_y + 1, np.int64)
    for t in range(targets.shape[0]):
        start[(targets[t, 0] - box[0] + 1) * rows_y + targets[t, 1] - box[2] + 2] += 1
    for row in range(start.size - 1):
        start[row + 1] += start[row]
    columns = targets[:, 2].copy()
    squares = np.empty(points.shape[0])
    for p in range(points.shape[0]):
        z = points[p, 0] - box[0] + 1
        y = points[p, 1] - box[2] + 1
        x = points[p, 2]
        best = np.inf
        settled = False
        for m in range(steps.shape[0]):
            if step_squares[m] >= best:
                settled = True
                break
            row_z = z + steps[m, 0]
            row_y = y + steps[m, 1]
            if row_z < 0 or row_z >= rows_z or row_y < 0 or row_y >= rows_y:
                continue
            first = start[row_z * rows_y + row_y]
            last = start[row_z * rows_y + row_y + 1]
            if first == last:
                continue
            low = first
            high = last
            while low < high:
                middle = (low + high) // 2
                if columns[middle] < x:
                    low = middle + 1
                else:
                    high = middle
            if low < last:
                best = min(best, step_squares[m] + ((columns[low] - x) * spacing[2]) ** 2)
            if low > first:
                best = min(best, step_squares[m] + ((x - columns[low - 1]) * spacing[2]) ** 2)
        squares[p] = best if settled else np.inf
    return squares
