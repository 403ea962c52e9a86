"""Cut a volume into windows that a network can see, and put the answers together again.

Exact: every voxel is computed once, in a window that holds all that the voxel can depend on, so the result
equals one pass over the whole volume. Blended: windows overlap and are averaged under Gaussian weights, for
networks whose answer depends on the window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.volume import Shape

Box = tuple[slice, slice, slice]
Forward = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(inputs, z, y, x) to (outputs, z, y, x), same extents."""
Progress = Callable[[float], None]

GAUSSIAN_SHARE = 1 / 8
"""Standard deviation of the blending weight as a share of the window."""
SMALLEST_WEIGHT = 1e-3
"""Relative to the centre: voxels that only window edges cover still get their average."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A part of a volume: what the network sees, and what is kept of its answer."""

    seen: Box
    kept: Box


def padded_shape(shape: Sequence[int], alignment: int) -> Shape:
    """Return ``shape`` rounded up to multiples of ``alignment``."""
    z, y, x = (-(-n // alignment) * alignment for n in shape)
    return z, y, x


def exact_windows(shape: Shape, tile: Shape, halo: Shape, *, alignment: int = 1) -> list[Window]:
    """Return windows of at most ``tile`` voxels that keep every voxel of ``shape`` exactly once.

    Parameters
    ----------
    halo
        Seen but not kept on each side, except where the volume ends. At least the receptive radius.
    alignment
        Of the pooling: windows start at multiples of it.

    Raises
    ------
    Misconfigured
        Tile or halo are not multiples of the alignment, or nothing would be left of the tile.
    """
    for t, h in zip(tile, halo, strict=True):
        if t % alignment or h % alignment or t <= 2 * h:
            raise Misconfigured(
                f"tile {t} and halo {h} must be multiples of {alignment}, and the tile wider than two halos"
            )
    axes = [_spans(n, t, h) for n, t, h in zip(shape, tile, halo, strict=True)]
    return [
        Window(seen=(z[0], y[0], x[0]), kept=(z[1], y[1], x[1]))
        for z, y, x in product(axes[0], axes[1], axes[2])
    ]


def _spans(n: int, tile: int, halo: int) -> list[tuple[slice, slice]]:
    """Return (seen, kept) along one axis; windows at the ends need no halo outside the volume."""
    spans, begin = [], 0
    while begin < n:
        start = max(begin - halo, 0)
        stop = min(start + tile, n)
        end = n if stop == n else stop - halo
        spans.append((slice(start, stop), slice(begin, end)))
        begin = end
    return spans


def run_exact(
    forward: Forward,
    volume: NDArray[np.float32],
    outputs: int,
    windows: Sequence[Window],
    *,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Return the (outputs, z, y, x) answer put together from ``windows`` of ``volume`` (inputs, z, y, x)."""
    result = np.empty((outputs, *volume.shape[1:]), np.float32)
    for number, window in enumerate(windows, start=1):
        answer = forward(volume[(slice(None), *window.seen)])
        inner = tuple(
            slice(kept.start - seen.start, kept.stop - seen.start)
            for kept, seen in zip(window.kept, window.seen, strict=True)
        )
        result[(slice(None), *window.kept)] = answer[(slice(None), *inner)]
        if progress:
            progress(number / len(windows))
    return result


def blended_windows(shape: Shape, tile: Shape, overlap: float, *, alignment: int = 1) -> list[Box]:
    """Return evenly spaced windows of ``tile`` voxels; neighbours share at least ``overlap`` of their width.

    A volume that is smaller than the tile is one window along that axis.
    """
    axes = []
    for n, t in zip(shape, tile, strict=True):
        if n <= t:
            axes.append([slice(0, n)])
            continue
        step = max(int(t * (1 - overlap)) // alignment * alignment, alignment)
        count = -(-(n - t) // step) + 1
        starts = [i * (n - t) // (count - 1) // alignment * alignment for i in range(count - 1)]
        axes.append([slice(s, s + t) for s in [*starts, n - t]])
    return list(product(axes[0], axes[1], axes[2]))


def run_blended(
    forward: Forward,
    volume: NDArray[np.float32],
    outputs: int,
    windows: Sequence[Box],
    *,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Return the average of the windows' answers under Gaussian weights, in the order of the windows."""
    total = np.zeros((outputs, *volume.shape[1:]), np.float32)
    weights = np.zeros(volume.shape[1:], np.float32)
    for number, window in enumerate(windows, start=1):
        answer = forward(volume[(slice(None), *window)])
        weight = gaussian_weight(answer.shape[1:])
        total[(slice(None), *window)] += answer * weight
        weights[window] += weight
        if progress:
            progress(number / len(windows))
    total /= weights
    return total


def gaussian_weight(shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the (z, y, x) weight of a window: 1 at its centre, never below ``SMALLEST_WEIGHT``."""
    z, y, x = (
        np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (GAUSSIAN_SHARE * n)) ** 2).astype(np.float32)
        for n in shape
    )
    return np.asarray(np.maximum(z[:, None, None] * y[:, None] * x, SMALLEST_WEIGHT), np.float32)
