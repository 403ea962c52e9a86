"""Grids are exact arithmetic, whatever their angle, spacing and shape."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from phantoms import oblique_grid

from voxtrial.daemon.harmonize.resample import array_to_grid, isotropic_grid, orientation, reoriented
from voxtrial.daemon.volume import Grid

AXES = [
    "".join(letters)
    for order in ("SPL", "SLP", "PSL", "PLS", "LSP", "LPS")
    for letters in [
        [c if not flip >> i & 1 else {"S": "I", "P": "A", "L": "R"}[c] for i, c in enumerate(order)]
        for flip in range(8)
    ]
]

grids = st.builds(
    oblique_grid,
    st.tuples(*[st.integers(1, 600)] * 3),
    st.tuples(*[st.floats(0.2, 10)] * 3),
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(-2000, 2000)] * 3),
)
small_grids = st.builds(
    oblique_grid,
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.floats(0.2, 10)] * 3),
    st.tuples(*[st.floats(-180, 180)] * 3),
)


def corners(grid: Grid) -> np.ndarray:
    unit = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
    return unit * (np.array(grid.shape) - 1)


@settings(deadline=None)
@given(grids, st.floats(0.3, 5))
def test_source_to_isotropic_to_source_moves_no_centre_by_a_nanometre(grid: Grid, spacing_mm: float) -> None:
    new = isotropic_grid(grid, spacing_mm)
    there = new.index(grid.world(corners(grid)))
    back = grid.index(new.world(there))
    assert np.abs(grid.world(back) - grid.world(corners(grid))).max() < 1e-6
    # Every voxel of the source lies within the new volume, which is at most one voxel larger.
    slack = np.array(new.shape) * spacing_mm - np.array(grid.shape) * np.array(grid.spacing_mm)
    assert (slack > -1e-3).all()
    assert (slack < spacing_mm).all()


@settings(deadline=None)
@given(grids, st.sampled_from(AXES))
@example(oblique_grid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 135.0, 1.0), (0.0, 0.0, 0.0)), "PLS")
def test_reordered_axes_keep_every_voxel_centre(grid: Grid, axes: str) -> None:
    # At exactly 45 degrees two namings are equally near; any smaller angle decides.
    unit = np.abs(grid.affine[:3, :3]) / grid.spacing_mm
    nearness = sorted(sum(unit[row, k] for k, row in enumerate(p)) for p in permutations(range(3)))
    assume(nearness[-1] - nearness[-2] > 1e-6)
    new = reoriented(grid, axes)
    assert orientation(new) == axes
    index = new.index(grid.world(corners(grid)))
    assert np.abs(index - np.round(index)).max() < 1e-6
    assert (np.round(index) >= 0).all()
    assert (np.round(index) < new.shape).all()


@settings(deadline=None, max_examples=50)
@given(small_grids, st.sampled_from(AXES), st.integers(0, 2**32 - 1))
def test_values_return_from_reordered_axes_bit_for_bit(grid: Grid, axes: str, seed: int) -> None:
    array = np.random.default_rng(seed).integers(-1000, 3000, grid.shape).astype(np.int16)
    new = reoriented(grid, axes)
    there = array_to_grid(array, grid, new, interpolator="nearest")
    np.testing.assert_array_equal(array_to_grid(there, new, grid, interpolator="nearest"), array)


@settings(deadline=None, max_examples=50)
@given(small_grids, st.floats(0.5, 4), st.sampled_from(["nearest", "linear"]), st.integers(0, 2**32 - 1))
def test_interpolated_values_stay_between_least_and_greatest(
    grid: Grid, spacing_mm: float, interpolator: str, seed: int
) -> None:
    array = np.random.default_rng(seed).normal(size=grid.shape)
    new = array_to_grid(array, grid, isotropic_grid(grid, spacing_mm), interpolator=interpolator)  # type: ignore[arg-type]  # hypothesis draws plain strings
    assert new.min() >= array.min() - 1e-9
    assert new.max() <= array.max() + 1e-9
