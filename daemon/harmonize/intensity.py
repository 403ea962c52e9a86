"""Bring intensities of different scanners to one scale: windows, z-score, min-max, percentiles.

Every function takes an array (z, y, x) of any real dtype and returns a new one: float32, or float64 for
float64 input. Standard deviations are those of the population (divided by n).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured, Refused

Array = NDArray[Any]
Region = NDArray[np.bool_] | None

_LEAST_SQUARE = 1e-30
"""Mean square below which squares in single precision lose digits; they are lost altogether from 1e-45."""

REGIONS = ("all", "nonzero", "above_mean", "otsu")


def region(array: Array, rule: str = "all") -> Region:
    """Return the voxels that statistics are taken of; None stands for all of them.

    ``nonzero``; ``above_mean`` (over all voxels: head or body against air); ``otsu`` (above Otsu's
    threshold).
    """
    if rule == "all":
        return None
    if rule == "nonzero":
        return np.asarray(array != 0)
    if rule == "above_mean":
        return np.asarray(array > mean_and_sd(array)[0])
    if rule == "otsu":
        from skimage.filters import threshold_otsu

        return np.asarray(array > threshold_otsu(array.ravel(), nbins=512))
    raise Misconfigured(f'region is "{rule}"; choose one of {", ".join(REGIONS)}.')


def mean_and_sd(array: Array, inside: Region = None) -> tuple[float, float]:
    """Return mean and standard deviation of the voxels ``inside``.

    Raises
    ------
    Refused
        ``empty_region`` when there is no voxel.
    """
    from voxtrial.daemon.harmonize import pointwise

    flat, chosen = _flat(array, inside)
    masked = inside is not None
    # Sums about a value near the mean lose no digits.
    pivot = float(flat[:: max(1, flat.size // 1024)].mean(dtype=float)) if flat.size else 0.0
    n = int(np.count_nonzero(chosen)) if masked else flat.size
    if n == 0:
        raise Refused("The region for the intensity statistics holds no voxel.", rule="empty_region")
    centre = np.array([pivot], np.float64 if flat.dtype == np.float64 else np.float32)
    first, second = pointwise.moments(flat, chosen, masked, centre)
    if centre.dtype == np.float32 and not n * _LEAST_SQUARE < second < np.inf:
        centre = np.array([pivot])
        first, second = pointwise.moments(flat, chosen, masked, centre)
    mean = first / n
    return float(centre[0]) + mean, float(np.sqrt(max(second / n - mean * mean, 0.0)))


def zscore(array: Array, inside: Region = None, *, fill: float | None = None, threads: int = 1) -> Array:
    """Return (value - mean) / sd with mean and sd of the voxels ``inside``.

    Parameters
    ----------
    fill
        Value of the voxels that are not ``inside``; None transforms them like the others.

    Raises
    ------
    Refused
        ``constant_intensity`` when the standard deviation is 0.
    """
    mean, sd = mean_and_sd(array, inside)
    return standardised(array, mean, sd, inside, fill=fill, threads=threads)


def standardised(
    array: Array,
    mean: float,
    sd: float,
    inside: Region = None,
    *,
    fill: float | None = None,
    threads: int = 1,
) -> Array:
    """Return (value - ``mean``) / ``sd``; arguments as in :func:`zscore`."""
    if not sd > 0:
        raise Refused(
            f"The intensities do not vary (all are {mean:g}); a z-score needs a spread.",
            rule="constant_intensity",
        )
    if inside is None or fill is None:
        return scaled(array, mean, 1 / sd, 0.0, threads)
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize import pointwise
    from voxtrial.daemon.pages import take_pages

    flat, chosen = _flat(array, inside)
    out = np.empty(flat.size, _precision(array))
    take_pages(out, 0, out.size, out.size)
    in_slabs(
        lambda a, b: pointwise.scale_inside(flat, chosen, mean, 1 / sd, float(fill), out, a, b),
        flat.size,
        threads=threads,
    )
    return out.reshape(array.shape)


def window(
    array: Array, low: float, high: float, to: tuple[float, float] = (0.0, 1.0), *, threads: int = 1
) -> Array:
    """Clip to [``low``, ``high``] and map that range linearly on ``to``."""
    if not high > low:
        raise Misconfigured(f"A window from {low:g} to {high:g} is empty; write low below high.")
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize import pointwise

    flat, _ = _flat(array, None)
    out = np.empty(flat.size, _precision(array))
    factor = (to[1] - to[0]) / (high - low)
    in_slabs(
        lambda a, b: pointwise.clip_and_scale(flat, float(low), float(high), factor, float(to[0]), out, a, b),
        flat.size,
        threads=threads,
    )
    return out.reshape(array.shape)


def minmax(
    array: Array, inside: Region = None, to: tuple[float, float] = (0.0, 1.0), *, threads: int = 1
) -> Array:
    """Map the least and the greatest value ``inside`` linearly on ``to``; other voxels are clipped to it.

    Raises
    ------
    Refused
        ``constant_intensity`` when both are the same.
    """
    low, high = extremes(array, inside)
    return stretched(array, low, high, to, threads=threads)


def extremes(array: Array, inside: Region = None) -> tuple[float, float]:
    """Return the least and the greatest value ``inside``."""
    values = array if inside is None else array[inside]
    if values.size == 0:
        raise Refused("The region for the intensity statistics holds no voxel.", rule="empty_region")
    return float(values.min()), float(values.max())


def percentile_scale(
    array: Array,
    low: float,
    high: float,
    inside: Region = None,
    to: tuple[float, float] = (0.0, 1.0),
    *,
    threads: int = 1,
) -> Array:
    """Map the percentiles ``low`` and ``high`` of the voxels ``inside`` on ``to``, clipped to it."""
    a, b = percentiles(array, (low, high), inside)
    return stretched(array, a, b, to, threads=threads)


def percentiles(array: Array, q: Sequence[float], inside: Region = None) -> list[float]:
    """Return the percentiles ``q`` (0 ... 100) of the voxels ``inside``, interpolated linearly between ranks.

    Equal to ``numpy.percentile``; two counting passes take the place of a sort for int16 and float32.

    Raises
    ------
    Refused
        ``empty_region`` without a voxel, ``not_finite`` when a value is not a number.
    """
    n = array.size if inside is None else int(np.count_nonzero(inside))
    if n == 0:
        raise Refused("The region for the intensity statistics holds no voxel.", rule="empty_region")
    ranks = np.asarray(q, float) / 100 * (n - 1)
    below = np.floor(ranks).astype(np.int64)
    above = np.minimum(below + 1, n - 1)
    wanted, place = np.unique(np.concatenate([below, above]), return_inverse=True)
    found = _order_statistics(array, wanted, inside)[place]
    if not np.isfinite(found).all():
        raise Refused(
            "Intensities are infinite or not a number; percentiles do not exist.", rule="not_finite"
        )
    low, high = found[: len(below)], found[len(below) :]
    return [float(v) for v in low + (ranks - below) * (high - low)]


def _order_statistics(array: Array, ranks: NDArray[np.int64], inside: Region) -> NDArray[np.float64]:
    """Values at the 0-based ``ranks`` (ascending, distinct) of the sorted voxels."""
    from voxtrial.daemon.harmonize import pointwise

    flat, chosen = _flat(array, inside)
    masked = inside is not None
    if flat.dtype == np.int16:
        counts = np.zeros(65536, np.int64)
        pointwise.count_integers(flat, chosen, masked, counts)
        return np.asarray(np.searchsorted(np.cumsum(counts), ranks, side="right") - 32768, float)
    if flat.dtype == np.float64:
        values = flat[chosen] if masked else flat
        return np.asarray(np.partition(values, ranks)[ranks], float)
    keys = flat.view(np.uint32)
    counts = np.zeros(65536, np.int64)
    pointwise.count_high_bits(keys, chosen, masked, counts)
    ends = np.cumsum(counts)
    halves = np.searchsorted(ends, ranks, side="right")
    used, slot_of_rank = np.unique(halves, return_inverse=True)
    slots = np.full(65536, -1, np.int64)
    slots[used] = np.arange(len(used))
    fine = np.zeros((len(used), 65536), np.uint32)
    pointwise.count_low_bits(keys, chosen, masked, slots, fine)
    fine_ends = np.cumsum(fine, axis=1, dtype=np.int64)
    patterns = np.empty(len(ranks), np.uint32)
    for i, (rank, half, slot) in enumerate(zip(ranks, halves, slot_of_rank, strict=True)):
        before = ends[half] - counts[half]
        patterns[i] = (int(half) << 16) | int(np.searchsorted(fine_ends[slot], rank - before, side="right"))
    negative = patterns < 0x80000000
    bits = np.where(negative, ~patterns, patterns & np.uint32(0x7FFFFFFF)).astype(np.uint32)
    return bits.view(np.float32).astype(float)


def stretched(
    array: Array,
    low: float,
    high: float,
    to: tuple[float, float] = (0.0, 1.0),
    *,
    clip: bool = True,
    threads: int = 1,
) -> Array:
    """Map the measured range from ``low`` to ``high`` on ``to``, clipped to it or going on beyond it.

    Raises
    ------
    Refused
        ``constant_intensity`` when the range is empty.
    """
    if not high > low:
        raise Refused(
            f"The intensities do not vary (all are {low:g}); they cannot be stretched over a range.",
            rule="constant_intensity",
        )
    if clip:
        return window(array, low, high, to, threads=threads)
    return scaled(array, low, (to[1] - to[0]) / (high - low), to[0], threads)


def scaled(array: Array, centre: float, factor: float, offset: float = 0.0, threads: int = 1) -> Array:
    """Return (value - ``centre``) * ``factor`` + ``offset``."""
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize import pointwise

    flat, _ = _flat(array, None)
    out = np.empty(flat.size, _precision(array))
    in_slabs(
        lambda a, b: pointwise.scale(flat, centre, factor, offset, out, a, b), flat.size, threads=threads
    )
    return out.reshape(array.shape)


def _precision(array: Array) -> type[np.floating[Any]]:
    return np.float32 if array.dtype in (np.int16, np.float32, np.uint8, np.uint16, np.int8) else np.float64


def _flat(array: Array, inside: Region) -> tuple[Array, NDArray[np.bool_]]:
    """Contiguous values in a dtype the kernels know, and the flat mask (empty when there is none)."""
    if inside is not None and inside.shape != array.shape:
        raise ValueError(f"the region has shape {inside.shape}, the array {array.shape}")
    if array.dtype not in (np.int16, np.float32, np.float64):
        array = array.astype(_precision(array))
    chosen = np.zeros(0, np.bool_) if inside is None else np.ascontiguousarray(inside).reshape(-1)
    return np.ascontiguousarray(array).reshape(-1), chosen
