"""Integrals of a ball by hand, and gradients that are exact because the layer is linear."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid, ellipsoid

from voxtrial.daemon.measure.integrals import (
    column,
    layer,
    mass_g,
    tissue_density,
    total_lesion_glycolysis,
    volume_ml,
)
from voxtrial.daemon.volume import Volume

GRID = axial_grid((24, 48, 48), (1.0, 0.5, 0.5))
# Share of each voxel inside a ball of 10 mm, across one voxel: 4.18879 ml.
BALL = np.clip((10 - ellipsoid(GRID, (1, 1, 1))) / 0.6 + 0.5, 0, 1)


def image(value: float) -> Volume:
    return Volume(array=np.full(GRID.shape, value), affine=GRID.affine)


def test_ball_of_ten_millimetres_by_hand() -> None:
    """4/3 pi 10^3 mm3 = 4.189 ml; at 50 HU 4.398 g; at SUV 5 a TLG of 20.94 g."""
    assert volume_ml(BALL, GRID).value == pytest.approx(4.18879, rel=0.002)
    assert mass_g(BALL, image(50)).value == pytest.approx(4.398, rel=0.002)
    assert total_lesion_glycolysis(BALL, image(5)).value == pytest.approx(20.94, rel=0.002)


def test_gradient_is_density_times_voxel_and_predicts_any_change() -> None:
    rng = np.random.default_rng(0)
    ct = Volume(array=rng.integers(-1000, 500, GRID.shape).astype(np.int16), affine=GRID.affine)
    found = mass_g(BALL, ct)
    np.testing.assert_allclose(found.gradient, tissue_density(ct.array) * 0.25 / 1000, rtol=1e-12)
    change = rng.normal(size=GRID.shape)
    assert mass_g(BALL + change, ct).value - found.value == pytest.approx(
        float((found.gradient * change).sum()), rel=1e-9
    )


def test_air_and_less_weigh_nothing() -> None:
    assert mass_g(BALL, image(-1000)).value == 0
    assert mass_g(BALL, image(-3024)).value == 0


def test_column_is_the_sum_along_the_axis() -> None:
    """Through the middle of a ball of 1.05 g/ml: 20 mm, 2.1 g/cm2; and the columns add up to the mass."""
    density = np.full(GRID.shape, 1.05)
    along_z = column(BALL, density, GRID)
    assert along_z[23:25, 23:25].mean() / 10 == pytest.approx(2.1, rel=0.01)
    np.testing.assert_allclose(along_z, (BALL * density).sum(axis=0) * 1.0)
    for axis, area in ((0, 0.25), (1, 0.5), (2, 0.5)):
        total = column(BALL, density, GRID, axis).sum() * area / 1000
        assert total == pytest.approx(volume_ml(BALL, GRID).value * 1.05)


def test_torch_layer_has_the_same_value_and_gradient_and_no_parameters() -> None:
    import torch

    density = np.random.default_rng(1).random(GRID.shape)
    integrate = layer(density, GRID)
    probability = torch.tensor(BALL[None, None], requires_grad=True)
    value = integrate(probability)
    value.sum().backward()
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(float((BALL * density).sum()) * 0.25 / 1000, rel=1e-12)
    assert probability.grad is not None
    np.testing.assert_allclose(probability.grad[0, 0].numpy(), density * 0.25 / 1000, rtol=1e-12)
    assert torch.autograd.gradcheck(
        layer(density[:2, :2, :2], GRID), torch.rand(2, 2, 2, dtype=torch.float64, requires_grad=True)
    )


def test_shapes_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        mass_g(BALL[1:], image(0))
