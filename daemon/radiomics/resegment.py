"""Which voxels of a region keep their say in the intensities: a range, and three-sigma outliers.

Re-segmentation changes the intensity mask only; the morphological mask stays as it was drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resegment(
    image: NDArray[np.float64],
    mask: NDArray[np.bool_],
    *,
    intensity_range: tuple[float, float] | None = None,
    outlier_sigma: float | None = None,
) -> NDArray[np.bool_]:
    """Return the intensity mask of the region ``mask``.

    Parameters
    ----------
    image, mask
        (z, y, x).
    intensity_range
        Closed interval; ``inf`` leaves a side open.
    outlier_sigma
        Keep mean ± this many standard deviations of the region as it was drawn.

    Notes
    -----
    Both rules together keep the intersection of their ranges: mean and standard deviation are those of the
    whole region, not of what the range leaves.

    References
    ----------
    IBSI IF9H: range USB3, outliers 7ACA.
    """
    kept = mask.copy()
    if intensity_range is not None:
        low, high = intensity_range
        kept &= (image >= low) & (image <= high)
    if outlier_sigma is not None:
        inside = image[mask]
        reach = outlier_sigma * inside.std()
        kept &= np.abs(image - inside.mean()) <= reach
    return kept
