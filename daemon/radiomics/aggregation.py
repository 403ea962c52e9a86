"""Ways from many texture matrices (one a slice, one a direction) to one value, with their IBSI identifiers.

Matrices with a direction (GLCM, GLRLM) know six ways, the others three:

=======  =============================  =====================================
         matrices with a direction      matrices without
=======  =============================  =====================================
2D       BTW3 averaged, SUJT merged     8QNN averaged over slices
         over directions in a slice
2.5D     JJUI merged over slices,       62GR merged over slices
         ZW7Z merged over all
3D       ITBB averaged, IAZD merged     KOBO
=======  =============================  =====================================

References
----------
Zwanenburg et al., Image biomarker standardisation initiative, reference manual, arXiv:1612.07003.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Dimension = Literal["2D", "2.5D", "3D"]
FeatureKey = tuple[str, str]
"""(name, IBSI identifier) of a feature, both as the IBSI reference manual prints them."""
Values = dict[FeatureKey, float]
Stack = dict[FeatureKey, NDArray[np.float64]]
"""One value a matrix: arrays of shape (k,)."""

# One of each pair of opposite directions (z, y, x); the other is its mirror image.
DIRECTIONS_2D = np.array([[0, 0, 1], [0, 1, -1], [0, 1, 0], [0, 1, 1]], np.int64)
DIRECTIONS_3D = np.array(
    [
        [0, 0, 1],
        [0, 1, -1],
        [0, 1, 0],
        [0, 1, 1],
        [1, -1, -1],
        [1, -1, 0],
        [1, -1, 1],
        [1, 0, -1],
        [1, 0, 0],
        [1, 0, 1],
        [1, 1, -1],
        [1, 1, 0],
        [1, 1, 1],
    ],
    np.int64,
)

Matrices = NDArray[np.float64]
"""(k, levels, columns) counts, or (slices, directions, levels, columns) before they are merged."""
Columns = NDArray[np.float64]
"""(columns,) value of the property that each column of a matrix counts."""
Counts = NDArray[np.float64]
Statistics = Callable[[Matrices, Columns, Counts], Stack]
"""From k matrices, their columns and the (k,) voxels that each was counted over to one value a matrix."""


def aggregate_directed(
    dimensions: Sequence[Dimension],
    count: Callable[[NDArray[np.int64], bool], tuple[Matrices, Columns]],
    voxels_per_slice: Counts,
    statistics: Statistics,
) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of a family whose matrices have a direction.

    Parameters
    ----------
    count
        ``count(directions, by_slice)`` returns (slices, directions, levels, columns) counts, with one slice
        that stands for the volume where not ``by_slice``, and the columns.
    voxels_per_slice
        (z,) voxels of the region.
    """
    if "2D" in dimensions or "2.5D" in dimensions:
        directions = len(DIRECTIONS_2D)
        matrices, columns = count(DIRECTIONS_2D, True)
        used = voxels_per_slice > 0
        matrices, voxels = matrices[used], voxels_per_slice[used]
        if "2D" in dimensions:
            each = matrices.reshape(-1, *matrices.shape[2:])
            yield "BTW3", _mean(statistics(each, columns, np.repeat(voxels, directions)))
            yield "SUJT", _mean(statistics(matrices.sum(axis=1), columns, voxels * directions))
        if "2.5D" in dimensions:
            total = voxels.sum()
            by_direction = matrices.sum(axis=0)
            yield "JJUI", _mean(statistics(by_direction, columns, np.full(directions, total)))
            merged = by_direction.sum(axis=0, keepdims=True)
            yield "ZW7Z", _mean(statistics(merged, columns, np.array([total * directions])))
    if "3D" in dimensions:
        directions = len(DIRECTIONS_3D)
        matrices, columns = count(DIRECTIONS_3D, False)
        by_direction, total = matrices[0], voxels_per_slice.sum()
        yield "ITBB", _mean(statistics(by_direction, columns, np.full(directions, total)))
        merged = by_direction.sum(axis=0, keepdims=True)
        yield "IAZD", _mean(statistics(merged, columns, np.array([total * directions])))


def aggregate_undirected(
    dimensions: Sequence[Dimension],
    count: Callable[[bool], tuple[Matrices, Columns]],
    voxels_per_slice: Counts,
    statistics: Statistics,
) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of a family whose matrices have no direction.

    Parameters
    ----------
    count
        ``count(by_slice)`` returns (slices, levels, columns) counts with neighbours in the slice only, or
        (1, levels, columns) with neighbours in the volume, and the columns.
    voxels_per_slice
        (z,) voxels of the region.
    """
    total = voxels_per_slice.sum(keepdims=True)
    if "2D" in dimensions or "2.5D" in dimensions:
        used = voxels_per_slice > 0
        matrices, columns = count(True)
        if "2D" in dimensions:
            yield "8QNN", _mean(statistics(matrices[used], columns, voxels_per_slice[used]))
        if "2.5D" in dimensions:
            yield "62GR", _mean(statistics(matrices.sum(axis=0, keepdims=True), columns, total))
    if "3D" in dimensions:
        matrices, columns = count(False)
        yield "KOBO", _mean(statistics(matrices, columns, total))


def _mean(stack: Stack) -> Values:
    """Average over the matrices for which a feature is defined; NaN where it is for none."""
    means = {}
    for key, values in stack.items():
        defined = values[~np.isnan(values)]
        means[key] = float(defined.mean()) if defined.size else float("nan")
    return means
