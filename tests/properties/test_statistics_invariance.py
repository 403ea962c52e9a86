"""Statistics keep what must not change: monotone scores, swapped classes, units of time, order of rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from voxtrial.validation.accuracy.delong import area, areas, placements
from voxtrial.validation.accuracy.proportion_differences import miettinen_nurminen, newcombe_paired, tango
from voxtrial.validation.accuracy.proportions import INTERVALS
from voxtrial.validation.accuracy.rank_kernels import counts_below
from voxtrial.validation.accuracy.roc import average_precision_of, partial_area_over_specificity, roc_points
from voxtrial.validation.registry import run
from voxtrial.validation.survival.c_index import concordance
from voxtrial.validation.survival.competing_risks import aalen_johansen_estimator
from voxtrial.validation.survival.product_limit import kaplan_meier_estimator

scores = arrays(float, st.integers(2, 40), elements=st.integers(-6, 6).map(float))
timeless = settings(max_examples=60, deadline=None)
"""The first example of a kernel waits for its compilation."""

levels = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@st.composite
def censored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw times with ties, events and risks with ties."""
    n = draw(st.integers(2, 40))
    time = draw(arrays(float, n, elements=st.integers(1, 12).map(float)))
    event = draw(arrays(bool, n))
    risk = draw(arrays(float, n, elements=st.integers(0, 5).map(float)))
    return time, event, risk


@timeless
@given(scores, scores)
def test_placements_are_counts_of_pairs(positive: np.ndarray, negative: np.ndarray) -> None:
    kernel = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    v10, v01 = placements(positive, negative)
    np.testing.assert_allclose(v10, kernel.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(v01, kernel.mean(axis=0), atol=1e-12)
    found = area(positive, negative)
    expected = v10.var(ddof=1) / v10.size + v01.var(ddof=1) / v01.size
    assert found.auc == pytest.approx(kernel.mean(), abs=1e-12)
    assert found.variance == pytest.approx(expected, abs=1e-12)
    less, less_or_equal = counts_below(np.sort(positive), np.sort(negative))
    ordered = np.sort(positive)[:, None]
    np.testing.assert_array_equal(less, (negative < ordered).sum(axis=1))
    np.testing.assert_array_equal(less_or_equal, (negative <= ordered).sum(axis=1))


@timeless
@given(scores, scores)
def test_area_depends_on_order_alone_and_swaps_with_the_classes(
    positive: np.ndarray, negative: np.ndarray
) -> None:
    found = area(positive, negative)
    for other in (area(np.exp(positive), np.exp(negative)), area(-negative, -positive)):
        assert other.auc == pytest.approx(found.auc, abs=1e-12)
        assert other.variance == pytest.approx(found.variance, abs=1e-12)
    assert area(negative, positive).auc == pytest.approx(1 - found.auc, abs=1e-12)


@timeless
@given(scores, scores)
def test_whole_range_of_the_partial_area_is_the_area(positive: np.ndarray, negative: np.ndarray) -> None:
    curve = roc_points(positive, negative)
    whole = partial_area_over_specificity(curve, 0.0, 1.0)
    halves = [partial_area_over_specificity(curve, *bounds) for bounds in ((0.0, 0.3), (0.3, 1.0))]
    assert whole == pytest.approx(area(positive, negative).auc, abs=1e-12)
    assert sum(halves) == pytest.approx(whole, abs=1e-12)


@timeless
@given(arrays(bool, 30), arrays(float, 30, elements=st.integers(0, 8).map(float)))
def test_average_precision_does_not_depend_on_the_order_of_rows(truth: np.ndarray, score: np.ndarray) -> None:
    assume(0 < truth.sum() < 30)
    found = average_precision_of(truth, score)
    turned = average_precision_of(truth[::-1], score[::-1])
    assert truth.mean() / 30 <= found <= 1
    assert turned == pytest.approx(found, abs=1e-12)


@timeless
@given(arrays(float, (30, 3), elements=st.integers(0, 9).map(float)))
def test_covariance_of_areas_is_symmetric_and_not_negative(matrix: np.ndarray) -> None:
    truth = np.arange(30) % 2 == 0
    _, covariance = areas(truth, matrix)
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12


@timeless
@given(st.integers(1, 200), st.data(), levels)
def test_proportion_intervals_mirror_and_hold_the_estimate(n: int, data: st.DataObject, level: float) -> None:
    x = data.draw(st.integers(0, n))
    for name, interval in INTERVALS.items():
        low, high = interval(x, n, level)
        mirrored = interval(n - x, n, level)
        assert low - 1e-12 <= x / n <= high + 1e-12, name
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9), name


