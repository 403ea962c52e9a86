"""The model-free baselines: a cut that the histogram chooses (Otsu), or one that is given.

References
----------
Otsu 1979, doi:10.1109/TSMC.1979.4310076.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured, Refused

TIE_TOLERANCE = 1e-12
"""Relative; between-class variances closer than this are equal, and rounding does not decide."""


def otsu_threshold(array: NDArray[Any], *, bins: int = 512) -> float:
    """Return the cut with the largest between-class variance; the upper class lies above it.

    Parameters
    ----------
    array
        Intensities, any shape.
    bins
        Equal bins between the smallest and the largest intensity; the cut is the centre of a bin.

    Raises
    ------
    Refused
        All intensities are equal, rule ``no_contrast``.

    Notes
    -----
    Every cut in an empty gap of the histogram is equally good. The lowest of them is taken.
    """
    low, high = float(array.min()), float(array.max())
    if not low < high:
        raise Refused(f"All intensities equal {low:g}; a threshold needs two classes", rule="no_contrast")
    counts, edges = np.histogram(array, bins=bins, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(float)
    above = array.size - below
    moment = np.cumsum(counts * centres)
    mean_below = moment[:-1] / below
    mean_above = (moment[-1] - moment[:-1]) / above
    between = below * above * (mean_below - mean_above) ** 2
    first = np.flatnonzero(between >= between.max() * (1 - TIE_TOLERANCE))[0]
    return float(centres[first])


def otsu(array: NDArray[Any], parameters: dict[str, Any]) -> NDArray[np.bool_]:
    """Return where ``array`` lies above Otsu's cut; ``parameters``: ``bins``."""
    return np.asarray(array > otsu_threshold(array, bins=int(parameters.get("bins", 512))))


def threshold(array: NDArray[Any], parameters: dict[str, Any]) -> NDArray[np.bool_]:
    """Return where ``array`` reaches a fixed cut.

    ``parameters`` hold either ``low`` (in the unit of the image) or ``relative_to_maximum`` (0.41 for 41 % of
    SUVmax).
    """
    match parameters:
        case {"low": int() | float() as low}:
            cut = float(low)
        case {"relative_to_maximum": float() as fraction}:
            cut = fraction * float(array.max())
        case _:
            raise Misconfigured("engine.parameters of a threshold model must hold low or relative_to_maximum")
    return np.asarray(array >= cut)
