"""Rows mixed sixteen at a time against the dense matrix of the same band."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK

from voxtrial.daemon.harmonize.banded import apply_bands
from voxtrial.daemon.harmonize.bands import Interpolator, interpolation_band
from voxtrial.daemon.harmonize.lanes import Blocks, _machine_permutes

ONE_ROW = (np.zeros(1, np.int64), np.ones((1, 1), np.float32))


@pytest.mark.parametrize("interpolator", ["linear", "cubic", "quintic"])
@pytest.mark.parametrize("n_out", [1, 15, 16, 17, 410])
@pytest.mark.parametrize("step", [1.25, -0.8, 4.0])
def test_a_row_is_its_dense_matrix(interpolator: Interpolator, n_out: int, step: float) -> None:
    """A step of 4 is too wide for two registers and fetches; a step backwards counts down. Float32: 1e-5."""
    coordinates = step * np.arange(n_out) + (500.0 if step < 0 else 0.3)
    band = interpolation_band(coordinates, 512, interpolator)
    row = np.random.default_rng(5).standard_normal(512).astype(np.float32)
    blocks = Blocks.of(band.first, band.weights.astype(np.float32))
    out = np.empty((1, n_out), np.float32)
    apply_bands(row[None, None], (*ONE_ROW, *ONE_ROW, blocks.samples), n_out, out, 0, 1)
    np.testing.assert_allclose(out[0], band.dense(512) @ row.astype(float), atol=1e-5)


PATHS = [pytest.param(True, marks=pytest.mark.skipif(not _machine_permutes(), reason="no AVX-512")), False]


def mixed(row: np.ndarray, coordinates: np.ndarray, narrow: bool) -> np.ndarray:
    """Interpolate a row linearly, by permutation (``narrow``) or by fetching, whatever the machine has."""
    band = interpolation_band(coordinates, len(row), "linear")
    blocks = replace(Blocks.of(band.first, band.weights.astype(np.float32)), narrow=narrow)
    out = np.empty((1, len(coordinates)), np.float32)
    apply_bands(row[None, None], (*ONE_ROW, *ONE_ROW, blocks.samples), len(coordinates), out, 0, 1)
    return out[0]


@pytest.mark.parametrize("narrow", PATHS)
@pytest.mark.parametrize("n_out", [1, 16, 17, 407])
def test_both_ways_rebuild_an_affine_ramp(narrow: bool, n_out: int) -> None:
    """3 - x / 4 at x; float32 of numbers up to 128: 1e-5."""
    coordinates = 0.3 + 1.25 * np.arange(n_out)
    row = (3 - np.arange(512) / 4).astype(np.float32)
    np.testing.assert_allclose(mixed(row, coordinates, narrow), 3 - coordinates / 4, atol=1e-5)


@pytest.mark.parametrize("narrow", PATHS)
def test_both_ways_agree_with_simpleitk(narrow: bool) -> None:
    row = np.random.default_rng(9).standard_normal(512).astype(np.float32)
    coordinates = 0.3 + 1.25 * np.arange(407)
    image = SimpleITK.GetImageFromArray(np.tile(row, (2, 1)))
    theirs = SimpleITK.Resample(
        image, [407, 1], SimpleITK.Transform(), SimpleITK.sitkLinear, [0.3, 0.0], [1.25, 1.0]
    )
    np.testing.assert_allclose(
        mixed(row, coordinates, narrow), SimpleITK.GetArrayFromImage(theirs)[0], atol=1e-5
    )


def test_what_two_registers_hold_is_narrow_in_single_precision_only() -> None:
    """16 results of a step of 2 need 2 * 15 + 2 = 32 samples: the most that fit."""
    fits = interpolation_band(2.0 * np.arange(32) + 0.5, 512, "linear")
    too_wide = interpolation_band(2.1 * np.arange(32) + 0.5, 512, "linear")
    assert Blocks.of(fits.first, fits.weights.astype(np.float32)).narrow is _machine_permutes()
    assert not Blocks.of(fits.first, fits.weights).narrow
    assert not Blocks.of(too_wide.first, too_wide.weights.astype(np.float32)).narrow
