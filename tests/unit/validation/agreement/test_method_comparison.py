"""Deming, Passing-Bablok, linearity, bias by level and equivalence against closed forms and statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from voxtrial.validation.registry import run
from voxtrial.validation.tables import StatisticError

XY = {"x": "x", "y": "y"}


def wide(**columns):
    return {"wide": pd.DataFrame(columns)}


def two_methods(seed=0, n=60, slope=1.0, noise=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(20, 2, n)
    return truth + rng.normal(0, noise, n), slope * truth + rng.normal(0, noise, n)


def test_deming_recovers_the_slope_that_least_squares_shrinks():
    """Equal noise on both axes: least squares shrinks to the reliability 4/(4 + 1) = 0.8, Deming does not."""
    x, y = two_methods(n=20_000)
    assert stats.linregress(x, y).slope == pytest.approx(0.8, abs=0.02)
    short = run("deming", wide(x=x[:500], y=y[:500]), XY).values
    assert short["slope_ci_low"] < 1 < short["slope_ci_high"]


def test_deming_with_equal_errors_is_the_first_principal_axis():
    x, y = two_methods(1, slope=1.3)
    axis = np.linalg.eigh(np.cov(x, y))[1][:, -1]
    assert run("deming", wide(x=x, y=y), XY).values["slope"] == pytest.approx(axis[1] / axis[0], rel=1e-9)


def test_swapping_the_methods_inverts_the_line():
    x, y = two_methods(2, slope=1.3)
    forward = run("deming", wide(x=x, y=y), {**XY, "error_ratio": 2}).values
    back = run("deming", wide(x=y, y=x), {**XY, "error_ratio": 0.5}).values
    assert back["slope"] == pytest.approx(1 / forward["slope"], rel=1e-9)
    assert back["intercept"] == pytest.approx(-forward["intercept"] / forward["slope"], rel=1e-9)


def test_weighted_deming_with_equal_errors_is_deming():
    """Error variances 4 of x and 1 of y at every point: error ratio 4."""
    x, y = two_methods(3)
    weighted = run("deming_weighted", wide(x=x, y=y, a=2.0, b=1.0), {**XY, "xstd": "a", "ystd": "b"}).values
    plain = run("deming", wide(x=x, y=y), {**XY, "error_ratio": 4}).values
    assert weighted["slope"] == pytest.approx(plain["slope"], rel=1e-6)
    assert weighted["intercept"] == pytest.approx(plain["intercept"], rel=1e-5)


def test_deming_through_points_on_a_line_has_no_interval():
    result = run("deming", wide(x=[1.0, 2, 3, 5], y=[3.0, 5, 7, 11]), XY)
    assert result.values["slope"] == pytest.approx(2)
    assert result.values["slope_ci_low"] is None


def test_passing_bablok_ignores_an_outlier():
    x = np.arange(1.0, 21)
    y = 2 * x + 1
    y[10] = 500
    values = run("passing_bablok", wide(x=x, y=y), XY).values
    assert values["slope"] == pytest.approx(2)
    assert values["intercept"] == pytest.approx(1)


def test_passing_bablok_does_not_depend_on_which_method_is_x():
    x, y = two_methods(4, n=42, slope=1.2)  # an odd number of slopes has one in the middle
    forward = run("passing_bablok", wide(x=x, y=y), XY).values
    back = run("passing_bablok", wide(x=y, y=x), XY).values
    assert back["slope"] == pytest.approx(1 / forward["slope"], rel=1e-9)
    assert back["slope_ci_low"] == pytest.approx(1 / forward["slope_ci_high"], rel=1e-9)


def test_passing_bablok_of_four_points_has_no_interval():
    result = run("passing_bablok", wide(x=[1.0, 2, 3, 4], y=[1.1, 1.9, 3.2, 3.9]), XY)
    assert result.values["slope"] is not None
    assert result.values["slope_ci_low"] is None


@pytest.mark.parametrize("statistic", ["deming", "passing_bablok"])
def test_method_that_does_not_vary_has_no_line(statistic):
    result = run(statistic, wide(x=[1.0, 1, 1, 1], y=[1.0, 2, 3, 4]), XY)
    assert result.values["slope"] is None
    assert "does not vary" in result.notes[0]


def test_phantom_on_the_identity_is_linear():
    """Slope 1 and intercept 0; without residual nothing can be tested."""
    x = np.repeat([10.0, 20, 40, 80], 3)
    result = run("linearity", wide(x=x, y=x), XY)
    assert result.values["slope"] == pytest.approx(1)
    assert result.values["intercept"] == pytest.approx(0, abs=1e-10)
    assert result.values["quadratic_p"] is None
    assert result.values["lack_of_fit_F"] is None


def test_linearity_follows_statsmodels():
    """Polynomial t tests, and lack of fit as the F test of the line within the means of the levels."""
    rng = np.random.default_rng(5)
    x = np.repeat([1.0, 2, 5, 10, 20], 4)
    y = 0.3 + 1.1 * x - 0.01 * x**2 + rng.normal(0, 0.3, x.size)
    values = run("linearity", wide(x=x, y=y), XY, conf=0.9).values
    line = sm.OLS(y, np.vander(x, 2)).fit()
    low, high = line.conf_int(0.1)[0]
    assert (values["slope_ci_low"], values["slope_ci_high"]) == pytest.approx((low, high), rel=1e-9)
    for order, name in ((2, "quadratic_p"), (3, "cubic_p")):
        assert values[name] == pytest.approx(sm.OLS(y, np.vander(x, order + 1)).fit().pvalues[0], rel=1e-6)
    levels = sm.OLS(y, pd.get_dummies(x).to_numpy(float)).fit()
    f, p, _ = levels.compare_f_test(line)
    assert (values["lack_of_fit_F"], values["lack_of_fit_p"]) == pytest.approx((f, p), rel=1e-6)


def test_bias_at_each_level_with_t_interval():
    """Level 2: errors 0.1, 0.3: mean 0.2, half width 12.7062 x 0.1; level 0 has no percentage."""
    result = run(
        "bias_by_level",
        wide(truth=[2.0, 2, 0, 0, 5], found=[2.1, 2.3, 0.1, 0.3, 5]),
        {"reference": "truth", "measured": "found"},
    )
    values = result.values
    assert values["level"] == [0, 2, 5]
    assert values["bias"] == pytest.approx([0.2, 0.2, 0])
    assert values["bias_ci_high"][1] == pytest.approx(0.2 + 12.7062 * 0.1, rel=1e-5)
    assert values["bias_ci_low"][2] is None
    assert values["pct_bias"][0] is None
    assert values["pct_bias"][1] == pytest.approx(10)


def test_limits_of_quantitation_are_the_longest_run_within_the_bounds():
    levels = np.repeat([1.0, 2, 4, 8, 16], 2)
    factor = np.repeat([1.5, 1.02, 1.01, 0.98, 0.7], 2) + np.tile([-0.01, 0.01], 5)
    values = run(
        "limits_of_quantitation",
        wide(r=levels, m=levels * factor),
        {"reference": "r", "measured": "m", "max_bias_pct": 5, "max_cv_pct": 5},
    ).values
    assert values["within"] == [0, 1, 1, 1, 0]
    assert (values["loq_low"], values["loq_high"]) == (2, 8)


def test_limit_of_blank_and_detection():
    """EP17: LoB = mean + 1.645 SD / (1 - 1/(4 df)) of blanks; LoD adds the same of the lowest level."""
    blanks, low = np.array([0.1, -0.1, 0.2, 0.0]), np.array([1.0, 1.2, 0.9, 1.1])
    values = run(
        "limits_of_quantitation",
        wide(r=np.repeat([0.0, 1.0], 4), m=np.concatenate([blanks, low])),
        {"reference": "r", "measured": "m", "max_bias_pct": 20, "max_cv_pct": 20},
    ).values
    factor = 1.644854 / (1 - 1 / 12)
    lob = blanks.mean() + factor * blanks.std(ddof=1)
    assert values["lob"] == pytest.approx(lob, rel=1e-6)
    assert values["lod"] == pytest.approx(lob + factor * low.std(ddof=1), rel=1e-6)


@pytest.mark.parametrize("margin", [0.3, 1.0])
def test_equivalence_follows_statsmodels(margin):
    x, y = two_methods(6, n=25)
    for design, theirs in (
        ("paired", ttost_paired(x, y, -margin, margin)),
        ("independent", ttost_ind(x, y, -margin, margin, usevar="unequal")),
    ):
        values = run("equivalence_tost", wide(x=x, y=y), {**XY, "margin": margin, "design": design}).values
        assert values["p"] == pytest.approx(theirs[0], rel=1e-9)
        assert values["p_lower"] == pytest.approx(theirs[1][1], rel=1e-9)


def test_equivalence_and_its_interval_decide_alike():
    """Equivalent exactly when the 90 % interval lies within the margins (Schuirmann 1987)."""
    x, y = two_methods(7, n=25)
    for margin in np.linspace(0.1, 1.5, 29):
        values = run("equivalence_tost", wide(x=x, y=y), {**XY, "margin": margin}).values
        inside = -margin < values["ci_low"] and values["ci_high"] < margin
        assert values["equivalent"] == int(inside)


def test_same_version_twice_cannot_be_tested():
    result = run("equivalence_tost", wide(x=[1.0, 2, 3], y=[1.0, 2, 3]), {**XY, "margin": 1})
    assert result.values["estimate"] == 0
    assert result.values["p"] is None
    assert result.values["equivalent"] is None


def test_margins_without_room_are_refused():
    with pytest.raises(StatisticError, match="leave no room"):
        run("equivalence_tost", wide(x=[1.0, 2], y=[2.0, 4]), {**XY, "margin_low": 2, "margin_high": 1})
