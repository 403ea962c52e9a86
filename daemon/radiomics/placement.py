"""Move the grid that a region is interpolated on, as if the patient had lain elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voxtrial.daemon.radiomics.crop import Index
from voxtrial.daemon.volume import Grid


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the voxels of a region fall on the patient, other than configured: for tests of stability.

    Parameters
    ----------
    shift_voxels
        Shift of the grid along (z, y, x), in its voxels.
    rotation_degrees
        Turn of the grid in the plane of the slices about the middle of the region, from y towards x.
    """

    shift_voxels: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_degrees: float = 0.0

    def __bool__(self) -> bool:
        """Whether the grid moves at all."""
        return bool(any(self.shift_voxels) or self.rotation_degrees)

    def moved(self, grid: Grid, centre: Index) -> Grid:
        """Return ``grid`` turned about its (fractional) index ``centre`` and shifted."""
        angle = np.radians(self.rotation_degrees)
        cosine, sine = np.cos(angle), np.sin(angle)
        unit = grid.affine[:3, :3] / np.array(grid.spacing_mm)
        turn = unit @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ unit.T
        affine = grid.affine.copy()
        affine[:3, :3] = turn @ affine[:3, :3] if self.rotation_degrees else affine[:3, :3]
        start = centre - np.array(self.shift_voxels)
        affine[:3, 3] = grid.world(centre) - affine[:3, :3] @ start
        return Grid(shape=grid.shape, affine=affine)
