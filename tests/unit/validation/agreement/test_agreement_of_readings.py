"""ICC, repeatability, limits of agreement and concordance against closed forms and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from voxtrial.validation.agreement.bland_altman import exact_limit_factors
from voxtrial.validation.agreement.icc import FORMS, intraclass_correlations, spearman_brown
from voxtrial.validation.registry import run
from voxtrial.validation.tables import StatisticError

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
)


def wide(**columns):
    return {"wide": pd.DataFrame(columns)}


def rated(ratings):
    """Return the table of (subjects, raters) ratings and the inputs of icc."""
    names = [f"r{i}" for i in range(ratings.shape[1])]
    return {"wide": pd.DataFrame(ratings, columns=names)}, {"raters": names}


def test_published_coefficients_of_shrout_and_fleiss():
    """Table 4 of Shrout and Fleiss 1979, printed to two decimals."""
    forms = intraclass_correlations(SHROUT_FLEISS.astype(float))
    printed = dict(zip(FORMS, (0.17, 0.29, 0.71, 0.44, 0.62, 0.91), strict=True))
    for name, value in printed.items():
        assert forms[name].estimate == pytest.approx(value, abs=0.005)


def test_interval_of_icc31_at_another_level_by_hand():
    """McGraw and Wong 1996, table 7, case 3: F over and under its quantiles, here at 90 %."""
    x = SHROUT_FLEISS.astype(float)
    n, k = x.shape
    msr = k * np.sum((x.mean(1) - x.mean()) ** 2) / (n - 1)
    mse = np.sum((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()) ** 2) / ((n - 1) * (k - 1))
    low = msr / mse / stats.f.ppf(0.95, n - 1, (n - 1) * (k - 1))
    high = msr / mse * stats.f.ppf(0.95, (n - 1) * (k - 1), n - 1)
    values = run("icc", *rated(x), conf=0.9).values
    assert values["icc3_1_ci_low"] == pytest.approx((low - 1) / (low + k - 1), rel=1e-12)
    assert values["icc3_1_ci_high"] == pytest.approx((high - 1) / (high + k - 1), rel=1e-12)


def test_average_forms_are_spearman_brown_of_the_single_ones():
    forms = intraclass_correlations(np.random.default_rng(1).normal(size=(15, 3)) + np.arange(15)[:, None])
    for model in ("icc1", "icc2", "icc3"):
        single, mean = forms[f"{model}_1"], forms[f"{model}_k"]
        np.testing.assert_allclose(spearman_brown(single.estimate, 3), mean.estimate)
        np.testing.assert_allclose(spearman_brown(single.ci_low, 3), mean.ci_low)


def test_many_features_equal_one_at_a_time():
    cube = np.random.default_rng(2).normal(size=(5, 9, 3)) + np.arange(9)[:, None]
    together = intraclass_correlations(cube)
    for i, table in enumerate(cube):
        values = run("icc", *rated(table)).values
        for name in FORMS:
            assert values[name] == pytest.approx(float(together[name].estimate[i]), rel=1e-12)
            assert values[f"{name}_ci_high"] == pytest.approx(float(together[name].ci_high[i]), rel=1e-12)


def test_interval_of_icc21_covers():
    """95 % intervals of ICC(2,1) hold the true 0.6 in 93 to 97 % of 2,000 simulated studies."""
    rng = np.random.default_rng(3)
    subjects, raters = rng.normal(0, np.sqrt(6), (2000, 30, 1)), rng.normal(0, 1, (2000, 1, 8))
    form = intraclass_correlations(subjects + raters + rng.normal(0, np.sqrt(3), (2000, 30, 8)))["icc2_1"]
    covered = np.mean((form.ci_low <= 0.6) & (form.ci_high >= 0.6))
    assert 0.93 <= covered <= 0.97


def test_exact_agreement_has_a_coefficient_of_one_without_interval():
    result = run("icc", *rated(np.repeat(np.arange(6.0)[:, None], 3, axis=1)))
    assert result.values["icc2_1"] == 1
    assert result.values["icc2_1_ci_low"] is None
    assert any("F is infinite" in note for note in result.notes)


def test_raters_apart_by_a_constant_are_consistent_but_do_not_agree():
    """Rater 2 reads one more everywhere: ICC(3,1) = 1 without F, ICC(1,1) has both."""
    result = run("icc", *rated(np.arange(6.0)[:, None] + [0.0, 1.0]))
    assert result.values["icc3_1"] == 1
    assert result.values["icc3_1_F"] is None
    assert result.values["icc1_1_F"] == pytest.approx(2 * 3.5 / 0.5)
    assert result.values["icc1_1_ci_low"] < result.values["icc1_1"] < 1


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        (np.full((5, 3), 7.0), "all ratings are equal"),
        (np.arange(5.0)[:, None], "one rater"),
        (np.array([[1.0, 2.0]]), "1 complete subjects"),
    ],
)
def test_icc_without_variance_or_partners_is_undefined(ratings, reason):
    result = run("icc", *rated(ratings))
    assert result.values["icc3_1"] is None
    assert any(reason in note for note in result.notes)


def test_subject_rated_twice_by_one_rater_is_refused():
    long = {"long": pd.DataFrame({"s": [1, 1, 2], "r": ["a", "a", "b"], "y": [1.0, 2, 3]})}
    with pytest.raises(StatisticError, match="rated the same subject twice"):
        run("icc", long, {"layout": "long", "subject": "s", "rater": "r", "value": "y"})


def test_repeatability_coefficient_holds_95_percent_of_unchanged_pairs():
    """RC = 1.96 sqrt(2) sw: simulated with sw = 3 known."""
    rng = np.random.default_rng(4)
    truth = rng.normal(100, 20, 20_000)
    pairs = truth[:, None] + rng.normal(0, 3, (truth.size, 2))
    values = run("repeatability", wide(a=pairs[:, 0], b=pairs[:, 1]), {"replicates": ["a", "b"]}).values
    assert values["wsd"] == pytest.approx(3, rel=0.02)
    assert np.mean(np.abs(pairs[:, 0] - pairs[:, 1]) <= values["rc"]) == pytest.approx(0.95, abs=0.005)


def test_ten_percent_wcv_is_a_27_7_percent_coefficient():
    table = wide(a=[100 - 10 / np.sqrt(2)], b=[100 + 10 / np.sqrt(2)])
    values = run("repeatability", table, {"replicates": ["a", "b"]}).values
    assert values["wcv_rms"] == pytest.approx(0.1)
    assert values["pct_rc"] == pytest.approx(27.718, abs=0.001)


def test_unequal_numbers_of_replicates_are_pooled_by_degrees_of_freedom():
    """Variances 2 (1 df) and 1 (2 df) pool to 4/3; the single replicate is left out and counted."""
    long = {"long": pd.DataFrame({"s": [1, 1, 2, 2, 2, 3], "y": [9.0, 11, 4, 5, 6, 7]})}
    result = run("repeatability", long, {"layout": "long", "subject": "s", "value": "y"})
    assert result.values["wms"] == pytest.approx(4 / 3)
    assert result.values["df"] == 3
    assert result.values["n_replicates"] is None
    assert any("1 of 3 subjects left out" in note for note in result.notes)


def test_claim_holds_only_when_the_upper_limit_stays_below_it():
    rng = np.random.default_rng(5)
    table = wide(a=rng.normal(100, 5, 40), b=rng.normal(100, 5, 40))
    wcv = run("repeatability", table, {"replicates": ["a", "b"]}).values
    assert wcv["wcv_rms"] < 0.055 < wcv["wcv_rms_ci_high"] < 0.2
    close = run("repeatability", table, {"replicates": ["a", "b"], "claim_wcv": 0.055}).values
    wide_claim = run("repeatability", table, {"replicates": ["a", "b"], "claim_wcv": 0.2}).values
    assert (close["claim_met"], wide_claim["claim_met"]) == (0, 1)
    assert close["wcv_rms_upper_one_sided"] < wcv["wcv_rms_ci_high"]


def test_identical_replicates_have_no_interval():
    result = run("repeatability", wide(a=[1.0, 2, 3], b=[1.0, 2, 3]), {"replicates": ["a", "b"]})
    assert result.values["wsd"] == 0
    assert result.values["rc_ci_high"] is None


def test_change_is_flagged_only_beyond_the_coefficient():
    table = wide(before=[10.0, 10, 10, 10], after=[12.7, 12.8, 7.3, 7.2])
    values = run(
        "change_beyond_repeatability", table, {"baseline": "before", "followup": "after", "rc": 2.77}
    )
    assert values.values["changed"] == [0, 1, 0, -1]
    assert (values.values["n_increased"], values.values["n_decreased"]) == (1, 1)


def test_logarithmic_limits_of_change_are_wider_upwards():
    """wCV 20 %: exp(2.7718 sqrt(ln 1.04)) - 1 = +73.1 %, and its inverse, -42.2 %."""
    table = wide(before=[10.0], after=[17.0])
    values = run(
        "change_beyond_repeatability", table, {"baseline": "before", "followup": "after", "wcv_log": 0.2}
    ).values
    reach = 2.771808 * np.sqrt(np.log(1.04))
    assert values["limit_high"] == pytest.approx(100 * (np.exp(reach) - 1), rel=1e-6)
    assert values["limit_low"] == pytest.approx(100 * (np.exp(-reach) - 1), rel=1e-6)
    assert values["changed"] == [0]


def test_exact_intervals_of_the_limits_cover():
    """Bias 0.5, SD 1, n = 20: the exact interval holds the true upper limit in 95 % of 20,000 studies."""
    differences = np.random.default_rng(6).normal(0.5, 1, (20_000, 20))
    bias, sd = differences.mean(1), differences.std(1, ddof=1)
    near, far = exact_limit_factors(20, 1.959964, 0.95)
    truth = 0.5 + 1.959964
    assert np.mean((bias + near * sd <= truth) & (truth <= bias + far * sd)) == pytest.approx(0.95, abs=0.005)


def test_regression_limits_follow_ordinary_least_squares():
    """Slope, standard errors and p-values as statsmodels gives them for both regressions."""
    rng = np.random.default_rng(7)
    truth = rng.uniform(1, 10, 50)
    x, y = truth + rng.normal(0, 0.1 * truth), truth * 1.05 + rng.normal(0, 0.1 * truth)
    values = run("bland_altman_regression", wide(x=x, y=y), {"x": "x", "y": "y", "at": 5}).values
    mean = sm.add_constant((x + y) / 2)
    line = sm.OLS(x - y, mean).fit()
    spread = sm.OLS(np.abs(line.resid), mean).fit()
    assert values["intercept"] == pytest.approx(line.params[0], rel=1e-9)
    assert values["slope_se"] == pytest.approx(line.bse[1], rel=1e-9)
    assert values["slope_p"] == pytest.approx(line.pvalues[1], rel=1e-9)
    assert values["residual_sd"] == pytest.approx(np.sqrt(line.scale), rel=1e-9)
    assert values["absres_slope_p"] == pytest.approx(spread.pvalues[1], rel=1e-9)
    centre = line.params[0] + 5 * line.params[1]
    half = stats.norm.ppf(0.975) * np.sqrt(line.scale)
    assert values["loa_high_at_5_const"] == pytest.approx(centre + half, rel=1e-9)
    varying = 1.96 * np.sqrt(np.pi / 2) * (spread.params[0] + 5 * spread.params[1])
    assert values["loa_half_width_at_5_varying"] == pytest.approx(varying, rel=1e-9)


@pytest.mark.parametrize("statistic", ["constant", "varies"])
def test_intervals_of_repeated_limits_cover(statistic):
    """MOVER intervals hold the true upper limit in 92 to 98 % of 400 studies of 15 items x 3 pairs."""
    rng, covered = np.random.default_rng(8), 0
    between, within = 1.0, 0.5
    truth = 1.959964 * np.sqrt(between**2 + 2 * within**2)
    for _ in range(400):
        item = np.repeat(np.arange(15), 3)
        x = rng.normal(0, between, 15)[item] + rng.normal(0, within, 45)
        long = {"long": pd.DataFrame({"i": item, "x": x, "y": rng.normal(0, within, 45)})}
        values = run(
            f"bland_altman_repeated_true_value_{statistic}", long, {"item": "i", "x": "x", "y": "y"}
        ).values
        covered += values["loa_high_ci_low"] <= truth <= values["loa_high_ci_high"]
    assert 0.92 <= covered / 400 <= 0.98


def test_one_replicate_of_each_item_gives_the_plain_limits():
    rng = np.random.default_rng(9)
    x, y = rng.normal(5, 1, 20), rng.normal(5, 1, 20)
    plain = run("bland_altman", wide(x=x, y=y), {"x": "x", "y": "y"}).values
    long = {"long": pd.DataFrame({"i": range(20), "x": x, "y": y})}
    repeated = run("bland_altman_repeated_true_value_constant", long, {"item": "i", "x": "x", "y": "y"})
    for name in ("bias", "loa_low", "loa_high"):
        assert repeated.values[name] == pytest.approx(plain[name], rel=1e-12)
    assert repeated.values["within_var_x"] is None


def test_methods_with_unlike_numbers_of_replicates():
    """Item 1 has x 1, 3 and y 2; item 2 has x 5 and y 3, 5: mean 1/n is 3/4 for each method."""
    table = pd.DataFrame({"i": [1, 1, 2, 2], "x": [1, 3, 5, np.nan], "y": [2, np.nan, 3, 5]})
    values = run(
        "bland_altman_repeated_true_value_constant", {"long": table}, {"item": "i", "x": "x", "y": "y"}
    ).values
    assert values["bias"] == pytest.approx(0.5)
    assert (values["within_var_x"], values["within_var_y"]) == (2, 2)
    assert values["total_sd"] == pytest.approx(np.sqrt(0.5 + 0.25 * 2 + 0.25 * 2))


def test_concordance_of_equal_pairs_is_one_without_interval():
    result = run("lin_ccc", wide(x=[1.0, 2, 4], y=[1.0, 2, 4]), {"x": "x", "y": "y"})
    assert result.values["ccc"] == pytest.approx(1)
    assert result.values["ci_low"] is None


def test_shift_lowers_concordance_but_not_correlation():
    """Shift by d: ccc = 2 s² / (2 s² + d²) with the variance over n."""
    x = np.array([1.0, 2, 3, 4, 5])
    values = run("lin_ccc", wide(x=x, y=x + 2), {"x": "x", "y": "y"}).values
    assert values["pearson"] == pytest.approx(1)
    assert values["ccc"] == pytest.approx(4 / 8)
