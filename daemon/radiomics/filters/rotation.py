"""Make a filter indifferent to how the patient lay: pool its responses over all right-angle turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Literal

import numpy as np

from voxtrial.daemon.radiomics.filters.convolution import Array

Pooling = Literal["mean", "max", "min"]

_POOL = {"max": np.maximum, "min": np.minimum, "mean": np.add}


def turns(*, in_plane: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (order of axes, axes to flip) of every right-angle rotation: 24 in space, 4 in the slice."""
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            # A permutation with sign changes is a rotation, not a mirroring, when its determinant is 1.
            matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if np.linalg.det(matrix) > 0 and not (in_plane and (order[0] != 0 or signs[0] < 0)):
                yield order, tuple(axis for axis in range(3) if signs[axis] < 0)


def invariant(
    array: Array, respond: Callable[[Array], Array], pooling: Pooling, *, in_plane: bool = False
) -> Array:
    """Return the responses of a filter, pooled over all right-angle rotations of its kernel.

    Parameters
    ----------
    array
        (z, y, x), of equal spacing along the axes that are turned.
    respond
        The filter. Turning the image there and the response back is turning the kernel.
    in_plane
        Turn about z only, for filters that act slice by slice.
    """
    pooled: Array | None = None
    count = 0
    for order, flips in turns(in_plane=in_plane):
        turned = np.flip(array.transpose(order), flips)
        response = np.flip(respond(np.ascontiguousarray(turned)), flips).transpose(np.argsort(order))
        pooled = response.copy() if pooled is None else _POOL[pooling](pooled, response, out=pooled)
        count += 1
    assert pooled is not None
    return pooled / count if pooling == "mean" else pooled
