"""Caps of known thickness: a shell between two radii, 60 degrees about the axis, off the lattice."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.measure.thickness import signed_distance_mm, thickness
from voxtrial.daemon.volume import Grid


def cap(
    spacing: tuple[float, float, float], thick_mm: float, *, samples: int = 1, outer_mm: float = 30.0
) -> tuple[Grid, np.ndarray]:
    """Share of each voxel inside the cap, from ``samples``^3 points in it; 0 or 1 for one sample."""
    shape = tuple(int(extent / s) for extent, s in zip((40, 66, 66), spacing, strict=True))
    grid = axial_grid((shape[0], shape[1], shape[2]), spacing)
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    share = np.zeros(shape)
    for dz in offsets:
        for dy in offsets:
            for dx in offsets:
                z = ((np.arange(shape[0]) + dz) * spacing[0] - 3.3)[:, None, None]
                y = ((np.arange(shape[1]) - (shape[1] - 1) / 2 + dy) * spacing[1] + 0.11)[:, None]
                x = (np.arange(shape[2]) - (shape[2] - 1) / 2 + dx) * spacing[2] + 0.07
                radius = np.sqrt(z**2 + y**2 + x**2)
                share += (radius <= outer_mm) & (radius >= outer_mm - thick_mm) & (z >= 0.5 * radius)
    return grid, share / samples**3


@pytest.mark.parametrize("thick", [2.0, 4.0])
@pytest.mark.parametrize("samples", [1, 3])
def test_half_a_millimetre_gives_the_thickness_within_a_quarter(thick: float, samples: int) -> None:
    """Mean, median and the inner nine tenths lie within 0.25 mm, from the label and from partial volume."""
    grid, share = cap((0.5, 0.5, 0.5), thick, samples=samples)
    found = thickness(share > 0.5 if samples == 1 else share, grid)
    for value in (found.mean_mm, *(found.percentile_mm(q) for q in (5, 50, 95))):
        assert value == pytest.approx(thick, abs=0.25)
    assert found.mean_mm == pytest.approx(thick, abs=0.06)


@pytest.mark.parametrize(
    ("spacing", "thick"),
    [
        ((1.0, 1.0, 1.0), 2.0),
        ((1.0, 1.0, 1.0), 4.0),
        ((3.0, 0.5, 0.5), 2.0),
        ((3.0, 0.5, 0.5), 4.0),
    ],
)
def test_coarser_grids_stay_without_the_bias_of_a_distance_transform(
    spacing: tuple[float, float, float], thick: float
) -> None:
    """Twice the distance transform on the ridge gives 2.83, 4.47, 3.61 and 6.00 mm for these four."""
    grid, share = cap(spacing, thick)
    found = thickness(share > 0.5, grid)
    assert found.mean_mm == pytest.approx(thick, abs=0.25)
    assert found.percentile_mm(50) == pytest.approx(thick, abs=0.25)


def test_thickest_point_is_found_where_it_is() -> None:
    """Two flat layers of 3 and 6 mm side by side."""
    grid = axial_grid((40, 40, 80), (0.5, 0.5, 0.5))
    layer = np.zeros(grid.shape, bool)
    layer[10:16, :, :40] = True
    layer[10:22, :, 40:] = True
    found = thickness(layer, grid)
    assert found.maximum_mm == pytest.approx(6.0, abs=0.3)
    x = found.maximum_at_mm[0]
    assert x > grid.world(np.array([0.0, 0, 40]))[0]
    thin = found.points_mm[:, 0] < grid.world(np.array([0.0, 0, 30]))[0]
    assert np.median(found.values_mm[thin]) == pytest.approx(3.0, abs=0.1)


def test_signed_distance_of_a_half_space() -> None:
    grid = axial_grid((20, 8, 8), (0.5, 1.0, 1.0))
    mask = np.zeros(grid.shape, bool)
    mask[:10] = True
    signed = signed_distance_mm(mask, grid)[:, 4, 4]
    np.testing.assert_allclose(signed[7:13], (9.5 - np.arange(7, 13)) * 0.5, atol=0.02)


def test_nothing_has_no_thickness() -> None:
    grid = axial_grid((5, 5, 5))
    with pytest.raises(Refused) as refusal:
        thickness(np.zeros(grid.shape, bool), grid)
    assert refusal.value.rule == "empty_mask"