@timeless
@given(st.integers(1, 40), st.integers(1, 40), st.data(), levels)
def test_difference_intervals_change_sign_with_the_groups(
    n1: int, n2: int, data: st.DataObject, level: float
) -> None:
    x1, x2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    low, high = miettinen_nurminen(x1, n1, x2, n2, level)
    other = miettinen_nurminen(x2, n2, x1, n1, level)
    assert other == pytest.approx((-high, -low), abs=1e-6)
    assert -1 <= low <= x1 / n1 - x2 / n2 + 1e-9
    assert x1 / n1 - x2 / n2 - 1e-9 <= high <= 1


@timeless
@given(st.tuples(*[st.integers(0, 25)] * 4), levels)
def test_paired_intervals_change_sign_with_the_tests(cells: tuple[int, int, int, int], level: float) -> None:
    a, b, c, d = cells
    n = sum(cells)
    assume(n > 0)
    low, high = tango(b, c, n, level)
    assert tango(c, b, n, level) == pytest.approx((-high, -low), abs=1e-6)
    low, high = newcombe_paired(a, b, c, d, level)
    assert newcombe_paired(a, c, b, d, level) == pytest.approx((-high, -low), abs=1e-9)
    assert low - 1e-9 <= (b - c) / n <= high + 1e-9


@timeless
@given(censored())
def test_concordance_counts_every_comparable_pair_once(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    time, event, risk = drawn
    earlier = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    found = concordance(time, event, risk)
    assert found.concordant == (earlier & (risk[:, None] > risk)).sum()
    assert found.discordant == (earlier & (risk[:, None] < risk)).sum()
    assert found.tied == (earlier & (risk[:, None] == risk)).sum()
    turned = concordance(time, event, -risk)
    if earlier.any():
        assert turned.estimate == pytest.approx(1 - found.estimate, abs=1e-12)
        assert turned.standard_error == pytest.approx(found.standard_error, abs=1e-12)


@timeless
@given(censored(), st.floats(0.1, 50))
def test_survival_falls_and_scales_with_the_unit_of_time(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], unit: float
) -> None:
    time, event, _ = drawn
    curve, scaled = kaplan_meier_estimator(time, event), kaplan_meier_estimator(time * unit, event)
    assert (np.diff(curve.survival) < 0).all()
    assert ((curve.survival >= 0) & (curve.survival <= 1)).all()
    np.testing.assert_allclose(scaled.survival, curve.survival)
    np.testing.assert_allclose(scaled.times, curve.times * unit)


@timeless
@given(censored(), st.data())
def test_incidences_and_survival_share_out_one(
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    time, event, _ = drawn
    cause = np.where(event, data.draw(arrays(np.intp, time.size, elements=st.integers(1, 3))), 0)
    at = np.unique(time)
    curve = kaplan_meier_estimator(time, event)
    total = sum(aalen_johansen_estimator(time, cause, c, at).incidence for c in (1, 2, 3))
    np.testing.assert_allclose(total + curve.step(curve.survival, 1.0, at), 1, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["efron", "breslow"]))
def test_hazard_ratios_follow_the_unit_of_the_covariate(seed: int, ties: str) -> None:
    """Doubling a covariate halves its coefficient and leaves every test as it was."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "time": rng.integers(1, 15, 60),
            "event": (rng.random(60) < 0.7).astype(int),
            "x": rng.normal(size=60),
            "z": rng.integers(0, 2, 60),
        }
    )
    inputs = {"time": "time", "event": "event", "covariates": ["x", "z"], "ties": ties}
    first = run("cox", {"wide": table}, inputs).values
    second = run("cox", {"wide": table.assign(x=2 * table["x"] + 7).iloc[::-1]}, inputs).values
    assert second["coef"][0] == pytest.approx(first["coef"][0] / 2, rel=1e-6, abs=1e-9)
    for name in ("loglik", "wald_chi2", "score_chi2", "lr_chi2", "concordance"):
        assert second[name] == pytest.approx(first[name], rel=1e-6, abs=1e-8)
    np.testing.assert_allclose(second["zph_chi2"], first["zph_chi2"], rtol=1e-5, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), levels)
def test_wider_confidence_gives_wider_intervals(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"y": np.arange(40) % 2, "s": rng.normal(size=40) + np.arange(40) % 2})
    inputs = {"truth": "y", "score": "s"}
    narrow, wide = (run("roc_auc", {"wide": table}, inputs, conf=c).values for c in (level / 2, level))
    z = stats.norm.isf((1 - level) / 2)
    assert wide["logit_ci_low"] < narrow["logit_ci_low"] < narrow["auc"] < narrow["logit_ci_high"]
    unclipped = wide["auc"] + z * wide["delong_se"]
    assert wide["delong_ci_high"] == pytest.approx(min(unclipped, 1.0), abs=1e-12)
