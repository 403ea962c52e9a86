"""Otsu's cut against scikit-image and his own identity; fixed cuts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.models import thresholds


def lung_like(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(-850, 60, 60_000), rng.normal(20, 80, 9_000)]).astype(np.float32)


def test_same_cut_as_scikit_image_on_the_same_bins() -> None:
    values = lung_like()
    assert thresholds.otsu_threshold(values, bins=512) == pytest.approx(
        float(threshold_otsu(values, nbins=512)), abs=1e-3
    )


def test_largest_between_is_smallest_within_class_variance() -> None:
    """Otsu 1979, eq. 18: within + between = total for every cut, so one extreme is the other."""
    values = np.rint(lung_like(1) / 10).astype(np.float64)
    cut = thresholds.otsu_threshold(values, bins=int(values.max() - values.min()))

    def within(at: float) -> float:
        low, high = values[values <= at], values[values > at]
        return (low.var() * low.size + high.var() * high.size) / values.size

    candidates = np.unique(values)[:-1]
    assert within(cut) == pytest.approx(min(within(c) for c in candidates), rel=1e-12)


def test_lowest_cut_of_a_plateau_is_taken() -> None:
    """Two spikes: every cut in the gap separates them; the lowest bin centre is 0.5 / 10 of the range."""
    values = np.array([0.0] * 5 + [100.0] * 5)
    assert thresholds.otsu_threshold(values, bins=10) == pytest.approx(5.0)


def test_flat_image_has_no_cut() -> None:
    with pytest.raises(Refused) as refusal:
        thresholds.otsu_threshold(np.full(10, 3.0))
    assert refusal.value.rule == "no_contrast"


def test_fixed_and_relative_cuts_include_their_value() -> None:
    values = np.array([1.0, 4.1, 10.0])
    assert thresholds.threshold(values, {"low": 4.1}).tolist() == [False, True, True]
    assert thresholds.threshold(values, {"relative_to_maximum": 0.41}).tolist() == [False, True, True]
    with pytest.raises(Misconfigured):
        thresholds.threshold(values, {"hi": 1})
