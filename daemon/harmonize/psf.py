"""How sharp a scanner is: the spread of its edges, and the blur that makes two scanners equally sharp.

Equal grids do not make images equal: a soft kernel on 1 mm voxels stays soft. The spread is measured where
the body meets the air, slice by slice, as the standard deviation of a Gaussian whose integral fits the
edge.

    10-90 % rise = 2.563 sigma,  full width at half maximum = 2.355 sigma,  matching blur = sqrt(wanted² -
    own²)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.resample import gaussian_blurred
from voxtrial.daemon.volume import Volume
from voxtrial.validation.comparability import RISE, blur_between_mm

Array = NDArray[Any]

FWHM = math.sqrt(8 * math.log(2))
_REACH_MM = 6.0
"""How far a profile goes on both sides of the edge."""
_MOST_PROFILES = 400
_LEAST_PROFILES = 20


@dataclass(frozen=True, kw_only=True)
class EdgeSpread:
    """In-plane sharpness of a series.

    Parameters
    ----------
    sigma_mm
        Median over the profiles.
    quartiles_mm
        First and third quartile over the profiles.
    profiles
        Number of edges that a Gaussian fits.
    """

    sigma_mm: float
    quartiles_mm: tuple[float, float]
    profiles: int

    @property
    def rise_mm(self) -> float:
        """10-90 % rise."""
        return RISE * self.sigma_mm

    @property
    def fwhm_mm(self) -> float:
        """Full width at half maximum of the line spread."""
        return FWHM * self.sigma_mm


def fit_edge(position_mm: Array, value: Array) -> tuple[float, float]:
    """Fit low + (high - low) Phi((x - centre) / sigma) to one profile.

    Returns
    -------
    sigma_mm, residual
        The residual is the root mean square distance from the fit in units of the height of the edge.
    """
    from scipy.optimize import least_squares
    from scipy.special import ndtr

    low, high = float(value.min()), float(value.max())
    height = max(high - low, 1e-12)
    scaled = (value - low) / height
    middle = float(position_mm[np.argmin(np.abs(scaled - 0.5))])

    def distance(p: Array) -> Array:
        return np.asarray(p[0] + p[1] * ndtr((position_mm - p[2]) / np.exp(p[3])) - scaled)

    rising = 1.0 if scaled[-1] > scaled[0] else -1.0
    found = least_squares(distance, [scaled[0], rising, middle, 0.0], method="lm", max_nfev=200)
    fitted_height = abs(found.x[1])
    residual = math.sqrt(2 * found.cost / len(scaled)) / max(fitted_height, 1e-12)
    return float(np.exp(found.x[3])), residual


def edge_spread(volume: Volume, *, level: float | None = None, seed: int = 0) -> EdgeSpread:
    """Measure the in-plane edge spread where the body meets the air.

    Parameters
    ----------
    level
        Intensity of the surface; None takes the middle between the median below and above Otsu's threshold.
    seed
        Which profiles are drawn when there are more than enough.

    Raises
    ------
    Refused
        ``no_edges`` when fewer than 20 profiles look like an edge.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    array = volume.array.astype(np.float32)
    if level is None:
        level = _middle_level(array)
    spacing = volume.spacing_mm[1:]
    rng = np.random.default_rng(seed)
    offsets = np.arange(-_REACH_MM, _REACH_MM + 1e-9, min(spacing) / 2)
    sigmas: list[float] = []
    for z in rng.permutation(array.shape[0]):
        plane = array[z]
        smooth = gaussian_filter(plane, 2.0 / np.array(spacing))
        slope = np.stack([np.gradient(smooth, s, axis=k) for k, s in enumerate(spacing)])
        inside = plane >= level
        edge = np.argwhere(inside[1:-1, 1:-1] & ~(inside[:-2, 1:-1] & inside[2:, 1:-1])) + 1
        for point in rng.permutation(edge)[: max(1, _MOST_PROFILES // 8)]:
            steepness = slope[:, point[0], point[1]]
            size = np.linalg.norm(steepness)
            if size == 0:
                continue
            where = point[:, None] + (steepness / size)[:, None] * offsets / np.array(spacing)[:, None]
            if (where < 0).any() or (where > np.array(plane.shape)[:, None] - 1).any():
                continue
            sigma, residual = fit_edge(offsets, map_coordinates(plane, where, order=5, mode="mirror"))
            if residual < 0.05 and sigma < _REACH_MM / 2:
                sigmas.append(sigma)
        if len(sigmas) >= _MOST_PROFILES:
            break
    if len(sigmas) < _LEAST_PROFILES:
        raise Refused(
            f"{len(sigmas)} edges of the body fit a Gaussian; sharpness needs {_LEAST_PROFILES}.",
            rule="no_edges",
        )
    first, median, third = np.percentile(sigmas, [25, 50, 75])
    return EdgeSpread(sigma_mm=float(median), quartiles_mm=(float(first), float(third)), profiles=len(sigmas))


def matching_blur_mm(own_sigma_mm: float, wanted_sigma_mm: float) -> float:
    """Return sigma of the Gaussian blur, mm, that takes one edge spread to a softer one.

    Raises
    ------
    Refused
        ``sharper_than_acquired``: blur cannot be undone.
    """
    if own_sigma_mm > wanted_sigma_mm * (1 + 1e-9):
        raise Refused(
            f"The images have an edge spread of {own_sigma_mm:.2f} mm, softer than the common "
            f"{wanted_sigma_mm:.2f} mm; sharpening would invent detail.",
            rule="sharper_than_acquired",
        )
    return blur_between_mm(own_sigma_mm, wanted_sigma_mm)


def blurred(volume: Volume, sigma_mm: float, *, threads: int = 1) -> Volume:
    """Return ``volume`` blurred in its slices by a Gaussian of ``sigma_mm``."""
    _, y, x = volume.spacing_mm
    array = gaussian_blurred(volume.array, (0.0, sigma_mm / y, sigma_mm / x), threads=threads)
    return volume.with_array(array)


def _middle_level(array: Array) -> float:
    from skimage.filters import threshold_otsu

    cut = threshold_otsu(array.ravel(), nbins=512)
    return float((np.median(array[array <= cut]) + np.median(array[array > cut])) / 2)
