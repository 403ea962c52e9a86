"""The brightest cubic centimetre: means over a sphere of 1 cm³ about voxels of the region (IBSI 9ST6)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled
from voxtrial.daemon.radiomics.aggregation import Values
from voxtrial.daemon.volume import Spacing

SPHERE_VOLUME_MM3 = 1000.0
SPHERE_RADIUS_MM = (3 * SPHERE_VOLUME_MM3 / (4 * np.pi)) ** (1 / 3)


def features(image: NDArray[np.float64], mask: NDArray[np.bool_], spacing_mm: Spacing) -> Values:
    """Return the local and the global intensity peak.

    Parameters
    ----------
    image
        (z, y, x) intensities with at least `SPHERE_RADIUS_MM` of surroundings about the region where the
        image has them: spheres reach out of the region, but not out of the image.
    mask
        (z, y, x) intensity mask.

    Notes
    -----
    The local peak is the mean about the brightest voxel; of several equally bright ones the largest mean
    counts. The global peak is the largest mean about any voxel of the region.

    References
    ----------
    Wahl et al. 2009, doi:10.2967/jnumed.108.057307 (SUVpeak).
    """
    means = _sphere_means(np.ascontiguousarray(image, float), mask, _sphere(spacing_mm))
    brightest = image[mask] == image[mask].max()
    return {
        ("Local intensity peak", "VJGA"): float(means[brightest].max()),
        ("Global intensity peak", "0F91"): float(means.max()),
    }


def _sphere(spacing_mm: Spacing) -> NDArray[np.int64]:
    """Return (n, 3) offsets (z, y, x) of the voxels whose centre lies within the sphere."""
    reach = [int(SPHERE_RADIUS_MM // s) for s in spacing_mm]
    axes = [np.arange(-r, r + 1) for r in reach]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = ((offsets * spacing_mm) ** 2).sum(axis=1) <= SPHERE_RADIUS_MM**2
    return np.asarray(offsets[inside], np.int64)


@compiled
def _sphere_means(
    image: NDArray[np.float64], mask: NDArray[np.bool_], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    depth, height, width = image.shape
    means = np.empty(mask.sum())
    found = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not mask[z, y, x]:
                    continue
                total, voxels = 0.0, 0
                for k in range(len(offsets)):
                    z2, y2, x2 = z + offsets[k, 0], y + offsets[k, 1], x + offsets[k, 2]
                    if 0 <= z2 < depth and 0 <= y2 < height and 0 <= x2 < width:
                        total += image[z2, y2, x2]
                        voxels += 1
                means[found] = total / voxels
                found += 1
    return means
