"""Mix neighbouring samples of a row, sixteen results at once.

Sixteen neighbouring results of an interpolation need few samples of the row: 22 for a step of 1.25 and two
weights. Where all of them fit in two registers of AVX-512, one permutation of registers picks the sixteen
that belong to one weight; fetching them one by one from memory ("gather") takes four times as long. Other
machines, double precision and steps too wide for two registers fetch.

References
----------
Intel Intrinsics Guide: VPERMI2PS, VGATHERDPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core import cgutils as numba_cgutils
from numba.core import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

from voxtrial.daemon.compiled import compiled

Array = NDArray[Any]
cgutils: Any = numba_cgutils
ir: Any = cgutils.ir
"""The language that numba's compiler takes, llvmlite's."""
LANES = 16
"""Single precision numbers in one register of AVX-512."""
_REACH = 2 * LANES
"""Samples that one permutation can pick from."""


def _machine_permutes() -> bool:
    """Whether kernels are compiled for a machine with AVX-512."""
    return "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]


Samples = tuple[Array, Array, Array, bool]
"""The fields of :class:`Blocks`, as the kernels take them."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A banded operator along a row, cut into blocks of sixteen results; the last block is padded.

    Parameters
    ----------
    base
        (blocks,) first sample that a block needs.
    first
        (blocks * 16,) first sample that each result needs.
    weights
        (width, blocks * 16).
    narrow
        Whether every block needs no more samples than two registers hold, of a machine that has them.
    """

    base: NDArray[np.uint32]
    first: NDArray[np.uint32]
    weights: Array
    narrow: bool

    @classmethod
    def of(cls, first: NDArray[np.int64], weights: Array) -> Blocks:
        """Return the operator with rows of ``weights`` (n, width) from the samples ``first`` (n,) on."""
        padding = -len(first) % LANES
        padded = np.pad(first, (0, padding), mode="edge").reshape(-1, LANES)
        base = padded.min(axis=1)
        reach = int((padded.max(axis=1) - base).max()) + weights.shape[1]
        return cls(
            base=base.astype(np.uint32),
            first=padded.ravel().astype(np.uint32),
            weights=np.ascontiguousarray(np.pad(weights, ((0, padding), (0, 0))).T),
            narrow=reach <= _REACH and weights.dtype == np.float32 and _machine_permutes(),
        )

    @property
    def samples(self) -> Samples:
        """What :func:`fetched` and :func:`permuted` take."""
        return self.base, self.first, self.weights, self.narrow


@compiled
def fetched(row: Array, samples: Samples, out: Array, at: int) -> None:
    """Write sum_k weights[k, j] * row[first[j] + k] to ``out[at + j]`` for all j, padding included.

    ``row`` has 32 entries more than samples, ``out`` is flat and has room for the padding; entries beyond the
    samples are never used.
    """
    _, first, weights, _ = samples
    width, n = weights.shape
    target = out[at : at + n]
    one, two, three = np.uint32(1), np.uint32(2), np.uint32(3)
    if width == 2:
        for j in range(n):
            f = first[j]
            target[j] = weights[0, j] * row[f] + weights[1, j] * row[f + one]
    elif width == 4:
        for j in range(n):
            f = first[j]
            target[j] = (weights[0, j] * row[f] + weights[1, j] * row[f + one]) + (
                weights[2, j] * row[f + two] + weights[3, j] * row[f + three]
            )
    else:
        for j in range(n):
            target[j] = weights[0, j] * row[first[j]]
        for k in range(1, width):
            for j in range(n):
                target[j] += weights[k, j] * row[first[j] + np.uint32(k)]


def _block_type(
    _typing: Any, row: Any, base: Any, first: Any, weights: Any, j: Any, out: Any, to: Any
) -> tuple[Any, Any]:
    """Return the type of :data:`_mix_block` for these arguments, and what writes its instructions."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        if signature.args[0].dtype != types.float32 or not _machine_permutes():
            return context.get_dummy_value()  # compiled, never called: no such block is narrow
        numbers, indices = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)
        position = ir.IntType(64)
        rows, starts, factors, results = (
            context.make_array(signature.args[i])(context, builder, given[i]) for i in (0, 2, 3, 5)
        )
        begin = builder.zext(given[1], position)

        def at(array: Any, index: Any, kind: Any) -> Any:
            return builder.bitcast(builder.gep(array.data, [index]), kind.as_pointer())

        def spread(number: Any) -> Any:
            one = builder.insert_element(
                ir.Constant(indices, ir.Undefined), number, ir.Constant(number.type, 0)
            )
            return builder.shuffle_vector(one, one, ir.Constant(indices, [0] * LANES))

        low = builder.load(at(rows, begin, numbers), align=4)
        high = builder.load(at(rows, builder.add(begin, position(LANES)), numbers), align=4)
        pick = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(numbers, [numbers, indices, numbers]),
            "llvm.x86.avx512.vpermi2var.ps.512",
        )
        offset = builder.sub(builder.load(at(starts, given[4], indices), align=4), spread(given[1]))
        index = cgutils.alloca_once_value(builder, offset)
        total = cgutils.alloca_once_value(builder, ir.Constant(numbers, [0.0] * LANES))
        width, columns = (builder.extract_value(factors.shape, i) for i in (0, 1))
        with cgutils.for_range(builder, width) as weight:
            picked = builder.call(pick, [low, builder.load(index), high])
            column = builder.add(builder.mul(weight.index, columns), given[4])
            factor = builder.load(at(factors, column, numbers), align=4)
            product = builder.fmul(factor, picked, flags=["contract"])
            builder.store(builder.fadd(builder.load(total), product, flags=["contract"]), total)
            following = builder.add(builder.load(index), ir.Constant(indices, [1] * LANES))
            builder.store(following, index)
        builder.store(builder.load(total), at(results, given[6], numbers), align=4)
        return context.get_dummy_value()

    return types.void(row, base, first, weights, j, out, to), generate


