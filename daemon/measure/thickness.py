"""Thickness of a layer, point by point, without the half voxel of bias of a plain distance transform.

At a voxel on the middle of the layer the nearest boundary point gives one half; the straight line from
there through the voxel leaves the layer on the other side and gives the rest. Their sum does not depend on
where between the two surfaces the voxel happens to lie. Boundary points stand where the field passes its
level, not at voxel centres.

A label is turned into a signed distance first. Anisotropic grids are brought to their finest spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.resample import array_to_grid, gaussian_blurred, isotropic_grid
from voxtrial.daemon.measure.boundary import all_crossings, cropped
from voxtrial.daemon.volume import Grid

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Thickness:
    """Thickness of a layer along its middle.

    Parameters
    ----------
    points_mm
        (n, 3) LPS mm, points on the middle of the layer.
    values_mm
        (n) thickness there.
    """

    points_mm: NDArray[np.float64]
    values_mm: NDArray[np.float64]

    @property
    def mean_mm(self) -> float:
        """Mean over the middle of the layer."""
        return float(self.values_mm.mean())

    @property
    def maximum_mm(self) -> float:
        """Greatest thickness."""
        return float(self.values_mm.max())

    @property
    def maximum_at_mm(self) -> tuple[float, float, float]:
        """LPS mm of the thickest point."""
        x, y, z = self.points_mm[int(np.argmax(self.values_mm))]
        return float(x), float(y), float(z)

    def percentile_mm(self, q: float) -> float:
        """Percentile ``q`` (0 ... 100) over the middle of the layer."""
        return float(np.percentile(self.values_mm, q))


def thickness(layer: Array, grid: Grid, level: float = 0.5) -> Thickness:
    """Measure the thickness of a layer.

    Parameters
    ----------
    layer
        (z, y, x) bool label, or a field that is at least ``level`` inside: a probability, a partial volume, a
        signed distance.
    grid
        Its lattice.

    Raises
    ------
    Refused
        ``empty_mask`` when nothing is inside; ``no_middle`` when the layer is too thin for the grid.
    """
    from scipy.spatial import cKDTree

    field, grid, level = _smooth_field(layer, grid, level)
    inside = field >= level
    if not inside.any():
        raise Refused("The layer is empty; it has no thickness.", rule="empty_mask")
    box, origin = cropped(field, inside, beyond=float(min(field.min(), level - 1)))
    spacing = np.array(grid.spacing_mm)
    surface = all_crossings(box, level) * spacing
    voxels = np.argwhere(box >= level)
    near, which = map(np.asarray, cKDTree(surface).query(voxels * spacing))
    # A voxel on the boundary itself has no direction.
    kept = near > 1e-6
    voxels, near, which = voxels[kept], near[kept], which[kept]
    direction = (voxels * spacing - surface[which]) / near[:, None]
    far = _way_out(box, level, voxels * spacing, direction, near, spacing)
    # A voxel next to the middle is half a voxel off it: its two ways differ by a whole one.
    middle = np.abs(far - near) <= spacing.min() * (1 + 1e-6)
    if not middle.any():
        raise Refused("The layer is thinner than the grid can carry.", rule="no_middle")
    return Thickness(
        points_mm=grid.world(voxels[middle] + origin.astype(float)), values_mm=(near + far)[middle]
    )


def _smooth_field(layer: Array, grid: Grid, level: float) -> tuple[Array, Grid, float]:
    """Return a field on an isotropic grid, and its level."""
    finest = min(grid.spacing_mm)
    if layer.dtype == bool:
        layer, level = signed_distance_mm(layer, grid), 0.0
    if max(grid.spacing_mm) > 1.01 * finest:
        new = isotropic_grid(grid, finest)
        layer, grid = array_to_grid(layer, grid, new, interpolator="cubic"), new
    return np.asarray(layer, float), grid, level


def signed_distance_mm(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.float64]:
    """Return the distance to the boundary of ``mask``, mm, positive inside, on its own grid.

    The boundary stands half-way between voxels; a light blur takes away their steps. Distances beyond three
    voxels are cut off there: what asks for this field wants to know where the boundary is.
    """
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    spacing = np.array(grid.spacing_mm)
    most = 3 * float(spacing.max())
    signed = np.where(mask, most, -most)
    if mask.any():
        surface = all_crossings(np.pad(mask, 1).astype(float), 0.5) - 1
        padded = np.pad(mask, 1)
        to_edge, to_mask = (distance_transform_edt(side, sampling=spacing) for side in (padded, ~padded))
        rough: Array = to_edge + to_mask
        index = np.argwhere(rough[1:-1, 1:-1, 1:-1] <= most + spacing.max())
        distance, _ = cKDTree(surface * spacing).query(index * spacing)
        band = tuple(index.T)
        signed[band] = np.sign(signed[band]) * np.minimum(distance, most)
    return np.asarray(gaussian_blurred(signed, tuple(0.7 * spacing.min() / spacing)))


def _way_out(
    box: Array, level: float, start: Array, direction: Array, near: Array, spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance, mm, from ``start`` along ``direction`` to where the field falls below its level.

    Followed to two voxels beyond ``near``; what has not left the layer by then is not on its middle:
    infinity.
    """
    from scipy.ndimage import map_coordinates

    step = spacing.min() / 4
    found = np.full(len(start), np.inf)
    # Only the part of the way where the middle can be is walked, in quarters of a voxel.
    first = np.maximum(near - 3 * step, 0.0)
    alive = np.arange(len(start))
    before = _values(map_coordinates, box, start + direction * first[:, None], spacing)
    alive = alive[before >= level]
    before = before[alive]
    for k in range(1, 9):
        at = first[alive] + k * step
        value = _values(map_coordinates, box, start[alive] + direction[alive] * at[:, None], spacing)
        out = value < level
        found[alive[out]] = at[out] - step * (level - value[out]) / (before[out] - value[out])
        alive, before = alive[~out], value[~out]
    return found


def _values(sample: Any, box: Array, points: Array, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sample(box, (points / spacing).T, order=1, mode="nearest"))
