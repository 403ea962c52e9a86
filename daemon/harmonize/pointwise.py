"""Machine code over all voxels at once: moments, affine maps, order statistics, piecewise linear maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled, compiled_sum

Array = NDArray[Any]
_PARTIAL = 256
_BLOCK = 512


@compiled_sum
def moments(values: Array, inside: Array, masked: bool, pivot: Array) -> tuple[float, float]:
    """Return the sums of (value - pivot) and of its squares, where ``inside`` if ``masked``.

    ``pivot`` (1,) has the dtype of the partial sums over 256 values each, which are then added in double
    precision.
    """
    first, second = 0.0, 0.0
    centre, zero = pivot[0], pivot.dtype.type(0)
    for at in range(0, values.shape[0], _PARTIAL):
        part = values[at : at + _PARTIAL]
        one, two = zero, zero
        if masked:
            chosen = inside[at : at + _PARTIAL]
            for i in range(part.shape[0]):
                d = pivot.dtype.type(part[i]) - centre
                d = d if chosen[i] else zero
                one += d
                two += d * d
        else:
            for i in range(part.shape[0]):
                d = pivot.dtype.type(part[i]) - centre
                one += d
                two += d * d
        first += one
        second += two
    return first, second


@compiled
def scale(
    values: Array, centre: float, factor: float, offset: float, out: Array, begin: int, end: int
) -> None:
    """Fill ``out = (values - centre) * factor + offset`` for ``begin <= i < end`` of flat arrays."""
    part, result = values[begin:end], out[begin:end]
    for i in range(part.shape[0]):
        result[i] = (float(part[i]) - centre) * factor + offset


@compiled
def scale_inside(
    values: Array, inside: Array, centre: float, factor: float, fill: float, out: Array, begin: int, end: int
) -> None:
    """Fill ``out = (values - centre) * factor`` where ``inside``, else ``fill``, for ``begin <= i < end``."""
    part, chosen, result = values[begin:end], inside[begin:end], out[begin:end]
    for i in range(part.shape[0]):
        scaled = (float(part[i]) - centre) * factor
        result[i] = scaled if chosen[i] else fill


@compiled
def clip_and_scale(
    values: Array, low: float, high: float, factor: float, offset: float, out: Array, begin: int, end: int
) -> None:
    """Fill ``out = (clip(values, low, high) - low) * factor + offset`` for ``begin <= i < end``."""
    part, result = values[begin:end], out[begin:end]
    for i in range(part.shape[0]):
        v = float(part[i])
        v = low if v < low else v
        v = high if v > high else v
        result[i] = (v - low) * factor + offset


@compiled
def count_high_bits(keys: Array, inside: Array, masked: bool, counts: Array) -> None:
    """Add to ``counts`` (65536) how many of the flat uint32 float patterns fall under each upper half.

    Patterns are mapped so that their unsigned order is the order of the floats.
    """
    for i in range(keys.shape[0]):
        if masked and not inside[i]:
            continue
        b = keys[i]
        key = ~b if b & np.uint32(0x80000000) else b | np.uint32(0x80000000)
        counts[key >> np.uint32(16)] += 1


@compiled
def count_low_bits(keys: Array, inside: Array, masked: bool, slots: Array, counts: Array) -> None:
    """Add to ``counts`` (n, 65536) the lower halves of the patterns whose upper half has a slot."""
    for i in range(keys.shape[0]):
        if masked and not inside[i]:
            continue
        b = keys[i]
        key = ~b if b & np.uint32(0x80000000) else b | np.uint32(0x80000000)
        slot = slots[key >> np.uint32(16)]
        if slot >= 0:
            counts[slot, key & np.uint32(0xFFFF)] += 1


@compiled
def count_integers(values: Array, inside: Array, masked: bool, counts: Array) -> None:
    """Add to ``counts`` (65536) how often each int16 occurs, from -32768 on."""
    for i in range(values.shape[0]):
        if masked and not inside[i]:
            continue
        counts[np.int64(values[i]) + 32768] += 1


@compiled
def piecewise_linear(
    values: Array, knots: Array, slopes: Array, offsets: Array, out: Array, begin: int, end: int
) -> None:
    """Fill ``out = slopes[k] * value + offsets[k]`` with k the number of ``knots`` at or below the value.

    ``slopes`` and ``offsets`` have one entry more than ``knots``. Blocks stay in the nearest cache, so that
    each knot is one sweep of comparisons without a branch.
    """
    slope, offset = np.empty(_BLOCK), np.empty(_BLOCK)
    for at in range(begin, end, _BLOCK):
        part = values[at : min(at + _BLOCK, end)]
        result = out[at : min(at + _BLOCK, end)]
        n = part.shape[0]
        for i in range(n):
            slope[i] = slopes[0]
            offset[i] = offsets[0]
        for k in range(knots.shape[0]):
            knot, a, b = knots[k], slopes[k + 1], offsets[k + 1]
            for i in range(n):
                above = float(part[i]) >= knot
                slope[i] = a if above else slope[i]
                offset[i] = b if above else offset[i]
        for i in range(n):
            result[i] = slope[i] * float(part[i]) + offset[i]
