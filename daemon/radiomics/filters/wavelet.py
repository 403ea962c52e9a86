"""Separable undecimated wavelets: low or high pass along each axis, at a level (IBSI 25BO)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.convolution import Array, Boundary, separable

Family = Literal["haar", "db2", "db3", "coif1"]

_R3, _R7, _R10 = np.sqrt([3.0, 7.0, 10.0])
_R5 = np.sqrt(5 + 2 * _R10)
LOW_PASS: dict[Family, Array] = {
    "haar": np.array([1, 1]) / np.sqrt(2),
    "db2": np.array([1 - _R3, 3 - _R3, 3 + _R3, 1 + _R3]) / (4 * np.sqrt(2)),
    "db3": np.array(
        [
            1 + _R10 - _R5,
            5 + _R10 - 3 * _R5,
            10 - 2 * _R10 - 2 * _R5,
            10 - 2 * _R10 + 2 * _R5,
            5 + _R10 + 3 * _R5,
            1 + _R10 + _R5,
        ]
    )
    / (16 * np.sqrt(2)),
    "coif1": np.array([_R7 - 3, 1 - _R7, 14 - 2 * _R7, 14 + 2 * _R7, 5 + _R7, 1 - _R7]) / (16 * np.sqrt(2)),
}
"""Analysis low-pass filters; Daubechies with two and three, Coiflet with two vanishing moments."""


def high_pass(low_pass: Array) -> Array:
    """Return the quadrature mirror of a low-pass filter: reversed, every second sign changed."""
    signs = np.where(np.arange(len(low_pass)) % 2, 1.0, -1.0)
    return np.asarray(signs * low_pass[::-1])


def wavelet(array: Array, family: Family, passes: str, level: int, boundary: Boundary) -> Array:
    """Return one sub-band of the undecimated wavelet transform.

    Parameters
    ----------
    passes
        ``L`` or ``H`` along x, y and z, as in ``LLH``; two letters act in the slice only.
    level
        From 1. Each level before it passes low along all axes; kernels of level j have 2^(j-1) - 1 zeros
        after each tap (à trous).

    References
    ----------
    Daubechies 1992, Ten lectures on wavelets, doi:10.1137/1.9781611970104; Shensa 1992,
    doi:10.1109/78.157290.
    """
    if family not in LOW_PASS:
        raise Misconfigured(f'wavelet is "{family}"; choose one of {", ".join(LOW_PASS)}.')
    if len(passes) not in (2, 3) or set(passes) - {"L", "H"} or level < 1:
        message = f'wavelet passes are "{passes}" at level {level}; write L or H for each axis, level from 1.'
        raise Misconfigured(message)
    low = LOW_PASS[family]
    taps = {"L": low, "H": high_pass(low)}
    letters = passes[::-1] if len(passes) == 3 else "-" + passes[::-1]
    response = array
    for step in range(1, level + 1):
        wanted = letters if step == level else letters.replace("H", "L")
        kernels = [np.ones(1) if letter == "-" else spread(taps[letter], step) for letter in wanted]
        response = separable(response, kernels, boundary)
    return response


def spread(taps: Array, level: int) -> Array:
    """Return ``taps`` with 2^(level-1) - 1 zeros after each, the last one included."""
    gap = 2 ** (level - 1)
    kernel = np.zeros(len(taps) * gap)
    kernel[::gap] = taps
    return kernel
