"""Convolve beyond the border: what lies outside the image is decided, not left to a library's default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from voxtrial.daemon.errors import Misconfigured

Array = NDArray[np.float64]
Boundary = Literal["zero", "nearest", "periodic", "mirror"]
"""Outside the image are zeros, the value at the border, the image again, or its mirror image, which begins
with the border voxel itself."""

_PAD_MODE: dict[Boundary, Literal["constant", "edge", "wrap", "symmetric"]] = {
    "zero": "constant",
    "nearest": "edge",
    "periodic": "wrap",
    "mirror": "symmetric",
}
FFT_FROM = 512
"""Voxels of a kernel from which the Fourier transform is faster than adding shifted images."""


def padded(array: Array, margin: Sequence[int], boundary: Boundary) -> Array:
    """Return ``array`` with ``margin`` voxels more at both ends of each axis."""
    if boundary not in _PAD_MODE:
        raise Misconfigured(f'boundary is "{boundary}"; choose one of {", ".join(_PAD_MODE)}.')
    return np.pad(np.asarray(array, float), [(m, m) for m in margin], mode=_PAD_MODE[boundary])


def convolve(array: Array, kernel: NDArray[np.number], boundary: Boundary) -> NDArray[np.number]:
    """Return the convolution of ``array`` with ``kernel``, on the voxels of ``array``.

    Parameters
    ----------
    array
        (z, y, x).
    kernel
        Same number of axes, real or complex. Its centre is the voxel n // 2; a kernel of even length thus
        counts as one with a zero appended.
    """
    margin = [n // 2 for n in kernel.shape]
    wide = padded(array, margin, boundary)
    # Appending the zero makes every length odd, and both margins the same.
    odd = np.pad(kernel, [(0, 1 - n % 2) for n in kernel.shape])
    if odd.size < FFT_FROM:
        return _by_shifts(wide, odd, array.shape)
    # Axes along which the kernel is one voxel need no transform.
    axes = [axis for axis, n in enumerate(odd.shape) if n > 1]
    shape = [fft.next_fast_len(wide.shape[axis]) for axis in axes]
    product = fft.fftn(wide, shape, axes) * fft.fftn(odd, shape, axes)
    full = fft.ifftn(product, axes=axes, overwrite_x=True)
    inner = full[tuple(slice(2 * m, 2 * m + n) for m, n in zip(margin, array.shape, strict=True))]
    return np.ascontiguousarray(inner if np.iscomplexobj(kernel) else inner.real)


def separable(array: Array, kernels: Sequence[Array], boundary: Boundary) -> Array:
    """Return the convolution with the outer product of ``kernels``, one for each axis."""
    response = np.asarray(array, float)
    for axis, kernel in enumerate(kernels):
        shape = [1] * response.ndim
        shape[axis] = len(kernel)
        response = np.asarray(convolve(response, kernel.reshape(shape), boundary), float)
    return response


def _by_shifts(wide: Array, kernel: NDArray[np.number], shape: tuple[int, ...]) -> NDArray[np.number]:
    response = np.zeros(shape, np.result_type(wide, kernel))
    for index in np.ndindex(*kernel.shape):
        weight = kernel[index]
        if weight:
            begin = [n - 1 - i for n, i in zip(kernel.shape, index, strict=True)]
            part = tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))
            response += weight * wide[part]
    return response
