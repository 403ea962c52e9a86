"""Compile the kernels that work on volumes, and spread them over threads when a caller asks.

Kernels release the GIL and run on one thread; :func:`in_slabs` uses more without numba's own thread pool,
which neither survives a fork nor tolerates two callers.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba

from voxtrial.validation.compiled import Kernel, cached


def compiled(kernel: Kernel) -> Kernel:
    """Return ``kernel`` as machine code, cached on disk where that is possible.

    ``fastmath`` stays off: the same input gives the same bits on every machine of the same kind, and NaN
    keeps its meaning. Contraction to fused multiply-add is allowed, as in every compiled library.
    """
    return cached(numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy"), kernel)


def compiled_sum(kernel: Kernel) -> Kernel:
    """Return ``kernel`` as :func:`compiled` does; its sums may run over as many lanes as a register has.

    The order of the terms is settled when the kernel is compiled: the same bits on every machine of the same
    kind, four times as fast. NaN keeps its meaning.
    """
    return cached(numba.njit(nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy"), kernel)


def in_slabs(task: Callable[[int, int], object], length: int, *, threads: int = 1) -> None:
    """Call ``task(begin, end)`` for contiguous parts of ``range(length)``, one part to a thread.

    Parameters
    ----------
    task
        Work on ``begin <= i < end``; parts must be independent. An exception of any part is raised.
    length
        Number of items, e.g. slices.
    threads
        Most threads to use; 1 calls ``task(0, length)`` in the caller's own.
    """
    parts = max(1, min(threads, length))
    if parts == 1:
        task(0, length)
        return
    bounds = [length * i // parts for i in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        for done in [pool.submit(task, a, b) for a, b in pairwise(bounds)]:
            done.result()
