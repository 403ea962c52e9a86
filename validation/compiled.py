"""Compile the loops of a statistic once per machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


def compiled(function: Compiled) -> Compiled:
    """Compile a function to machine code once and keep the result beside the module.

    Where nothing can be written, as in a read-only container, each process compiles for itself.
    """
    try:
        return cast("Compiled", numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return cast("Compiled", numba.njit(nogil=True)(function))
