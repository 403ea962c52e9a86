"""Histogram matching: monotone, exact at its landmarks, and blind to any rising change of scale."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.intensity import percentiles
from voxtrial.daemon.harmonize.nyul import StandardScale, matched, standard_scale


def head(seed: int, gain: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Three tissues and noise, on the scale of one scanner."""
    rng = np.random.default_rng(seed)
    tissue = rng.choice([200.0, 500.0, 800.0], (12, 40, 40), p=[0.3, 0.5, 0.2])
    return ((tissue + rng.normal(0, 60, tissue.shape)) * gain + offset).astype(np.float32)


def test_landmarks_come_to_lie_on_the_scale() -> None:
    scale = standard_scale([(head(s), None) for s in range(4)])
    array = matched(head(9, 3.0, 50.0), scale)
    np.testing.assert_allclose(percentiles(array, scale.percentiles), scale.values, atol=0.05)


def test_two_scanners_of_one_head_become_equal() -> None:
    """A rising linear change, as between scanners, leaves nothing after matching: KS distance 0."""
    scale = standard_scale([(head(s), None) for s in range(4)])
    one, other = matched(head(9), scale), matched(head(9, 4.0, -300.0), scale)
    np.testing.assert_allclose(one, other, atol=0.01)
    assert ks_2samp(np.round(one.ravel(), 1), np.round(other.ravel(), 1)).statistic < 0.002


def test_matching_to_another_volume_gives_its_distribution() -> None:
    """With 1001 landmarks taken of one volume, another one takes its histogram: KS distance 0.000."""
    reference = np.random.default_rng(1).gamma(3, 200, (20, 40, 40)).astype(np.float32)
    p = tuple(np.linspace(0, 100, 1001).tolist())
    scale = StandardScale(percentiles=p, values=tuple(percentiles(reference, p)))
    array = matched(head(3), scale)
    assert ks_2samp(array.ravel(), reference.ravel()).statistic < 0.001


def test_map_is_monotone_over_the_whole_range() -> None:
    scale = standard_scale([(head(s), None) for s in range(3)], ends=(0, 255))
    array = head(5)
    order = np.argsort(array.ravel())
    assert (np.diff(matched(array, scale).ravel()[order]) >= 0).all()


def test_matching_twice_changes_nothing() -> None:
    scale = standard_scale([(head(s), None) for s in range(3)])
    once = matched(head(5), scale)
    np.testing.assert_allclose(matched(once, scale), once, atol=0.02)


def test_background_does_not_move_the_landmarks() -> None:
    scale = standard_scale([(head(s), None) for s in range(3)])
    array = head(5)
    padded = np.zeros((12, 80, 80), np.float32)
    padded[:, :40, :40] = array
    inside = padded > 0
    np.testing.assert_allclose(
        matched(padded, scale, inside)[:, :40, :40], matched(array, scale, array > 0), atol=1e-3
    )


def test_integers_and_floats_agree() -> None:
    scale = standard_scale([(head(s), None) for s in range(3)])
    array = np.rint(head(5)).astype(np.int16)
    np.testing.assert_allclose(
        matched(array, scale), matched(array.astype(float), scale), rtol=1e-5, atol=1e-3
    )


def test_coinciding_landmarks_step_instead_of_dividing_by_zero() -> None:
    array = np.zeros((4, 10, 10), np.int16)
    array[0] = np.arange(100).reshape(10, 10)
    scale = StandardScale(percentiles=(0, 25, 50, 75, 100), values=(0, 1, 2, 3, 4))
    assert np.isfinite(matched(array, scale)).all()
    assert matched(array, scale).max() == 4


@pytest.mark.parametrize(
    ("p", "v"),
    [((1, 50), (1, 2, 3)), ((50, 1), (1, 2)), ((1, 50), (2, 2)), ((50,), (1,)), ((1, 101), (1, 2))],
)
def test_scale_that_is_not_monotone_is_an_error(p: tuple[float, ...], v: tuple[float, ...]) -> None:
    with pytest.raises(Misconfigured):
        StandardScale(percentiles=p, values=v)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(Refused, match="at least one"):
        standard_scale([])
    flat = np.ones((2, 2, 2), np.float32)
    with pytest.raises(Refused, match="do not vary"):
        standard_scale([(flat, None)])
    with pytest.raises(Refused, match="do not vary"):
        matched(flat, StandardScale(values=tuple(range(11))))
