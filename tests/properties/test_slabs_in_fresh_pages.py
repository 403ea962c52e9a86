"""Pages are taken by writing into them: nothing that was computed may be lost, whatever the slabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import axial_grid
from scipy import ndimage

from voxtrial.daemon import compiled
from voxtrial.daemon.harmonize.intensity import zscore
from voxtrial.daemon.harmonize.resample import array_to_grid
from voxtrial.daemon.pages import take_pages

PAGE = 2 << 20

seeds = st.integers(0, 2**32 - 1)
steps = st.floats(0.02, 1.3)
starts = st.floats(-1, 3)
orders = st.integers(1, 9).flatmap(lambda n: st.permutations(range(n)))


@contextmanager
def slabs_done_in(order: list[int]) -> Iterator[None]:
    """Run as many slabs as ``order`` has, one to its end before the next: the worst that threads can do."""

    def one_by_one(task: Callable[[int, int], object], length: int, *, threads: int = 1) -> None:
        assert threads == len(order)
        bounds = list(pairwise(length * i // threads for i in range(threads + 1)))
        for k in order:
            task(*bounds[k])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiled, "in_slabs", one_by_one)
        yield


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from([np.int16, np.float32, np.float64]),
    begins_at_byte=st.integers(0, PAGE),
    every=st.sampled_from([1, 1, 3, -1]),
    data=st.data(),
)
def test_pages_are_taken_from_ones_own_entries_alone(
    dtype: type[np.number[Any]], begins_at_byte: int, every: int, data: st.DataObject
) -> None:
    """Views of any stride, at addresses that are no multiple of the size of an entry."""
    memory = np.full(4 * PAGE, 1, np.uint8)
    whole = np.frombuffer(
        memory, dtype, (memory.size - begins_at_byte) // np.dtype(dtype).itemsize, begins_at_byte
    )
    flat = whole[::every]
    stop = data.draw(st.integers(0, flat.size))
    end = data.draw(st.integers(0, stop))
    begin = data.draw(st.integers(0, end))
    take_pages(flat, begin, end, stop)
    written = np.flatnonzero(flat == 0)
    assert ((written >= begin) & (written < stop)).all()
    assert np.count_nonzero(whole == 0) == written.size
    if every == 1 and begin < end:
        first, last = ((flat.ctypes.data + i * flat.itemsize) // PAGE for i in (begin, end - 1))
        assert written.size in (last - first + 1, last - first + 2)


@settings(max_examples=20, deadline=None)
@given(
    dtype=st.sampled_from([np.int16, np.float32, np.float64]),
    shape=st.tuples(st.integers(9, 16), st.integers(1, 300), st.integers(1, 300)),
    step=st.tuples(steps, steps, steps),
    start=st.tuples(starts, starts, starts),
    order=orders,
    seed=seeds,
)
def test_no_slab_clears_what_another_has_interpolated(
    dtype: type[np.number[Any]],
    shape: tuple[int, int, int],
    step: tuple[float, float, float],
    start: tuple[float, float, float],
    order: list[int],
    seed: int,
) -> None:
    """scipy's values; all lie between 1 and 2, so that a cleared one is far off."""
    source = axial_grid((6, 23, 37), (1.0, 1.0, 1.0), (0, 0, 0))
    target = axial_grid(shape, step, start[::-1])
    array = np.random.default_rng(seed).integers(1, 3, source.shape).astype(dtype)
    expected = ndimage.affine_transform(
        array.astype(float), np.array(step), start, output_shape=shape, order=1, mode="nearest"
    )
    with slabs_done_in(order):
        found = array_to_grid(array, source, target, threads=len(order))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(array_to_grid(array, source, target, threads=len(order)), found)


@settings(max_examples=20, deadline=None)
@given(
    dtype=st.sampled_from([np.int16, np.float32, np.float64]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 400), st.integers(2, 400)),
    order=orders,
    seed=seeds,
)
def test_no_slab_clears_what_another_has_standardised(
    dtype: type[np.number[Any]], shape: tuple[int, int, int], order: list[int], seed: int
) -> None:
    """The formula of numpy inside, the fill outside."""
    rng = np.random.default_rng(seed)
    array = rng.normal(300, 100, shape).astype(dtype)
    inside = rng.random(shape) < 0.7
    inside.flat[:2], array.flat[:2] = True, (100, 200)
    values = array[inside].astype(float)
    expected = np.where(inside, (array - values.mean()) / values.std(), -7.0)
    with slabs_done_in(order):
        found = zscore(array, inside, fill=-7.0, threads=len(order))
    np.testing.assert_allclose(found, expected, atol=2e-5)
