"""A tilted gantry is put upright without mixing slices."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid, oblique_grid

from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.harmonize.tilt import straight_grid, straightened, tilt_degrees
from voxtrial.daemon.volume import Grid, Volume


def leaning(degrees: float, shape: tuple[int, int, int] = (20, 60, 50)) -> Grid:
    """Slices 4 mm apart along the table, tilted about the x axis: rows lie at an angle to the stack."""
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(
        [(0, 0, 4.0), np.array((0, np.cos(angle), np.sin(angle))) * 0.8, (0.8, 0, 0)]
    )
    affine[:3, 3] = (-20, -30, 100)
    return Grid(shape=shape, affine=affine)


def ball(grid: Grid) -> Volume:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).astype(float)
    middle = grid.world((np.array(grid.shape) - 1) / 2)
    distance = np.linalg.norm(grid.world(index) - middle, axis=-1)
    return Volume(
        array=(-1000 + 1000 * np.clip(15.5 - distance, 0, 1)).astype(np.float32), affine=grid.affine
    )


@pytest.mark.parametrize("degrees", [18.5, -12.0, 30.0])
def test_straight_grid_has_right_angles_and_holds_every_voxel(degrees: float) -> None:
    grid = leaning(degrees)
    assert tilt_degrees(grid) == pytest.approx(abs(degrees), abs=1e-9)
    straight = straight_grid(grid)
    assert tilt_degrees(straight) == pytest.approx(0, abs=1e-5)
    assert straight.spacing_mm == pytest.approx((4 * np.cos(np.deg2rad(degrees)), 0.8, 0.8), abs=1e-12)
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * (
        np.array(grid.shape) - 1
    )
    index = straight.index(grid.world(corners.astype(float)))
    assert (index > -1e-6).all()
    assert (index < np.array(straight.shape) - 1 + 1e-6).all()


def test_slices_are_moved_but_not_mixed() -> None:
    """A slice of one value keeps it: nothing of its neighbours comes in."""
    grid = leaning(18.5)
    array = np.broadcast_to(np.arange(20, dtype=np.int16)[:, None, None] * 100, grid.shape)
    upright = straightened(Volume(array=array, affine=grid.affine), fill=-1)
    for z, plane in enumerate(upright.array):
        assert set(np.unique(plane)) <= {-1.0, z * 100.0}


def test_body_stays_where_it_is_and_keeps_its_size() -> None:
    volume = ball(leaning(18.5))
    upright = straightened(volume)
    for one in (volume, upright):
        inside = np.argwhere(one.array > -500)
        assert len(inside) * one.grid.voxel_volume_mm3 == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)
    centre = [one.grid.world(np.argwhere(one.array > -500).mean(0)) for one in (volume, upright)]
    np.testing.assert_allclose(*centre, atol=0.2)


def test_upright_stack_is_returned_as_it_is() -> None:
    for grid in (axial_grid((4, 9, 8), (3, 0.7, 0.7)), oblique_grid((4, 9, 8), (3, 0.7, 0.7), (10, 20, 30))):
        array = np.random.default_rng(0).integers(0, 999, grid.shape).astype(np.int16)
        upright = straightened(Volume(array=array, affine=grid.affine))
        assert upright.grid.agrees_with(grid)
        np.testing.assert_allclose(upright.array, array, atol=1e-3)


def test_step_records_the_angle() -> None:
    result = Recipe.from_steps([{"step": "straighten"}]).apply(ball(leaning(18.5)))
    assert result.record[0].found["tilt_degrees"] == pytest.approx(18.5)
