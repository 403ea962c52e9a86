"""Diameters against boxes and ellipsoids, whose axes are known by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import axial_grid, ellipsoid

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.measure.diameter import diameters, diameters_of_field
from voxtrial.daemon.measure.volume import equivalent_diameter_mm, expected_volume_ml, volume_ml
from voxtrial.daemon.volume import Mask


def test_box_is_measured_between_the_middles_of_its_edges() -> None:
    """4 x 10 x 20 voxels: the longest line joins middles of opposite edges, here of the end slices in 3D."""
    grid = axial_grid((10, 40, 40), (2.0, 0.7, 0.7))
    array = np.zeros(grid.shape, bool)
    array[3:7, 10:20, 5:25] = True
    found = diameters(Mask(array=array, affine=grid.affine))
    assert found.long_axis_mm == pytest.approx(0.7 * np.hypot(20, 9), abs=1e-9)
    edges = [(4, 9, 19), (3, 10, 19), (3, 9, 20)]
    assert found.maximum_3d_mm == pytest.approx(
        max(np.linalg.norm(np.multiply(e, grid.spacing_mm)) for e in edges), abs=1e-9
    )
    assert found.slice_index == 3
    assert volume_ml(Mask(array=array, affine=grid.affine)) == pytest.approx(4 * 10 * 20 * 0.98 / 1000)


def test_one_voxel_is_as_long_as_the_voxel() -> None:
    grid = axial_grid((3, 3, 3), (5.0, 0.8, 0.9))
    array = np.zeros(grid.shape, bool)
    array[0, 0, 0] = True
    found = diameters(Mask(array=array, affine=grid.affine))
    assert (found.long_axis_mm, found.short_axis_mm) == pytest.approx((0.9, 0.8), abs=1e-9)
    assert found.maximum_3d_mm == pytest.approx(5.0, abs=1e-9)


def test_ellipsoid_mask_is_within_one_voxel_of_its_axes() -> None:
    grid = axial_grid((31, 101, 101), (2.0, 0.7, 0.7))
    mask = Mask(array=ellipsoid(grid, (20, 15, 25)) <= 1, affine=grid.affine)
    found = diameters(mask)
    assert found.long_axis_mm == pytest.approx(50, abs=0.7)
    assert found.short_axis_mm == pytest.approx(30, abs=0.7)
    assert found.maximum_3d_mm == pytest.approx(50, abs=0.7)
    assert volume_ml(mask) == pytest.approx(4 / 3 * np.pi * 20 * 15 * 25 / 1000, rel=0.005)


def test_sphere_field_gives_the_diameter_below_a_tenth_of_a_voxel() -> None:
    """A field that is linear across the boundary: no steps of the voxels remain."""
    grid = axial_grid((41, 41, 41), (1.0, 1.0, 1.0))
    radius = ellipsoid(grid, (1, 1, 1))
    found = diameters_of_field(np.clip((14.3 - radius) / 4 + 0.5, 0, 1), grid)
    assert found.long_axis_mm == pytest.approx(28.6, abs=0.05)
    assert found.short_axis_mm == pytest.approx(28.6, abs=0.05)
    assert found.maximum_3d_mm == pytest.approx(28.6, abs=0.05)


def test_axes_of_the_ends_are_at_right_angles_in_the_same_slice() -> None:
    grid = axial_grid((5, 60, 60), (3.0, 1.0, 1.0))
    y, x = np.mgrid[:60, :60] - 29.5
    turned = (0.8 * x + 0.6 * y, -0.6 * x + 0.8 * y)
    array = np.zeros(grid.shape, bool)
    array[2] = (turned[0] / 24) ** 2 + (turned[1] / 9) ** 2 <= 1
    found = diameters(Mask(array=array, affine=grid.affine))
    long_axis = np.subtract(*(grid.world(np.array(p)) for p in found.endpoints))
    short_axis = np.subtract(*(grid.world(np.array(p)) for p in found.short_endpoints))
    assert np.linalg.norm(long_axis) == pytest.approx(found.long_axis_mm, abs=1e-9)
    assert np.linalg.norm(short_axis) == pytest.approx(found.short_axis_mm, abs=1e-9)
    assert long_axis @ short_axis == pytest.approx(0, abs=1e-6)
    assert found.long_axis_mm == pytest.approx(48, abs=1)
    assert found.short_axis_mm == pytest.approx(18, abs=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1.0, 1.0, 1.0), (2.5, 0.7, 0.7), (1.0, 0.5, 0.9)]))
def test_no_pair_of_boundary_points_is_farther_apart(seed: int, spacing: tuple[float, float, float]) -> None:
    """Brute force over all half-way points of a random blob agrees with the hull."""
    rng = np.random.default_rng(seed)
    grid = axial_grid((4, 7, 8), spacing)
    array = rng.random(grid.shape) < 0.3
    array[1, 3, 3] = True
    found = diameters(Mask(array=array, affine=grid.affine))
    padded = np.pad(array, 1)
    points = []
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = 0.5
        points.append(np.argwhere(np.diff(padded, axis=axis)) - 1 + step)
    world = grid.world(np.concatenate(points))
    brute = np.sqrt(((world[:, None] - world[None]) ** 2).sum(-1)).max()
    assert found.maximum_3d_mm == pytest.approx(brute, abs=1e-9)
    assert found.short_axis_mm <= found.long_axis_mm <= found.maximum_3d_mm


def test_empty_mask_is_refused() -> None:
    grid = axial_grid((3, 3, 3), (1, 1, 1))
    with pytest.raises(Refused, match="no diameter") as refusal:
        diameters(Mask(array=np.zeros(grid.shape, bool), affine=grid.affine))
    assert refusal.value.rule == "empty_mask"


def test_expected_volume_of_a_probability_counts_partial_voxels() -> None:
    grid = axial_grid((2, 2, 2), (5.0, 2.0, 1.0))
    assert expected_volume_ml(np.full(grid.shape, 0.25), grid) == pytest.approx(8 * 0.25 * 10 / 1000)
    assert equivalent_diameter_mm(4 / 3 * np.pi) == pytest.approx(20)
