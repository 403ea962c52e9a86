"""Volume of a mask or of a probability, in millilitres."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.volume import Grid, Mask


def volume_ml(mask: Mask) -> float:
    """Return the number of voxels of ``mask`` times the volume of one, ml; 0 for an empty mask."""
    return int(np.count_nonzero(mask.array)) * mask.grid.voxel_volume_mm3 / 1000


def expected_volume_ml(probability: NDArray[Any], grid: Grid) -> float:
    """Return sum(p) dV, ml: the expected volume of a region whose voxels belong to it with ``probability``.

    Partial volume counts in part, so that the result does not jump where a threshold would.
    """
    return float(probability.sum(dtype=np.float64)) * grid.voxel_volume_mm3 / 1000


def equivalent_diameter_mm(volume: float) -> float:
    """Return the diameter, mm, of the sphere of ``volume`` ml."""
    return 2.0 * math.cbrt(3000 * volume / (4 * math.pi))
