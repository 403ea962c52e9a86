"""Habitats: parts of a lesion that several sequences together tell apart.

Necrosis, active tumour and oedema overlap in each sequence alone. A mixture of Gaussians over all
sequences, fitted in the lesion's voxels, separates them where their joint distribution does. Habitats are
numbered by rising mean of the first sequence, so that equal input gives equal numbers.

References
----------
McLachlan, Peel (2000), Finite Mixture Models; Schwarz (1978), doi:10.1214/aos/1176344136 (BIC).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.volume import Mask, Volume

_MOST_FITTED = 200_000
"""Voxels that the mixture is fitted on; beyond, a random part of them tells as much."""
_LEAST_PER_HABITAT = 20


@dataclass(frozen=True, kw_only=True)
class Habitats:
    """Partition of a region.

    Parameters
    ----------
    labels
        (z, y, x) uint8: 0 outside the region, else the habitat from 1.
    volumes_ml
        (k) volume of each habitat.
    means
        (k, sequences) mean intensity in the units of the volumes.
    certainty
        Mean posterior probability of the habitat that each voxel was given to.
    bic
        Bayesian information criterion by number of habitats tried.
    """

    labels: NDArray[np.uint8]
    volumes_ml: tuple[float, ...]
    means: NDArray[np.float64]
    certainty: float
    bic: dict[int, float]


def habitats(
    volumes: Sequence[Volume],
    region: Mask,
    count: int | Sequence[int],
    *,
    rng: np.random.Generator,
    threads: int = 1,
) -> Habitats:
    """Divide a region by the joint intensities of several volumes.

    Parameters
    ----------
    volumes
        Sequences on the grid of ``region``.
    count
        Number of habitats, or several of which the least BIC decides.
    rng
        Draws the starting points (and the voxels of the fit, when there are very many).
    threads
        Most threads of the linear algebra.

    Raises
    ------
    Refused
        ``different_grids``; ``region_too_small`` with fewer than 20 voxels for each habitat.
    Misconfigured
        A number of habitats below 1.
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    tried = sorted({count} if isinstance(count, int) else set(count))
    if not volumes or not tried or tried[0] < 1:
        raise Misconfigured(f"Habitats need at least one volume and one habitat; asked were {tried}.")
    for volume in volumes:
        if not volume.grid.agrees_with(region.grid):
            raise Refused(
                "The sequences stand on different grids; resample them first.", rule="different_grids"
            )
    intensities = np.column_stack([v.array[region.array].astype(float) for v in volumes])
    if len(intensities) < _LEAST_PER_HABITAT * tried[-1]:
        raise Refused(
            f"{len(intensities)} voxels are too few for {tried[-1]} habitats of {_LEAST_PER_HABITAT}.",
            rule="region_too_small",
        )
    centre, spread = intensities.mean(axis=0), intensities.std(axis=0)
    scaled = (intensities - centre) / np.where(spread > 0, spread, 1.0)
    fitted = scaled
    if len(scaled) > _MOST_FITTED:
        fitted = scaled[rng.choice(len(scaled), _MOST_FITTED, replace=False)]
    models: dict[int, Any] = {}
    with threadpool_limits(threads):
        for k in tried:
            seed = int(rng.integers(2**31))
            models[k] = GaussianMixture(k, n_init=3, reg_covar=1e-6, random_state=seed).fit(fitted)
        bic = {k: float(model.bic(fitted)) for k, model in models.items()}
        best = models[min(bic, key=lambda k: bic[k])]
        posterior = best.predict_proba(scaled)
    order = np.argsort(best.means_[:, 0], kind="stable")
    given = posterior[:, order].argmax(axis=1)
    labels = np.zeros(region.array.shape, np.uint8)
    labels[region.array] = given + 1
    voxels = np.bincount(given, minlength=len(order))
    return Habitats(
        labels=labels,
        volumes_ml=tuple(float(n) * region.grid.voxel_volume_mm3 / 1000 for n in voxels),
        means=best.means_[order] * spread + centre,
        certainty=float(posterior.max(axis=1).mean()),
        bic=bic,
    )
