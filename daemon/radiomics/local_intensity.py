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
    means = _sphere_means(np.ascontiguousarray(image, float), mask, _rows(spacing_mm))
    brightest = image[mask] == image[mask].max()
    return {
        ("Local intensity peak", "VJGA"): float(means[brightest].max()),
        ("Global intensity peak", "0F91"): float(means.max()),
    }


def _rows(spacing_mm: Spacing) -> NDArray[np.int64]:
    """Return the sphere as rows (z, y, half-width along x) of voxels whose centres lie within it."""
    reach_z, reach_y = (int(SPHERE_RADIUS_MM // s) for s in spacing_mm[:2])
    z, y = np.mgrid[-reach_z : reach_z + 1, -reach_y : reach_y + 1].reshape(2, -1)
    left = SPHERE_RADIUS_MM**2 - (z * spacing_mm[0]) ** 2 - (y * spacing_mm[1]) ** 2
    half = np.floor(np.sqrt(np.maximum(left, 0)) / spacing_mm[2]).astype(np.int64)
    return np.ascontiguousarray(np.stack([z, y, half], axis=1)[left >= 0], np.int64)


@compiled
def _sphere_means(
    image: NDArray[np.float64], mask: NDArray[np.bool_], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean over the part of the sphere that lies in the image, about each voxel of the mask.

    A running sum along x makes every row of the sphere one difference.
    """
    depth, height, width = image.shape
    running = np.zeros((depth, height, width + 1))
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                running[z, y, x + 1] = running[z, y, x] + image[z, y, x]
    means = np.empty(mask.sum())
    found = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if not mask[z, y, x]:
                    continue
                total, voxels = 0.0, 0
                for k in range(len(rows)):
                    z2, y2 = z + rows[k, 0], y + rows[k, 1]
                    if 0 <= z2 < depth and 0 <= y2 < height:
                        begin, end = max(x - rows[k, 2], 0), min(x + rows[k, 2] + 1, width)
                        total += running[z2, y2, end] - running[z2, y2, begin]
                        voxels += end - begin
                means[found] = total / voxels
                found += 1
    return means
