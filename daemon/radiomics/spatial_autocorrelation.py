"""Moran's I and Geary's C: whether near voxels resemble each other more than far ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from voxtrial.daemon.radiomics.crop import box, extent

Spectrum = NDArray[np.complex128]

MAXIMUM_SPECTRUM = 2**26
"""Voxels of the transforms up to which every pair of voxels counts: 1.5 GB, a cube of 40 cm at 2 mm."""


def moran_and_geary(
    image: NDArray[np.float64], mask: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> tuple[float, float]:
    """Return Moran's I and Geary's C over all pairs of voxels, weighted by their inverse distance.

    Parameters
    ----------
    image, mask
        (z, y, x).
    spacing
        (3,) voxel size, mm.

    Notes
    -----
    The weight w depends on the displacement alone. A sum of w over n² pairs is then a sum over the spectrum
    (Parseval) of the transform of w times those of mask and intensities: exact, in n log n steps.

    Regions beyond `MAXIMUM_SPECTRUM` are sampled at every `stride`-th voxel. Without variation, and without a
    pair, both are NaN.

    References
    ----------
    IBSI N365 (Moran 1950, doi:10.1093/biomet/37.1-2.17), NPT7 (Geary 1954, doi:10.2307/2986645).
    """
    step = stride(mask)
    near = box(*extent(mask), 0, mask.shape)
    inside = mask[near][::step, ::step, ::step].astype(float)
    n = inside.sum()
    if n < 2:
        return float("nan"), float("nan")
    values = image[near][::step, ::step, ::step]
    x = np.where(inside > 0, values - values[inside > 0].mean(), 0.0)
    total_square = float((x**2).sum())
    if total_square == 0:
        return float("nan"), float("nan")
    shape = _spectrum_shape(inside.shape)
    kernel = _kernel(shape, spacing * step)
    of_mask = fft.rfftn(inside, shape)
    weight = _pair_sum(kernel, of_mask, of_mask)
    square_terms = _pair_sum(kernel, of_mask, fft.rfftn(x**2, shape))
    of_x = fft.rfftn(x, shape)
    products = _pair_sum(kernel, of_x, of_x)
    moran = n / weight * products / total_square
    geary = (n - 1) / weight * (square_terms - products) / total_square
    return float(moran), float(geary)


def stride(mask: NDArray[np.bool_]) -> int:
    """Return the step along each axis at which a region is sampled: 1, unless it is very large."""
    sides = np.array([s.stop - s.start for s in box(*extent(mask), 0, mask.shape)])
    step = 1
    while np.prod(_spectrum_shape(tuple(-(-sides // step)))) > MAXIMUM_SPECTRUM:
        step += 1
    return step


def _spectrum_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Twice the size at least: the ends do not meet; the last axis is even, as `_kernel` needs."""
    return tuple(2 * fft.next_fast_len(int(size), real=True) for size in shape)


def _kernel(shape: tuple[int, ...], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform of the weights, so that a sum over this half of the spectrum is one over the whole."""
    z, y, x = (np.minimum(np.arange(m), m - np.arange(m)) * s for m, s in zip(shape, spacing, strict=True))
    distance = np.sqrt((z**2)[:, None, None] + (y**2)[:, None] + x**2)
    distance[0, 0, 0] = np.inf
    kernel = fft.rfftn(np.reciprocal(distance, out=distance), overwrite_x=True).real / distance.size
    kernel[..., 1:-1] *= 2
    return np.asarray(kernel)


def _pair_sum(kernel: NDArray[np.float64], a: Spectrum, b: Spectrum) -> float:
    """Sum over pairs (i, j) of w(i - j) a(i) b(j), from the transforms of all three."""
    product = a.real * b.real
    product += a.imag * b.imag
    return float(np.vdot(kernel, product))
