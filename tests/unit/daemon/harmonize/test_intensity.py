"""Intensity scales against numpy and their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.intensity import (
    mean_and_sd,
    minmax,
    percentile_scale,
    percentiles,
    region,
    window,
    zscore,
)

SHAPE = (13, 31, 29)


def values(dtype: type, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).gamma(2, 300, SHAPE) - 200).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("masked", [False, True])
def test_zscore_has_mean_zero_and_sd_one_in_the_mask(dtype: type, masked: bool) -> None:
    array = values(dtype)
    inside = np.random.default_rng(1).random(SHAPE) < 0.4 if masked else None
    z = zscore(array, inside)
    chosen = z if inside is None else z[inside]
    assert abs(chosen.mean(dtype=float)) < 1e-6
    assert abs(chosen.std(dtype=float) - 1) < 1e-6


def test_zscore_equals_the_formula_of_numpy() -> None:
    array = values(np.float32)
    expected = (array.astype(float) - array.mean(dtype=float)) / array.std(dtype=float)
    np.testing.assert_allclose(zscore(array), expected, atol=1e-6)


def test_large_offset_costs_no_digits() -> None:
    """A sum of squares about 0 would lose the spread of 1 beside a mean of a million."""
    array = np.random.default_rng(2).normal(1e6, 1, SHAPE)
    mean, sd = mean_and_sd(array)
    assert mean == pytest.approx(array.mean(), rel=1e-12)
    assert sd == pytest.approx(array.std(), rel=1e-9)


def test_fill_sets_what_is_outside_the_region() -> None:
    array = values(np.int16)
    inside = array > 100
    assert (zscore(array, inside, fill=0)[~inside] == 0).all()
    assert (zscore(array, inside)[~inside] < 0).all()


def test_minmax_is_idempotent_and_spans_the_range() -> None:
    once = minmax(values(np.float32), to=(-1, 1))
    assert (once.min(), once.max()) == (-1, 1)
    np.testing.assert_array_equal(minmax(once, to=(-1, 1)), once)


def test_window_maps_its_ends_and_clips_beyond() -> None:
    array = np.array([[[-2000, -1000, -300, 400, 3000]]], np.int16)
    assert window(array, -1000, 400).ravel().tolist() == [0, 0, 0.5, 1, 1]
    np.testing.assert_allclose(window(array, -1000, 400, (-1, 3)).ravel(), [-1, -1, 1, 3, 3])


def test_percentile_scale_clips_a_share_at_both_ends() -> None:
    scaled = percentile_scale(values(np.float32), 5, 95)
    assert np.mean(scaled == 0) == pytest.approx(0.05, abs=0.001)
    assert np.mean(scaled == 1) == pytest.approx(0.05, abs=0.001)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_percentiles_equal_numpys(dtype: type, masked: bool) -> None:
    array = values(dtype, 3)
    inside = array > np.median(array) if masked else None
    q = [0, 0.1, 1, 10, 33.3, 50, 99.9, 100]
    expected = np.percentile((array if inside is None else array[inside]).astype(float), q)
    np.testing.assert_allclose(percentiles(array, q, inside), expected, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_percentiles_by_counting_equal_percentiles_by_sorting(array: np.ndarray, q: list[float]) -> None:
    """Negative zero, ties, one value: the bit pattern orders floats as numbers do."""
    np.testing.assert_allclose(
        percentiles(array[None, None], q), np.percentile(array.astype(float), q), rtol=1e-6, atol=1e-3
    )


@pytest.mark.parametrize(
    ("rule", "expected"), [("nonzero", [0, 1, 1, 1]), ("above_mean", [0, 0, 0, 1]), ("otsu", [0, 0, 0, 1])]
)
def test_regions(rule: str, expected: list[int]) -> None:
    array = np.array([[[0, 1, 2, 90]]], np.int16)
    chosen = region(array, rule)
    assert chosen is not None
    assert chosen.ravel().tolist() == [bool(e) for e in expected]
    assert region(array) is None
    with pytest.raises(Misconfigured, match="choose one of"):
        region(array, "brain")


def test_what_has_no_scale_is_refused_with_the_rule() -> None:
    flat = np.full(SHAPE, 7, np.int16)
    nowhere = np.zeros(SHAPE, bool)
    for call, rule in (
        (lambda: zscore(flat), "constant_intensity"),
        (lambda: minmax(flat), "constant_intensity"),
        (lambda: percentile_scale(flat, 1, 99), "constant_intensity"),
        (lambda: zscore(flat, nowhere), "empty_region"),
        (lambda: minmax(flat, nowhere), "empty_region"),
        (lambda: percentiles(flat, [50], nowhere), "empty_region"),
        (lambda: percentiles(np.full(SHAPE, np.nan, np.float32), [50]), "not_finite"),
    ):
        with pytest.raises(Refused) as refusal:
            call()
        assert refusal.value.rule == rule
    with pytest.raises(Misconfigured, match="empty"):
        window(flat, 3, 3)


def test_region_of_another_shape_never_reaches_the_machine_code() -> None:
    array = values(np.float32)
    for call in (zscore, mean_and_sd):
        with pytest.raises(ValueError, match="shape"):
            call(array, np.ones((2, 2, 2), bool))
    with pytest.raises((ValueError, IndexError)):
        percentiles(array, [50], np.ones((2, 2, 2), bool))


def test_threads_give_the_same_bits() -> None:
    array = values(np.float32)
    np.testing.assert_array_equal(zscore(array, threads=3), zscore(array))


@pytest.mark.parametrize("magnitude", [1e-30, 1e-22, 1e-12, 1.0, 1e12, 1e18, 1e25, 1e36])
@pytest.mark.parametrize("masked", [False, True])
def test_single_precision_of_any_magnitude_has_the_moments_of_double(magnitude: float, masked: bool) -> None:
    """numpy in double precision; squares of single precision overflow from 1e19 and vanish below 1e-22."""
    array = (magnitude * np.random.default_rng(3).normal(2, 1, (4, 50, 50))).astype(np.float32)
    inside = array > 0 if masked else None
    values = array.astype(float) if inside is None else array[inside].astype(float)
    mean, sd = mean_and_sd(array, inside)
    assert mean == pytest.approx(values.mean(), rel=1e-5)
    assert sd == pytest.approx(values.std(), rel=1e-5)
    assert zscore(array, inside).std() > 0
