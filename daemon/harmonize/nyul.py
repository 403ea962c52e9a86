"""Match histograms to a stored reference: the standard scale of Nyúl and Udupa.

Learned once from a cohort, the scale is a list of landmarks. Applied, the landmarks of a volume
(percentiles of its foreground) are moved onto those of the scale, linearly in between: a monotone map, so
that the order of intensities is kept.

References
----------
Nyúl, Udupa, Zhang (2000), doi:10.1109/42.836373; Shah et al. (2011), doi:10.1016/j.media.2010.12.003.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.intensity import Region, percentiles

Array = NDArray[Any]

LANDMARKS: tuple[float, ...] = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
"""Percentiles of the foreground (Shah 2011); the outer two leave out noise and vessels."""


@dataclass(frozen=True, kw_only=True)
class StandardScale:
    """Where each percentile of the foreground has to lie.

    Parameters
    ----------
    percentiles
        0 ... 100, rising.
    values
        Intensity of each percentile on the standard scale, rising.
    """

    percentiles: tuple[float, ...] = LANDMARKS
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the landmarks make a monotone map."""
        p, v = np.array(self.percentiles), np.array(self.values)
        if len(p) != len(v) or len(p) < 2:
            raise Misconfigured(f"A scale needs a value for each percentile; {len(v)} stand for {len(p)}.")
        if (np.diff(p) <= 0).any() or p[0] < 0 or p[-1] > 100:
            raise Misconfigured(f"Percentiles rise between 0 and 100; these are {list(self.percentiles)}.")
        if (np.diff(v) <= 0).any():
            raise Misconfigured(f"Values of a standard scale rise; these are {list(self.values)}.")


def standard_scale(
    volumes: Iterable[tuple[Array, Region]],
    *,
    at: Sequence[float] = LANDMARKS,
    ends: tuple[float, float] = (0.0, 100.0),
) -> StandardScale:
    """Learn the standard scale of a cohort.

    Parameters
    ----------
    volumes
        (array, foreground) of every volume, one at a time; foreground None takes all voxels.
    at
        Percentiles that become landmarks.
    ends
        Intensities of the first and the last landmark on the new scale.

    Raises
    ------
    Refused
        ``empty_cohort``; ``constant_intensity`` when a volume's first and last landmark are the same.
    """
    total, n = np.zeros(len(at)), 0
    for array, inside in volumes:
        own = np.array(percentiles(array, at, inside))
        if not own[-1] > own[0]:
            raise Refused("The intensities of a volume of the cohort do not vary.", rule="constant_intensity")
        total += (own - own[0]) / (own[-1] - own[0])
        n += 1
    if n == 0:
        raise Refused("A standard scale needs at least one volume.", rule="empty_cohort")
    values = ends[0] + total / n * (ends[1] - ends[0])
    return StandardScale(percentiles=tuple(map(float, at)), values=tuple(map(float, values)))


def matched(array: Array, scale: StandardScale, inside: Region = None, *, threads: int = 1) -> Array:
    """Return ``array`` with the landmarks of its foreground ``inside`` moved onto ``scale``.

    Beyond the outer landmarks the map goes on with the slope of its first and last part, as Nyúl's does.
    float32, or float64 for float64 input.

    Raises
    ------
    Refused
        ``constant_intensity`` when all landmarks of the volume are the same.
    """
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize import pointwise

    own = np.array(percentiles(array, scale.percentiles, inside))
    values = np.array(scale.values)
    # Landmarks may coincide where many voxels share one value; the map then steps there.
    apart = np.concatenate([[True], np.diff(own) > 0])
    own, values = own[apart], values[apart]
    if len(own) < 2:
        raise Refused("The intensities of the volume do not vary.", rule="constant_intensity")
    slopes = np.diff(values) / np.diff(own)
    offsets = values[:-1] - slopes * own[:-1]
    working = array if array.dtype in (np.int16, np.float32, np.float64) else array.astype(np.float64)
    flat = np.ascontiguousarray(working).reshape(-1)
    out = np.empty(flat.size, np.float64 if flat.dtype == np.float64 else np.float32)
    in_slabs(
        lambda a, b: pointwise.piecewise_linear(flat, own[1:-1], slopes, offsets, out, a, b),
        flat.size,
        threads=threads,
    )
    return out.reshape(array.shape)
