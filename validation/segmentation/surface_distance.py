"""Distances between the surfaces of two masks, in mm, by the two definitions in use.

Border voxels: centres of the mask's voxels that a face-connected erosion removes, each counted once (MONAI,
MedPy, Metrics Reloaded). Surface elements: pieces of the marching-cubes surface on the dual grid, each
weighted by its area (surface-distance). The numbers differ; a report names which one it prints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from voxtrial.validation.segmentation.surface_kernels import (
    Indices,
    Octets,
    border_voxels,
    nearest_in_rows,
    surface_elements,
)
from voxtrial.validation.segmentation.surfels import surface_element_areas
from voxtrial.validation.tables import Floats

ROUNDING = 1e-9
"""A distance counts as within a tolerance that it exceeds by this share: 3 x 0.7 mm is within 2.1 mm."""

ROWS = 400
"""Grid rows visited around a point before the k-d tree takes over: about eleven voxels in each direction."""


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """Distance of every surface point to the nearest of the other mask, ascending, with its weight.

    Parameters
    ----------
    from_reference, from_test
        Directed distances, mm; both masks have a surface.
    reference_weight, test_weight
        Area of each surface element in mm², or 1 for a border voxel.
    """

    from_reference: Floats
    from_test: Floats
    reference_weight: Floats
    test_weight: Floats

    @property
    def pooled(self) -> Floats:
        """Distances of both directions together."""
        return np.concatenate([self.from_reference, self.from_test])

    @property
    def maximum(self) -> float:
        """Hausdorff distance: the larger of the two directed maxima, mm."""
        return float(max(self.from_reference[-1], self.from_test[-1]))

    def percentile_of_directed(self, percent: float) -> float:
        """Return the larger of the two directed percentiles (linear interpolation), mm."""
        return float(max(np.percentile(d, percent) for d in (self.from_reference, self.from_test)))

    def percentile_pooled(self, percent: float) -> float:
        """Return the percentile of both directions together (linear interpolation), mm."""
        return float(np.percentile(self.pooled, percent))

    def percentile_by_area(self, percent: float) -> float:
        """Return the larger of the two distances within which ``percent`` of each surface's area lies, mm."""
        reached = []
        for distance, weight in (
            (self.from_reference, self.reference_weight),
            (self.from_test, self.test_weight),
        ):
            share = np.cumsum(weight) / weight.sum()
            place = np.searchsorted(share, percent / 100)
            reached.append(distance[min(int(place), distance.size - 1)])
        return float(max(reached))

    @property
    def mean_from_reference(self) -> float:
        """Weighted mean distance of the reference surface to the test surface, mm."""
        return float(np.average(self.from_reference, weights=self.reference_weight))

    @property
    def mean_from_test(self) -> float:
        """Weighted mean distance of the test surface to the reference surface, mm."""
        return float(np.average(self.from_test, weights=self.test_weight))

    def share_within(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces within a tolerance: the surface Dice (NSD)."""
        limit = tolerance_mm * (1 + ROUNDING)
        within = (
            self.reference_weight[: np.searchsorted(self.from_reference, limit, "right")].sum()
            + self.test_weight[: np.searchsorted(self.from_test, limit, "right")].sum()
        )
        return float(within / (self.reference_weight.sum() + self.test_weight.sum()))


def border_distances(
    reference: Octets, test: Octets, box: Indices, spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Return the distances between border voxels of two (z, y, x) masks, none of them empty."""
    a, b = (border_voxels(mask, box) for mask in (reference, test))
    return _distances(a, b, np.ones(len(a)), np.ones(len(b)), box, spacing_mm)


def surface_element_distances(
    reference: Octets, test: Octets, box: Indices, spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Return the distances between surface elements of two (z, y, x) masks, none of them empty.

    References
    ----------
    Nikolov S et al. J Med Internet Res 2021;23:e26151. doi:10.2196/26151 (arXiv:1809.04430).
    """
    areas = surface_element_areas(spacing_mm)
    (a, pattern_a), (b, pattern_b) = (surface_elements(mask, box) for mask in (reference, test))
    return _distances(a, b, areas[pattern_a], areas[pattern_b], box, spacing_mm)


def _distances(
    a: Indices,
    b: Indices,
    weight_a: Floats,
    weight_b: Floats,
    box: Indices,
    spacing_mm: tuple[float, float, float],
) -> SurfaceDistances:
    a_to_b, b_to_a = _nearest(a, b, box, spacing_mm), _nearest(b, a, box, spacing_mm)
    order_a, order_b = np.argsort(a_to_b), np.argsort(b_to_a)
    return SurfaceDistances(
        from_reference=a_to_b[order_a],
        from_test=b_to_a[order_b],
        reference_weight=weight_a[order_a],
        test_weight=weight_b[order_b],
    )


def _nearest(
    points: Indices, targets: Indices, box: Indices, spacing_mm: tuple[float, float, float]
) -> Floats:
    """Return the distance of each grid point to the nearest target, mm.

    Near targets are found by visiting the rows of the grid around the point; what is farther than all of the
    visited rows is left to a k-d tree, whose cost hardly grows with the distance.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    steps, squares = _rows_by_distance(float(spacing[0]), float(spacing[1]))
    distances = np.sqrt(nearest_in_rows(points, targets, box, spacing, steps, squares))
    far = np.isinf(distances)
    if far.any():
        tree = KDTree(targets * spacing, balanced_tree=False, compact_nodes=False)
        distances[far] = tree.query(points[far] * spacing)[0]
    return distances


def _rows_by_distance(step_z: float, step_y: float) -> tuple[Indices, Floats]:
    """Return the ``ROWS`` nearest rows of a grid as offsets (z, y), and their squared distances in mm²."""
    reach_z, reach_y = (
        min(ROWS, int(np.ceil(np.sqrt(ROWS * other / own))))
        for own, other in ((step_z, step_y), (step_y, step_z))
    )
    z, y = np.mgrid[-reach_z : reach_z + 1, -reach_y : reach_y + 1]
    squares = ((z * step_z) ** 2 + (y * step_y) ** 2).ravel()
    order = np.argsort(squares, kind="stable")[:ROWS]
    return np.column_stack([z.ravel()[order], y.ravel()[order]]), squares[order]