_mix_block: Any = intrinsic(_block_type)
"""Write the sixteen results of the block that begins at column ``j`` to ``out[to ...]``."""


@compiled
def permuted(row: Array, samples: Samples, out: Array, at: int) -> None:
    """Mix as :func:`fetched` does, for blocks that are narrow."""
    base, first, weights, _ = samples
    for block in range(base.shape[0]):
        _mix_block(row, base[block], first, weights, block * LANES, out, at + block * LANES)


_CACHE_LINE = 64
"""Bytes that the machine fetches at once."""
_SECOND_CACHE = 2
"""The level of ``llvm.prefetch`` that spares the nearest cache."""


def _prefetch_type(_typing: Any, volume: Any, plane: Any, row: Any) -> tuple[Any, Any]:
    """Return the type of :data:`prefetched` for these arguments, and what writes its instructions."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        samples = context.make_array(signature.args[0])(context, builder, given[0])
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        by_plane, by_row, _ = cgutils.unpack_tuple(builder, samples.strides)
        start = builder.add(builder.mul(given[1], by_plane), builder.mul(given[2], by_row))
        begin = builder.gep(builder.bitcast(samples.data, byte), [start])
        ask = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
            "llvm.prefetch.p0i8",
        )
        line = ir.Constant(by_row.type, _CACHE_LINE)
        with cgutils.for_range_slice(builder, ir.Constant(by_row.type, 0), by_row, line) as (at, _count):
            builder.call(ask, [builder.gep(begin, [at]), number(0), number(_SECOND_CACHE), number(1)])
        return context.get_dummy_value()

    return types.void(volume, types.int64, types.int64), generate


prefetched: Any = intrinsic(_prefetch_type)
"""Ask the memory for ``volume[plane, row]``, contiguous along the row; a row beyond the end is no fault."""
