"""Grey level co-occurrence: how often two levels stand side by side (IBSI LFYI)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.radiomics.aggregation import (
    Columns,
    Counts,
    Dimension,
    Matrices,
    Stack,
    Values,
    aggregate_directed,
)


def features(
    levels: NDArray[np.int32], n_levels: int, dimensions: Sequence[Dimension], distance: int = 1
) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of the 25 co-occurrence features.

    Parameters
    ----------
    levels
        (z, y, x) grey levels from 1, 0 outside the region.
    distance
        Chebyshev distance of the neighbours, in voxels.

    References
    ----------
    Haralick, Shanmugam, Dinstein 1973, doi:10.1109/TSMC.1973.4309314.
    """
    voxels = (levels > 0).sum(axis=(1, 2)).astype(float)

    columns = np.arange(1, n_levels + 1, dtype=float)

    def count(directions: NDArray[np.int64], by_slice: bool) -> tuple[Matrices, Columns]:
        pairs = _cooccurrences(levels, directions * distance, n_levels, by_slice)
        return pairs + pairs.swapaxes(2, 3), columns

    return aggregate_directed(dimensions, count, voxels, _statistics)


@compiled
def _cooccurrences(
    levels: NDArray[np.int32], offsets: NDArray[np.int64], n_levels: int, by_slice: bool
) -> NDArray[np.float64]:
    depth, height, width = levels.shape
    counts = np.zeros((depth if by_slice else 1, len(offsets), n_levels, n_levels))
    for z in range(depth):
        s = z if by_slice else 0
        for y in range(height):
            for x in range(width):
                level = levels[z, y, x]
                if level == 0:
                    continue
                for d in range(len(offsets)):
                    z2, y2, x2 = z + offsets[d, 0], y + offsets[d, 1], x + offsets[d, 2]
                    if 0 <= z2 < depth and 0 <= y2 < height and 0 <= x2 < width:
                        other = levels[z2, y2, x2]
                        if other > 0:
                            counts[s, d, level - 1, other - 1] += 1
    return counts


def _statistics(matrices: Matrices, i: Columns, _: Counts) -> Stack:
    """Return the features of k symmetric (levels, levels) matrices; a matrix without pairs gives NaN."""
    n = matrices.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        p = matrices / matrices.sum(axis=(1, 2), keepdims=True)
        p_x = p.sum(axis=2)
        p_difference = np.stack([_diagonal_sum(p, d) * (1 if d == 0 else 2) for d in range(n)], axis=1)
        mirrored = p[:, :, ::-1]
        p_sum = np.stack([_diagonal_sum(mirrored, n - 1 - s) for s in range(2 * n - 1)], axis=1)

        k_difference, k_sum = np.arange(n, dtype=float), np.arange(2, 2 * n + 1, dtype=float)
        mean = p_x @ i
        variance = (p_x * (i - mean[:, None]) ** 2).sum(axis=1)
        difference_average = p_difference @ k_difference
        sum_average = p_sum @ k_sum
        centred_sum = k_sum - 2 * mean[:, None]
        autocorrelation = np.einsum("kij,i,j->k", p, i, i)

        entropy = _entropy(p)
        entropy_x = _entropy(p_x)
        # p is symmetric: both information measures need the entropy of one margin only.
        entropy_1 = 2 * entropy_x
        entropy_2 = entropy_1
        return {
            ("Joint maximum", "GYBY"): p.max(axis=(1, 2)),
            ("Joint average", "60VM"): mean,
            ("Joint variance", "UR99"): variance,
            ("Joint entropy", "TU9B"): entropy,
            ("Difference average", "TF7R"): difference_average,
            ("Difference variance", "D3YU"): (
                p_difference * (k_difference - difference_average[:, None]) ** 2
            ).sum(axis=1),
            ("Difference entropy", "NTRS"): _entropy(p_difference),
            ("Sum average", "ZGXS"): sum_average,
            ("Sum variance", "OEEB"): (p_sum * (k_sum - sum_average[:, None]) ** 2).sum(axis=1),
            ("Sum entropy", "P6QZ"): _entropy(p_sum),
            ("Angular second moment", "8ZQL"): (p**2).sum(axis=(1, 2)),
            ("Contrast", "ACUI"): p_difference @ k_difference**2,
            ("Dissimilarity", "8S9J"): difference_average,
            ("Inverse difference", "IB1Z"): p_difference @ (1 / (1 + k_difference)),
            ("Normalised inverse difference", "NDRX"): p_difference @ (1 / (1 + k_difference / n)),
            ("Inverse difference moment", "WF0Z"): p_difference @ (1 / (1 + k_difference**2)),
            ("Normalised inverse difference moment", "1QCO"): p_difference
            @ (1 / (1 + k_difference**2 / n**2)),
            ("Inverse variance", "E8JP"): p_difference[:, 1:] @ (1 / k_difference[1:] ** 2),
            ("Correlation", "NI2N"): (autocorrelation - mean**2) / variance,
            ("Autocorrelation", "QWB0"): autocorrelation,
            ("Cluster tendency", "DG8W"): (p_sum * centred_sum**2).sum(axis=1),
            ("Cluster shade", "7NFM"): (p_sum * centred_sum**3).sum(axis=1),
            ("Cluster prominence", "AE86"): (p_sum * centred_sum**4).sum(axis=1),
            ("Information correlation 1", "R8DG"): (entropy - entropy_1) / entropy_x,
            ("Information correlation 2", "JN9H"): np.sqrt(
                np.maximum(0, 1 - np.exp(-2 * (entropy_2 - entropy)))
            ),
        }


def _diagonal_sum(p: Matrices, offset: int) -> NDArray[np.float64]:
    return np.asarray(p.diagonal(offset, axis1=1, axis2=2).sum(axis=1))


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in bits over all axes but the first."""
    return np.asarray(-xlogy(p, p).reshape(len(p), -1).sum(axis=1) / np.log(2))
