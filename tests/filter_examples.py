"""Images that filters have closed forms for, and every filter with settings to try it by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.radiomics.filters.convolution import Boundary
from voxtrial.daemon.radiomics.filters.gabor import gabor
from voxtrial.daemon.radiomics.filters.laplacian_of_gaussian import laplacian_of_gaussian
from voxtrial.daemon.radiomics.filters.laws import laws
from voxtrial.daemon.radiomics.filters.mean import mean
from voxtrial.daemon.radiomics.filters.spectral import simoncelli
from voxtrial.daemon.radiomics.filters.wavelet import wavelet

Array = NDArray[np.float64]
ISOTROPIC = (1.0, 1.0, 1.0)
BOUNDARIES: tuple[Boundary, ...] = ("zero", "nearest", "periodic", "mirror")

EVERY_FILTER: dict[str, Callable[[Array, Boundary], Array]] = {
    "mean": lambda a, b: mean(a, 5, b),
    "log": lambda a, b: laplacian_of_gaussian(a, 1.5, ISOTROPIC, b),
    "laws": lambda a, b: laws(a, "L5E5S5", b),
    "gabor": lambda a, b: gabor(
        a, sigma_mm=2, wavelength_mm=4, aspect_ratio=0.5, spacing_mm=1, boundary=b, orthogonal_planes=True
    ),
    "wavelet": lambda a, b: wavelet(a, "db2", "LLH", 2, b),
    "simoncelli": lambda a, b: simoncelli(a, 2, b),
    "riesz": lambda a, b: simoncelli(a, 1, b, riesz_order=(0, 1, 1)),
}


def impulse(n: int = 33) -> Array:
    array = np.zeros((n, n, n))
    array[n // 2, n // 2, n // 2] = 1
    return array


def checkerboard(n: int = 16) -> Array:
    """Return (-1)^(x + y + z)."""
    return 1.0 - 2.0 * (np.indices((n, n, n)).sum(axis=0) % 2)
