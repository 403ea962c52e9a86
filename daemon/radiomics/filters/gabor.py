"""Gabor filters: stripes of one wavelength and direction under a Gaussian window, in planes (IBSI Q88H)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary, convolve

TRUNCATION = 6.0
"""Reach of the kernel in standard deviations of its longer side; beyond, the window is below 2e-8."""


def gabor(
    array: Array,
    *,
    sigma_mm: float,
    wavelength_mm: float,
    aspect_ratio: float,
    spacing_mm: float,
    boundary: Boundary,
    theta: float = 0.0,
    rotation_step: float | None = None,
    orthogonal_planes: bool = False,
) -> Array:
    """Return the modulus of the complex Gabor response, averaged over directions and planes as asked.

    Parameters
    ----------
    array
        (z, y, x), voxels of ``spacing_mm`` in the planes that are filtered.
    sigma_mm, wavelength_mm
        Standard deviation of the window across the stripes, and distance of the stripes.
    aspect_ratio
        Standard deviation across the stripes divided by that along them.
    theta
        Direction across the stripes, radians from x towards y.
    rotation_step
        Average over theta, theta + step, ... through the full circle.
    orthogonal_planes
        Average over axial, coronal and sagittal planes.
    """
    directions = [theta]
    if rotation_step is not None:
        steps = round(2 * np.pi / rotation_step)
        if steps < 1 or not np.isclose(steps * rotation_step, 2 * np.pi):
            raise Misconfigured(f"rotation_step {rotation_step} does not divide the full circle of 2 pi.")
        directions = [theta + k * rotation_step for k in range(steps)]
    kernels = [
        kernel(sigma_mm / spacing_mm, wavelength_mm / spacing_mm, aspect_ratio, angle) for angle in directions
    ]
    # A plane is named by the axis that it stands on; kernels have the axes (second, first) of the plane.
    planes = (0, 1, 2) if orthogonal_planes else (0,)
    response = np.zeros(array.shape)
    for axis in planes:
        for flat in kernels:
            response += np.abs(convolve(array, np.expand_dims(flat, axis), boundary))
    return response / (len(planes) * len(kernels))


def kernel(sigma: float, wavelength: float, aspect_ratio: float, theta: float) -> NDArray[np.complex128]:
    """Return exp(-(u² + g² v²) / 2 s²) exp(2 pi i u / wavelength) over (y, x), all lengths in voxels."""
    reach = int(np.ceil(TRUNCATION * sigma * max(1.0, 1 / aspect_ratio)))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    u = x * np.cos(theta) + y * np.sin(theta)
    v = -x * np.sin(theta) + y * np.cos(theta)
    window = np.exp(-(u**2 + (aspect_ratio * v) ** 2) / (2 * sigma**2))
    return np.asarray(window * np.exp(2j * np.pi * u / wavelength))
