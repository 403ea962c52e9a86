"""Compile kernels once per machine, and never let the cache of machine code stop whoever calls them.

Machine code is kept where numba finds it again: in ``NUMBA_CACHE_DIR`` when that is set, else beside the
source, else in the user's cache folder. A start then costs milliseconds instead of seconds. What can go wrong
with such a folder costs time only: a read-only installation without a home, a full disk or a truncated file
make the kernel compile again in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
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


def cached(compiler: Callable[[Any], Any], kernel: Kernel) -> Kernel:
    """Return ``kernel`` compiled by ``compiler`` (``numba.njit`` with options), cached where possible."""
    dispatcher: Any = compiler(kernel)
    try:
        dispatcher._cache = _ForgivingCache(kernel)  # type: ignore[no-untyped-call]  # numba's own
    except (RuntimeError, OSError):  # no writable folder anywhere
        dispatcher._cache = NullCache()
        logger.info("kernel_cache_absent", extra={"kernel": kernel.__name__})
    machine_code: Kernel = dispatcher
    return machine_code


def compiled(kernel: Kernel) -> Kernel:
    """Return the loop of a statistic as machine code; it releases the GIL and rounds as written."""
    return cached(numba.njit(nogil=True), kernel)
