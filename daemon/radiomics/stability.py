"""Disturb image and region as a second scan or a second reader would, and see which features stay.

Whole-grid shifts and turns, noise, growing and shrinking, and randomised contours stand in for a test-retest
study when there is only one scan of each patient; agreement is the intraclass correlation over patients.

References
----------
Zwanenburg et al. 2019, Assessing robustness of radiomic features by image perturbation,
doi:10.1038/s41598-018-36938-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.configuration import Configuration
from voxtrial.daemon.radiomics.crop import box, extent
from voxtrial.daemon.radiomics.extract import extract
from voxtrial.daemon.radiomics.placement import Placement
from voxtrial.daemon.volume import Mask, Spacing, Volume
from voxtrial.validation.agreement.icc import intraclass_correlations

SURROUNDINGS_MM = 25.0
"""Tissue about the region that supervoxels are made of."""
SUPERVOXEL_ML = 0.5
ALWAYS_INSIDE, NEVER_INSIDE = 0.9, 0.2
"""Overlap with the region from which a supervoxel surely belongs to it, and below which it never does."""

AGREEMENT = 1e-12
"""Relative difference up to which two values of a feature are the same one, summed in another order."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """One way to disturb a case; parts that are left out disturb nothing.

    Parameters
    ----------
    noise
        Standard deviation of added Gaussian noise, in the unit of the image; None adds none.
    placement
        Shift and turn of the voxel grid.
    volume_change
        Growth of the region as a fraction of its volume; negative shrinks it.
    randomise_contour
        Redraw the border from supervoxels that may or may not belong to the region.
    """

    noise: float | None = None
    placement: Placement = field(default_factory=Placement)
    volume_change: float = 0.0
    randomise_contour: bool = False

    def apply(self, volume: Volume, mask: Mask, rng: np.random.Generator) -> tuple[Volume, Mask]:
        """Return the disturbed image and region; ``placement`` takes effect later, in the interpolation."""
        if self.noise is not None:
            volume = volume.with_array(volume.array + rng.normal(0, self.noise, volume.array.shape))
        if self.volume_change:
            mask = resized(mask, self.volume_change)
        if self.randomise_contour:
            mask = with_random_contour(volume, mask, rng)
        return volume, mask


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Agreement of one feature over perturbations: ICC(1,1) with its interval; NaN where it is undefined."""

    family: str
    feature: str
    ibsi_id: str
    aggregation_id: str
    icc: float
    ci_low: float
    ci_high: float


def stability(
    cases: Sequence[tuple[Volume, Mask]],
    perturbations: Sequence[Perturbation],
    configuration: Configuration,
    rng: np.random.Generator,
    *,
    families: Sequence[str] = (),
    confidence: float = 0.95,
    report_progress: Callable[[int], None] = lambda _: None,
) -> tuple[Stability, ...]:
    """Return the intraclass correlation of every feature over the perturbations of every case.

    Parameters
    ----------
    cases
        At least two patients: an ICC is about telling them apart.
    perturbations
        At least two; ``Perturbation()`` is the case as it is.
    report_progress
        Called with the number of extractions that are done.

    Notes
    -----
    A feature that is undefined for one case has no ICC. The one-way form is used: perturbations of different
    cases have nothing in common that could be called a rater.
    """
    if len(cases) < 2 or len(perturbations) < 2:
        message = (
            f"An ICC needs two cases and two perturbations; there are {len(cases)} and {len(perturbations)}."
        )
        raise Misconfigured(message)
    ratings, keys = [], []
    for case, (volume, mask) in enumerate(cases):
        row = []
        for k, perturbation in enumerate(perturbations):
            disturbed = perturbation.apply(volume, mask, rng)
            found = extract(*disturbed, configuration, families=families, placement=perturbation.placement)
            keys = list(found)
            row.append([feature.value for feature in found])
            report_progress(case * len(perturbations) + k + 1)
        ratings.append(row)
    values = np.moveaxis(np.array(ratings), 2, 0)
    defined = ~np.isnan(values).any(axis=(1, 2))
    values = np.where(defined[:, None, None], values, 0.0)
    form = intraclass_correlations(values, confidence)["icc1_1"]
    # Sums of squares cancel to rounding error, not to zero, where perturbations agree: say what is meant.
    spread = np.ptp(values, axis=2) / np.maximum(np.abs(values).max(axis=2), np.finfo(float).tiny)
    agreed = (spread <= AGREEMENT).all(axis=1) & (np.ptp(values[:, :, 0], axis=1) > 0)
    estimates = np.where(agreed, 1.0, form.estimate)
    return tuple(
        Stability(
            family=key.family,
            feature=key.feature,
            ibsi_id=key.ibsi_id,
            aggregation_id=key.aggregation_id,
            icc=float(estimates[i]) if defined[i] else float("nan"),
            ci_low=float(form.ci_low[i]) if defined[i] else float("nan"),
            ci_high=float(form.ci_high[i]) if defined[i] else float("nan"),
        )
        for i, key in enumerate(keys)
    )


