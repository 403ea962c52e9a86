"""A 3 x 3 x 3 dilated convolution for networks of a few channels.

Libraries store 16 channels at a time; a network with five then pays for sixteen in and sixteen out. Here
every row of the image is one vector, and the channels are the loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled, in_slabs

MOST_PRODUCTS = 64
"""Input times output channels up to which this is faster than the blocked kernels."""


def convolve(
    padded: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    dilation: int,
    answer: NDArray[np.float32],
    *,
    threads: int = 1,
) -> None:
    """Fill ``answer`` (outputs, z, y, x) with the valid convolution of ``padded``.

    Parameters
    ----------
    padded
        (inputs, z + 2 d, y + 2 d, x + 2 d) for dilation d.
    weight, bias
        (outputs, inputs, 3, 3, 3), as torch stores it, and (outputs,).
    """
    in_slabs(
        lambda begin, end: _rows(padded, weight, bias, dilation, answer, begin, end),
        answer.shape[1],
        threads=threads,
    )


@compiled
def _rows(
    padded: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any],
    dilation: int,
    answer: NDArray[Any],
    begin: int,
    end: int,
) -> None:
    """Fill the planes ``begin <= z < end`` of ``answer``, row by row, in a fixed order of summation."""
    outputs, inputs = weight.shape[0], weight.shape[1]
    height, width = answer.shape[2], answer.shape[3]
    sums = np.empty((outputs, width), np.float32)
    for z in range(begin, end):
        for y in range(height):
            for o in range(outputs):
                sums[o, :] = bias[o]
            for i in range(inputs):
                for kz in range(3):
                    for ky in range(3):
                        row = padded[i, z + kz * dilation, y + ky * dilation]
                        left = row[:width]
                        middle = row[dilation : dilation + width]
                        right = row[2 * dilation : 2 * dilation + width]
                        for o in range(outputs):
                            a = weight[o, i, kz, ky, 0]
                            b = weight[o, i, kz, ky, 1]
                            c = weight[o, i, kz, ky, 2]
                            total = sums[o]
                            for x in range(width):
                                total[x] += a * left[x] + b * middle[x] + c * right[x]
            for o in range(outputs):
                answer[o, z, y, :] = sums[o]
