"""Rows mixed sixteen at a time against the dense matrix of the same band."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_what_two_registers_hold_is_narrow_in_single_precision_only() -> None:
    """16 results of a step of 2 need 2 * 15 + 2 = 32 samples: the most that fit."""
    fits = interpolation_band(2.0 * np.arange(32) + 0.5, 512, "linear")
    too_wide = interpolation_band(2.1 * np.arange(32) + 0.5, 512, "linear")
    assert Blocks.of(fits.first, fits.weights.astype(np.float32)).narrow is _machine_permutes()
    assert not Blocks.of(fits.first, fits.weights).narrow
    assert not Blocks.of(too_wide.first, too_wide.weights.astype(np.float32)).narrow
