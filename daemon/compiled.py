"""Compile numerical kernels once per machine, and never let the cache of machine code stop a job.

Machine code is kept where numba finds it again: in ``NUMBA_CACHE_DIR`` when that is set, else beside the
source, else in the user's cache folder. A start then costs milliseconds instead of seconds. What can go wrong
with such a folder costs time only: a read-only installation without a home, a full disk or a truncated file
make the kernel compile again in memory.

Kernels release the GIL and run on one thread; :func:`in_slabs` spreads them over more when a caller asks,
without numba's own thread pool, which neither survives a fork nor tolerates two callers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache, NullCache

logger = logging.getLogger(__name__)

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class _ForgivingCache(FunctionCache):
    """numba's file cache, minus the right to fail the caller."""

    def load_overload(self, sig: object, target_context: object) -> object:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]  # numba's own
        except Exception as error:  # a truncated pickle may raise anything; compiling again is right
            logger.warning("kernel_cache_unreadable", extra={"folder": self.cache_path, "error": repr(error)})
            return None

    def save_overload(self, sig: object, data: object) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]  # numba's own
        except Exception as error:  # saving first reads the index, which may be the damaged file
            logger.warning("kernel_cache_unwritable", extra={"folder": self.cache_path, "error": repr(error)})


def compiled(kernel: Kernel) -> Kernel:
    """Return ``kernel`` as machine code, cached on disk where that is possible.

    ``fastmath`` stays off: the same input gives the same bits on every machine of the same kind, and NaN
    keeps its meaning. Contraction to fused multiply-add is allowed, as in every compiled library.
    """
    dispatcher: Any = numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")(kernel)
    try:
        dispatcher._cache = _ForgivingCache(kernel)  # type: ignore[no-untyped-call]  # numba's own
    except (RuntimeError, OSError):  # no writable folder anywhere
        dispatcher._cache = NullCache()
        logger.info("kernel_cache_absent", extra={"kernel": kernel.__name__})
    machine_code: Kernel = dispatcher
    return machine_code


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
