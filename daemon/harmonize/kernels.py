"""Machine code for interpolation: B-spline coefficients, and gathering between oblique grids.

Grids with parallel axes go through :mod:`voxtrial.daemon.harmonize.banded`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.harmonize.lanes import LANES

Array = NDArray[Any]


@compiled
def _filter_lines(lines: Array, pole: float, gain: float) -> None:
    """Turn samples along the first axis of ``lines`` (n, m) into B-spline coefficients of one pole, in place.

    Boundaries are mirrored about the first and last sample (Unser 1999, box 2).
    """
    n, m = lines.shape
    z = lines.dtype.type(pole)
    total = np.empty(m, lines.dtype)
    # Causal start: the mirrored series summed exactly over one period 2n - 2.
    power = 1.0
    last = pole ** (2 * n - 2)
    for j in range(m):
        total[j] = lines[0, j]
    for i in range(1, n):
        power *= pole
        mirrored = pole ** (2 * n - 2 - i) if i < n - 1 else 0.0
        a = lines.dtype.type(power + mirrored)
        if abs(power) + abs(mirrored) < 1e-18:
            if i < n - 1:
                continue
            break
        for j in range(m):
            total[j] += a * lines[i, j]
    scale = lines.dtype.type(1.0 / (1.0 - last))
    g = lines.dtype.type(gain)
    for j in range(m):
        lines[0, j] = g * scale * total[j]
    for i in range(1, n):
        for j in range(m):
            lines[i, j] = g * lines[i, j] + z * lines[i - 1, j]
    a = lines.dtype.type(pole / (pole * pole - 1.0))
    for j in range(m):
        lines[n - 1, j] = a * (lines[n - 1, j] + z * lines[n - 2, j])
    for i in range(n - 2, -1, -1):
        for j in range(m):
            lines[i, j] = z * (lines[i + 1, j] - lines[i, j])


@compiled
def filter_planes(volume: Array, poles: Array, begin: int, end: int) -> None:
    """Turn the slices ``begin <= z < end`` into B-spline coefficients along y and x, in place."""
    rows, columns = volume.shape[1], volume.shape[2]
    side = np.empty((columns, LANES), volume.dtype)  # rows side by side: one register of AVX-512
    for z in range(begin, end):
        plane = volume[z]
        for pole in poles:
            gain = (1.0 - pole) * (1.0 - 1.0 / pole)
            if rows > 1:
                _filter_lines(plane, pole, gain)
        if columns == 1:
            continue
        for y in range(0, rows, LANES):
            lanes = min(LANES, rows - y)
            block = side[:, :lanes] if lanes < LANES else side
            for i in range(lanes):
                for x in range(columns):
                    block[x, i] = plane[y + i, x]
            for pole in poles:
                gain = (1.0 - pole) * (1.0 - 1.0 / pole)
                _filter_lines(block, pole, gain)
            for i in range(lanes):
                for x in range(columns):
                    plane[y + i, x] = block[x, i]


@compiled
def filter_depth(volume: Array, poles: Array, begin: int, end: int) -> None:
    """Turn the rows ``begin <= y < end`` into B-spline coefficients along z, in place."""
    depth, columns = volume.shape[0], volume.shape[2]
    lines = np.empty((depth, columns), volume.dtype)
    for y in range(begin, end):
        for z in range(depth):
            for x in range(columns):
                lines[z, x] = volume[z, y, x]
        for pole in poles:
            gain = (1.0 - pole) * (1.0 - 1.0 / pole)
            _filter_lines(lines, pole, gain)
        for z in range(depth):
            for x in range(columns):
                volume[z, y, x] = lines[z, x]


@compiled
def _taps(kind: int, t: float, weights: Array) -> int:
    """Fill the weights of the samples around a point at fraction ``t``; return the offset of the first one.

    ``kind``: 1 linear, 2 cubic convolution (Keys 1981, a = -1/2), 3 and 5 B-splines of that degree. For the
    quintic spline the fraction counts from the sample at or below the point, as for the others.
    """
    if kind == 1:
        weights[0], weights[1] = 1.0 - t, t
        return 0
    if kind == 2:
        weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
        weights[1] = (1.5 * t - 2.5) * t * t + 1.0
        weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
        weights[3] = (0.5 * t - 0.5) * t * t
        return -1
    if kind == 3:
        u = 1.0 - t
        weights[0] = u * u * u / 6.0
        weights[1] = (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0
        weights[2] = (4.0 - 6.0 * u * u + 3.0 * u * u * u) / 6.0
        weights[3] = t * t * t / 6.0
        return -1
    for k in range(6):
        x = abs(t + 2.0 - k)
        if x < 1.0:
            weights[k] = 0.55 - 0.5 * x**2 + 0.25 * x**4 - x**5 / 12.0
        elif x < 2.0:
            weights[k] = 0.425 + 0.625 * x - 1.75 * x**2 + 1.25 * x**3 - 0.375 * x**4 + x**5 / 24.0
        elif x < 3.0:
            weights[k] = (3.0 - x) ** 5 / 120.0
        else:
            weights[k] = 0.0
    return -2


@compiled
def spline_taps(kind: int, fractions: Array, weights: Array) -> int:
    """Fill ``weights`` (n, width) for points at ``fractions`` (n) above a sample.

    Return the offset of the first sample from the one at or below the point.
    """
    offset = 0
    for i in range(fractions.shape[0]):
        offset = _taps(kind, fractions[i], weights[i])
    return offset


@compiled
def _folded(i: int, n: int, mirror: bool) -> int:
    """Return the index inside ``0 ... n - 1`` that a sample outside stands for."""
    if 0 <= i < n:
        return i
    if not mirror or n == 1:
        return min(max(i, 0), n - 1)
    period = 2 * n - 2
    i %= period
    return i if i < n else period - i


@compiled
def gather(
    source: Array,
    matrix: Array,
    kind: int,
    bounded: bool,
    fill: float,
    out: Array,
    begin: int,
    end: int,
) -> None:
    """Fill the slices ``begin <= z < end`` of ``out`` from any affine map of its indices into ``source``.

    Parameters
    ----------
    source
        (z, y, x) samples; B-spline coefficients for ``kind`` 3 and 5.
    matrix
        (3, 4): output index (z, y, x, 1) to fractional source index.
    kind
        0 nearest, else as in :func:`_taps`.
    bounded
        Whether points further than half a voxel outside the outermost sample take ``fill``; otherwise they
        take the nearest value.
    """
    nz, ny, nx = source.shape
    rows, columns = out.shape[1], out.shape[2]
    width = 1 if kind == 0 else (2 if kind == 1 else (6 if kind == 5 else 4))
    mirror = kind in (3, 5)
    wz = np.empty(width, np.float64)
    wy = np.empty(width, np.float64)
    wx = np.empty(width, np.float64)
    for z in range(begin, end):
        for y in range(rows):
            for x in range(columns):
                cz = matrix[0, 0] * z + matrix[0, 1] * y + matrix[0, 2] * x + matrix[0, 3]
                cy = matrix[1, 0] * z + matrix[1, 1] * y + matrix[1, 2] * x + matrix[1, 3]
                cx = matrix[2, 0] * z + matrix[2, 1] * y + matrix[2, 2] * x + matrix[2, 3]
                if bounded and (
                    cz < -0.5 or cy < -0.5 or cx < -0.5 or cz > nz - 0.5 or cy > ny - 0.5 or cx > nx - 0.5
                ):
                    out[z, y, x] = fill
                    continue
                cz = min(max(cz, 0.0), nz - 1.0)
                cy = min(max(cy, 0.0), ny - 1.0)
                cx = min(max(cx, 0.0), nx - 1.0)
                if kind == 0:
                    # Ties go up; coordinates are rounded so that noise of 1e-12 cannot decide them.
                    out[z, y, x] = source[
                        min(int(cz + 0.5 + 1e-9), nz - 1),
                        min(int(cy + 0.5 + 1e-9), ny - 1),
                        min(int(cx + 0.5 + 1e-9), nx - 1),
                    ]
                    continue
                iz, iy, ix = int(cz), int(cy), int(cx)
                if kind == 1:
                    tz, ty, tx = cz - iz, cy - iy, cx - ix
                    jz, jy, jx = min(iz + 1, nz - 1), min(iy + 1, ny - 1), min(ix + 1, nx - 1)
                    low = (1 - ty) * ((1 - tx) * source[iz, iy, ix] + tx * source[iz, iy, jx]) + ty * (
                        (1 - tx) * source[iz, jy, ix] + tx * source[iz, jy, jx]
                    )
                    high = (1 - ty) * ((1 - tx) * source[jz, iy, ix] + tx * source[jz, iy, jx]) + ty * (
                        (1 - tx) * source[jz, jy, ix] + tx * source[jz, jy, jx]
                    )
                    out[z, y, x] = (1 - tz) * low + tz * high
                    continue
                offset = _taps(kind, cz - iz, wz)
                _taps(kind, cy - iy, wy)
                _taps(kind, cx - ix, wx)
                total = 0.0
                for a in range(width):
                    fz = _folded(iz + offset + a, nz, mirror)
                    for b in range(width):
                        fy = _folded(iy + offset + b, ny, mirror)
                        line = 0.0
                        for c in range(width):
                            line += wx[c] * source[fz, fy, _folded(ix + offset + c, nx, mirror)]
                        total += wz[a] * wy[b] * line
                out[z, y, x] = total