def usual_perturbations(noise: float) -> tuple[Perturbation, ...]:
    """Return a moderate set: the case as it is, then shifts, turns, noise, sizes and contours.

    Parameters
    ----------
    noise
        Standard deviation of the noise to add; see `noise_level`.
    """
    shifts = ((0.25, 0.25, 0.25), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75))
    return (
        Perturbation(),
        *(Perturbation(placement=Placement(shift_voxels=shift)) for shift in shifts),
        *(Perturbation(placement=Placement(rotation_degrees=angle)) for angle in (-5.0, 5.0)),
        *(Perturbation(noise=noise) for _ in range(2)),
        *(Perturbation(volume_change=change) for change in (-0.1, 0.1)),
        *(Perturbation(randomise_contour=True) for _ in range(2)),
    )


def noise_level(volume: Volume) -> float:
    """Return the standard deviation of the noise in an image, from the finest diagonal detail of its slices.

    Notes
    -----
    Median absolute Haar coefficient / 0.6745: structure has little diagonal detail, noise as much as any.

    References
    ----------
    Donoho, Johnstone 1994, doi:10.1093/biomet/81.3.425.
    """
    a = volume.array.astype(float)
    a = a[:, : a.shape[1] // 2 * 2, : a.shape[2] // 2 * 2]
    detail = (a[:, ::2, ::2] - a[:, 1::2, ::2] - a[:, ::2, 1::2] + a[:, 1::2, 1::2]) / 2
    return float(np.median(np.abs(detail)) / 0.6745)


def resized(mask: Mask, volume_change: float) -> Mask:
    """Return the region with its volume changed by a fraction, voxels added or taken at the border first.

    Notes
    -----
    Voxels are ordered by their signed distance to the border in mm; the number of voxels is exact.
    """
    voxels = round(mask.array.sum() * (1 + volume_change))
    depth = _signed_distance(mask.array, mask.spacing_mm)
    if not 0 < voxels <= depth.size:
        raise Misconfigured(f"A volume change of {volume_change} leaves {voxels} voxels.")
    deepest = np.argpartition(-depth, voxels - 1, axis=None)[:voxels]
    array = np.zeros(mask.array.shape, bool)
    array.flat[deepest] = True
    return replace(mask, array=array)


def with_random_contour(volume: Volume, mask: Mask, rng: np.random.Generator) -> Mask:
    """Return the region redrawn along supervoxels of similar intensity.

    Notes
    -----
    A supervoxel that lies in the region by at least 0.9 of its voxels belongs to it, one by less than 0.2
    does not; in between it belongs with a probability equal to that fraction.
    """
    from skimage.segmentation import slic

    spacing = np.array(volume.spacing_mm)
    near = box(*extent(mask.array), np.ceil(SURROUNDINGS_MM / spacing), mask.array.shape)
    image, inside = volume.array[near].astype(float), mask.array[near]
    low, high = np.percentile(image, [1, 99])
    scaled = np.clip((image - low) / (high - low), 0, 1) if high > low else np.zeros_like(image)
    segments = max(round(image.size * spacing.prod() / 1000 / SUPERVOXEL_ML), 1)
    labels = slic(
        scaled,
        n_segments=segments,
        compactness=0.05,
        spacing=tuple(spacing),
        channel_axis=None,
        start_label=0,
    )
    overlap = np.bincount(labels.ravel(), inside.ravel()) / np.maximum(np.bincount(labels.ravel()), 1)
    chosen = (overlap >= ALWAYS_INSIDE) | ((overlap >= NEVER_INSIDE) & (rng.random(len(overlap)) < overlap))
    array = np.zeros(mask.array.shape, bool)
    array[near] = chosen[labels]
    # A region smaller than its supervoxels may draw none of them; it then keeps its own contour.
    return replace(mask, array=array) if array.any() else mask


def _signed_distance(mask: NDArray[np.bool_], spacing_mm: Spacing) -> NDArray[np.float64]:
    """Distance in mm to the other side of the border, positive inside."""
    inside = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return np.asarray(inside - outside)
