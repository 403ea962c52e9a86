"""What interpolation can and cannot give back: a cosine sampled every 5 mm and rebuilt every 1 mm."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid

from voxtrial.daemon.harmonize.bands import Interpolator
from voxtrial.daemon.harmonize.resample import array_to_grid

# Period in mm -> RMSE of nearest, linear, cubic and quintic spline (by scipy 1.17), and how far it may be
# off: near the Nyquist period of 10 mm the error depends on where the samples fall.
TABLE = {
    12: ((0.502, 0.372, 0.206, 0.115), 0.008),
    20: ((0.310, 0.151, 0.013, 0.001), 0.0006),
    40: ((0.157, 0.039, 0.0005, 0.0000), 0.0006),
}
INTERPOLATORS: tuple[Interpolator, ...] = ("nearest", "linear", "bspline", "quintic")


@pytest.mark.parametrize("period_mm", TABLE)
def test_error_of_each_interpolator_is_the_published_one(period_mm: int) -> None:
    expected, tolerance = TABLE[period_mm]
    sparse = axial_grid((241, 1, 1), (5.0, 1.0, 1.0), (0, 0, 0))
    dense = axial_grid((1201, 1, 1), (1.0, 1.0, 1.0), (0, 0, 0))
    samples = np.cos(2 * np.pi * np.arange(241) * 5 / period_mm)[:, None, None]
    truth = np.cos(2 * np.pi * np.arange(1201) / period_mm)
    for interpolator, rmse in zip(INTERPOLATORS, expected, strict=True):
        rebuilt = array_to_grid(samples, sparse, dense, interpolator=interpolator)[:, 0, 0]
        found = np.sqrt(np.mean((rebuilt - truth)[60:-60] ** 2))
        assert found == pytest.approx(rmse, abs=tolerance), interpolator


def test_error_of_linear_interpolation_follows_from_its_frequency_response() -> None:
    """Closed form at 5 phases: between two samples of cos(w k) the line misses the cosine by a known amount.

    For phase t the error is cos(w(k+t)) - (1-t) cos(wk) - t cos(w(k+1)); its mean square over k is
    (1 + (1-t)^2 + t^2)/2 - (1-t) cos(wt) - t cos(w(1-t)) + t(1-t) cos(w).
    """
    for period_mm, listed in ((20, 0.151), (40, 0.039)):
        w, t = 2 * np.pi * 5 / period_mm, np.arange(5) / 5
        square = (
            (1 + (1 - t) ** 2 + t**2) / 2
            - (1 - t) * np.cos(w * t)
            - t * np.cos(w * (1 - t))
            + t * (1 - t) * np.cos(w)
        )
        assert np.sqrt(square.mean()) == pytest.approx(listed, abs=0.0006)
