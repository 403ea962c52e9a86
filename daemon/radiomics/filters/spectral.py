"""Filters that are defined by their transfer function: Simoncelli's wavelet and the Riesz transform.

``exact`` takes the frequency of a Fourier coefficient where it lies, k/n cycles a voxel: responses to plane
waves are those of the formula. ``ibsi`` spreads the frequencies of an axis evenly from -1/2 to 1/2, both ends
included, which gives the consensus values of IBSI 2 and those of MIRP: of an odd number of voxels each
frequency is n / (n - 1) times as large, of an even number none is 0.

References
----------
Whybra et al. (2024), doi:10.1148/radiol.231319.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial, prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary, padded

Frequencies = Literal["exact", "ibsi"]


def simoncelli(
    array: Array,
    level: int,
    boundary: Boundary,
    *,
    riesz_order: Sequence[int] | None = None,
    in_plane: bool = False,
    frequencies: Frequencies = "exact",
) -> Array:
    """Return the isotropic band-pass response of a level (IBSI PRT7), Riesz transformed where asked.

    Parameters
    ----------
    level
        From 1, the finest; each level halves the frequencies of the band.
    riesz_order
        Order along (z, y, x); see `riesz_transfer`.
    frequencies
        Of the Fourier coefficients; see the module.

    References
    ----------
    Portilla, Simoncelli 2000, doi:10.1023/A:1026553619983.
    """
    if level < 1:
        raise Misconfigured(f"level of the Simoncelli wavelet is {level}; levels count from 1.")

    def transfer(along: Sequence[Array]) -> NDArray[np.number]:
        band = simoncelli_transfer(norm(along), level)
        return band if riesz_order is None else band * riesz_transfer(along, riesz_order)

    return respond(array, transfer, boundary, in_plane=in_plane, frequencies=frequencies)


def riesz(array: Array, order: Sequence[int], boundary: Boundary, *, in_plane: bool = False) -> Array:
    """Return one component of the Riesz transform (IBSI AYRS): directional, without a scale of its own."""

    def transfer(frequencies: Sequence[Array]) -> NDArray[np.number]:
        return riesz_transfer(frequencies, order)

    return respond(array, transfer, boundary, in_plane=in_plane)


def simoncelli_transfer(frequency: Array, level: int) -> Array:
    """Return cos(pi/2 log2(2 f / b)) for b/4 < f < b, else 0, with b = 2^-level cycles a voxel."""
    band = 0.5**level
    inside = (frequency > band / 4) & (frequency < band)
    transfer = np.zeros(frequency.shape)
    transfer[inside] = np.cos(np.pi / 2 * np.log2(2 * frequency[inside] / band))
    return transfer


def riesz_transfer(frequencies: Sequence[Array], order: Sequence[int]) -> NDArray[np.complex128]:
    """Return (-i)^L sqrt(L! / (l1! l2! l3!)) f1^l1 f2^l2 f3^l3 / |f|^L, zero at frequency 0.

    Parameters
    ----------
    frequencies
        Frequencies along (z, y, x), broadcastable.
    order
        (l1, l2, l3) along (z, y, x); L is their sum. The components of one L preserve the energy.

    References
    ----------
    Unser, Van De Ville 2010, doi:10.1109/TIP.2009.2038832.
    """
    if len(order) != 3 or min(order) < 0 or sum(order) < 1:
        raise Misconfigured(f"Riesz order is {tuple(order)}; write three orders along z, y, x, not all zero.")
    total = sum(order)
    length = norm(frequencies)
    length[length == 0] = np.inf
    weight = (-1j) ** total * np.sqrt(factorial(total) / prod(factorial(n) for n in order))
    direction = prod((f / length) ** n for f, n in zip(frequencies, order, strict=True))
    return np.asarray(weight * direction)


def respond(
    array: Array,
    transfer: Callable[[Sequence[Array]], NDArray[np.number]],
    boundary: Boundary,
    *,
    in_plane: bool = False,
    frequencies: Frequencies = "exact",
) -> Array:
    """Multiply the spectrum of ``array`` by ``transfer`` of the frequencies along (z, y, x), cycles a voxel.

    Notes
    -----
    The filters of this module have no finite support. The image is continued by half its size to all sides as
    ``boundary`` says; a periodic one needs no continuation.
    """
    margin = [0 if boundary == "periodic" else (n + 1) // 2 for n in array.shape]
    if in_plane:
        margin[0] = 0
    wide = padded(array, margin, boundary)
    axes = (1, 2) if in_plane else (0, 1, 2)
    along = [
        (_of_coefficients(n, frequencies) if axis in axes else np.zeros(1)).reshape(
            [-1 if i == axis else 1 for i in range(3)]
        )
        for axis, n in enumerate(wide.shape)
    ]
    response = fft.ifftn(fft.fftn(wide, axes=axes) * transfer(along), axes=axes).real
    inner = tuple(slice(m, m + n) for m, n in zip(margin, array.shape, strict=True))
    return np.ascontiguousarray(response[inner])


def _of_coefficients(n: int, frequencies: Frequencies) -> Array:
    """Return the frequencies of ``n`` Fourier coefficients, cycles a voxel, in the order of the transform."""
    if frequencies == "exact" or n == 1:
        return np.asarray(fft.fftfreq(n))
    return np.asarray(fft.ifftshift(np.linspace(-0.5, 0.5, n)))


def norm(frequencies: Sequence[Array]) -> Array:
    """Return the length of the frequency vectors."""
    return np.asarray(np.sqrt(sum(f**2 for f in frequencies)))
