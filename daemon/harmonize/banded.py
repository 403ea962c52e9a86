"""Machine code for banded operators along the three axes: what separable interpolation is.

Row ``i`` of a band mixes the input samples ``first[i] ... first[i] + width - 1`` with ``weights[i]``.
Boundaries, anti-aliasing and the interpolating kernel are all folded into the weights
(:mod:`voxtrial.daemon.harmonize.bands`), so that one fused pass serves them all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.harmonize.lanes import LANES, Samples, fetched, permuted, prefetched
from voxtrial.daemon.pages import take_pages

Array = NDArray[Any]
Operators = tuple[Array, Array, Array, Array, Samples]
"""First samples (n,) and weights (n, width) of the bands along z and y, blocks of the band along x."""
_CHUNK = 4096
"""Voxels of a plane that are mixed at a time when a band is wide: they stay in the nearest cache."""
_AHEAD = 6
"""Rows of the source that are asked for before they are mixed: the machine does not foresee them."""


@compiled
def _mix_rows(source: Array, z: int, first: int, weights: Array, y: int, row: Array) -> None:
    """Write sum_k weights[y, k] * source[z, first + k] into ``row``; widths 1, 2 and 4 in one sweep."""
    width = weights.shape[1]
    n = source.shape[2]
    if width == 1:
        a = weights[y, 0]
        for j in range(n):
            row[j] = a * source[z, first, j]
    elif width == 2:
        a, b = weights[y, 0], weights[y, 1]
        for j in range(n):
            row[j] = a * source[z, first, j] + b * source[z, first + 1, j]
    elif width == 4:
        a, b, c, d = weights[y, 0], weights[y, 1], weights[y, 2], weights[y, 3]
        for j in range(n):
            row[j] = (a * source[z, first, j] + b * source[z, first + 1, j]) + (
                c * source[z, first + 2, j] + d * source[z, first + 3, j]
            )
    else:
        a = weights[y, 0]
        for j in range(n):
            row[j] = a * source[z, first, j]
        for k in range(1, width):
            a = weights[y, k]
            for j in range(n):
                row[j] += a * source[z, first + k, j]


@compiled
def _mix_planes(ring: Array, base: int, weights: Array, z: int, out: Array) -> None:
    """Write sum_k weights[z, k] * (plane base + k) into ``out[z]``; a weight of 0 does not read its plane."""
    depth, n = weights.shape[1], out.shape[1]
    if depth == 2 and weights[z, 0] != 0 and weights[z, 1] != 0:
        a, b = weights[z, 0], weights[z, 1]
        lower, upper = base % 2, (base + 1) % 2
        for i in range(n):
            out[z, i] = a * ring[lower, i] + b * ring[upper, i]
        return
    for begin in range(0, n, _CHUNK):
        target = out[z, begin : min(begin + _CHUNK, n)]
        started = False
        for k in range(depth):
            a = weights[z, k]
            if a == 0:
                continue
            part = ring[(base + k) % depth, begin:]
            if started:
                for i in range(target.shape[0]):
                    target[i] += a * part[i]
            else:
                for i in range(target.shape[0]):
                    target[i] = a * part[i]
            started = True


@compiled
def apply_bands(source: Array, operators: Operators, columns: int, out: Array, begin: int, end: int) -> None:
    """Fill the slices ``begin <= z < end`` of ``out`` with the banded operators applied to ``source``.

    Each source slice is interpolated in its plane once and waits in a ring of as many planes as the band
    along z is wide: the memory is read once and written once. Loops take positions, not views: a view of a
    row costs as much as mixing it.

    Parameters
    ----------
    source
        (z, y, x) samples. ``z_first`` may rise or fall.
    columns
        Length of a row of the result.
    out
        (z, rows * columns), fresh, of the floating dtype that the weights have too.
    """
    z_first, z_weights, y_first, y_weights, samples = operators
    narrow = samples[3]
    depth = z_weights.shape[1]
    ring = np.empty((depth, out.shape[1] + LANES), out.dtype)
    flat = ring.reshape(-1)
    held = np.full(depth, -1, np.int64)
    row = np.zeros(source.shape[2] + 2 * LANES, out.dtype)
    entries, voxels = out.reshape(-1), out.shape[1]
    for z in range(begin, end):
        take_pages(entries, z * voxels, (z + 1) * voxels, end * voxels)
        base = z_first[z]
        for plane in range(base, base + depth):
            slot = plane % depth
            if z_weights[z, plane - base] == 0 or held[slot] == plane:
                continue
            for y in range(y_first.shape[0]):
                prefetched(source, plane, y_first[y] + _AHEAD)
                _mix_rows(source, plane, y_first[y], y_weights, y, row)
                at = slot * ring.shape[1] + y * columns
                if narrow:
                    permuted(row, samples, flat, at)
                else:
                    fetched(row, samples, flat, at)
            held[slot] = plane
        _mix_planes(ring, base, z_weights, z, out)
