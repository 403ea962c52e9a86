"""Sharpness of Gaussian edges, where everything has a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid
from scipy.special import ndtr

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.psf import (
    EdgeSpread,
    blurred,
    edge_spread,
    fit_edge,
    matching_blur_mm,
)
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.volume import Source, Volume


def body(sigma_mm: float, spacing_mm: float, kernel: str = "STD", noise: float = 10.0) -> Volume:
    """A round body in air whose edge is a Gaussian integral of ``sigma_mm``."""
    n = int(130 / spacing_mm)
    grid = axial_grid((4, n, n), (2.0, spacing_mm, spacing_mm))
    c = (np.arange(n) - (n - 1) / 2) * spacing_mm
    radius = np.hypot(c[:, None] + 0.13, c - 0.21)
    image = -1000 + 1000 * ndtr((48 - radius) / sigma_mm)
    array = image + np.random.default_rng(0).normal(0, noise, grid.shape)
    source = Source(acquisition={"ConvolutionKernel": kernel})
    return Volume(array=array.astype(np.float32), affine=grid.affine, source=source)


@pytest.mark.parametrize(("sigma", "rise", "fwhm"), [(0.6, 1.54, 1.41), (1.4, 3.59, 3.30)])
def test_rise_and_width_of_a_gaussian_edge(sigma: float, rise: float, fwhm: float) -> None:
    """10-90 % rise = 2.563 sigma, FWHM = 2.355 sigma."""
    spread = EdgeSpread(sigma_mm=sigma, quartiles_mm=(sigma, sigma), profiles=1)
    assert spread.rise_mm == pytest.approx(rise, abs=0.005)
    assert spread.fwhm_mm == pytest.approx(fwhm, abs=0.005)


def test_fit_recovers_the_edge_it_was_made_of() -> None:
    x = np.arange(-6, 6.01, 0.35)
    for sigma in (0.6, 1.0, 1.4):
        for profile in (-1000 + 1040 * ndtr((x - 0.3) / sigma), 40 - 1040 * ndtr((x + 0.2) / sigma)):
            found, residual = fit_edge(x, profile)
            assert found == pytest.approx(sigma, rel=1e-3)
            assert residual < 1e-4


@pytest.mark.parametrize("spacing", [0.5, 0.8])
@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.4])
def test_spread_is_measured_on_the_skin_of_a_noisy_body(sigma: float, spacing: float) -> None:
    assert edge_spread(body(sigma, spacing)).sigma_mm == pytest.approx(sigma, rel=0.04)


def test_blur_that_matches_two_scanners() -> None:
    """sqrt(1.4^2 - 0.6^2) = 1.265 mm; applied, the sharp scanner measures as the soft one."""
    blur = matching_blur_mm(0.6, 1.4)
    assert blur == pytest.approx(1.265, abs=0.0005)
    assert edge_spread(blurred(body(0.6, 0.6), blur)).sigma_mm == pytest.approx(1.4, rel=0.03)


def test_step_blurs_by_what_is_missing() -> None:
    for own in ({}, {"STD": 0.6}):
        step = {"step": "psf", "sigma_mm": 1.4, "own_sigma_mm": own}
        result = Recipe.from_steps([step]).apply(body(0.6, 0.6))
        assert result.record[0].found["blur_mm"] == pytest.approx(1.265, abs=0.02)
        assert edge_spread(result.volume).sigma_mm == pytest.approx(1.4, rel=0.03)


def test_what_cannot_be_matched_is_refused() -> None:
    soft = body(1.4, 0.8)
    for step, rule in (
        ({"step": "psf", "sigma_mm": 1.0}, "sharper_than_acquired"),
        ({"step": "psf", "sigma_mm": 2.0, "own_sigma_mm": {"SHARP": 0.6}}, "unknown_kernel"),
    ):
        with pytest.raises(Refused) as refusal:
            Recipe.from_steps([step]).apply(soft)
        assert refusal.value.rule == rule
    with pytest.raises(Refused, match="sharpness"):
        edge_spread(soft.with_array(np.random.default_rng(1).normal(size=(2, 40, 40)).astype(np.float32)))
