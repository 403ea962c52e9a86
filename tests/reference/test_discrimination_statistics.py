"""Accuracy, ROC and reader statistics against closed forms, published tables and other programs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from sklearn import metrics
from stats_examples import patients, readings
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from voxtrial.validation.accuracy.bootstrap_auc import resampled_areas
from voxtrial.validation.accuracy.delong import area, areas, hanley_mcneil_se
from voxtrial.validation.accuracy.mrmc import (
    components,
    delong_covariance,
    jackknife_covariance,
    unbiased_covariance,
)
from voxtrial.validation.accuracy.operating_point import choose
from voxtrial.validation.accuracy.proportion_differences import (
    miettinen_nurminen,
    miettinen_nurminen_z,
    tango,
    tango_z,
)
from voxtrial.validation.accuracy.roc import roc_points
from voxtrial.validation.registry import run

OVARIAN = """
3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1
3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0
4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1
4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1
2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1
"""


def binormal(distance: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Return normal quantiles around ``distance`` and around 0: a sample without sampling error."""
    quantiles = special.ndtri((np.arange(n) + 0.5) / n)
    return quantiles + distance, quantiles


def kernel_matrix(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


@pytest.mark.parametrize(("distance", "expected"), [(1.0, 0.7602), (1.5, 0.8556)])
def test_area_of_a_binormal_curve(distance: float, expected: float) -> None:
    """The closed form is Phi(d / sqrt(2))."""
    assert area(*binormal(distance)).auc == pytest.approx(expected, abs=1e-4)


def test_hanley_mcneil_standard_error() -> None:
    """0.0480 at an area of 0.76 with 50 cases of each class, by their formula."""
    assert hanley_mcneil_se(0.76, 50, 50) == pytest.approx(0.0480, abs=5e-5)


def test_operating_points_of_a_binormal_curve() -> None:
    """d' = 1.5: sensitivity 0.586 at specificity 0.90, specificity 0.442 at 0.95, Youden d'/2, J 0.547."""
    positive, negative = binormal(1.5)
    at_specificity = choose(positive, negative, "specificity", target=0.90)
    assert (positive >= at_specificity).mean() == pytest.approx(0.586, abs=1e-3)
    at_sensitivity = choose(positive, negative, "sensitivity", target=0.95)
    assert (negative < at_sensitivity).mean() == pytest.approx(0.442, abs=1.5e-3)
    youden = choose(positive, negative, "youden")
    assert youden == pytest.approx(0.75, abs=0.05)  # the curve is flat there: 4,000 steps tie
    assert (positive >= youden).mean() - (negative >= youden).mean() == pytest.approx(0.547, abs=1e-3)


def test_cost_rule_with_equal_costs_and_prevalences_is_youdens() -> None:
    positive, negative = binormal(1.5)
    assert choose(positive, negative, "cost") == choose(positive, negative, "youden")


def test_three_curves_of_ovarian_cancer_patients() -> None:
    """DeLong 1988: areas .7366, .7258, .6478 (SE .0927, .1028, .1000); chi-square 2.534, p .2817."""
    table = pd.DataFrame(
        np.array(OVARIAN.split(), dtype=float).reshape(-1, 4), columns=["alb", "tp", "kg", "y"]
    )
    table["kg"] = 10 - table["kg"]
    found, covariance = areas(table["y"].to_numpy() == 1, table[["alb", "kg", "tp"]].to_numpy())
    np.testing.assert_allclose(found, [0.7366, 0.7258, 0.6478], atol=5e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.0927, 0.1028, 0.1000], atol=5e-5)
    tested = run(
        "auc_comparison_global", {"wide": table}, {"truth": "y", "scores": ["alb", "kg", "tp"]}
    ).values
    assert tested["chi2"] == pytest.approx(2.534, abs=5e-4)
    assert tested["df"] == 2
    assert tested["p"] == pytest.approx(0.2817, abs=5e-5)


def test_curves_and_average_precision_agree_with_scikit_learn() -> None:
    table = patients()
    y, score = table["y"].to_numpy(), table["s2"].to_numpy()
    curve = roc_points(score[y == 1], score[y == 0])
    fpr, tpr, thresholds = metrics.roc_curve(y, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.sensitivity, tpr)
    np.testing.assert_allclose(curve.false_positive_rate, fpr)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    inputs = {"truth": "y", "score": "s2"}
    found = run("average_precision", {"wide": table}, inputs).values["average_precision"]
    assert found == pytest.approx(metrics.average_precision_score(y, score), abs=1e-12)
    partial = run("partial_auc", {"wide": table}, {**inputs, "range": [0.7, 1]}).values[
        "pauc_specificity_mcclish"
    ]
    assert partial == pytest.approx(metrics.roc_auc_score(y, score, max_fpr=0.3), abs=1e-12)


@pytest.mark.parametrize("stratified", [True, False])
def test_bootstrap_spread_is_that_of_resampling_one_by_one(stratified: bool) -> None:
    """5,000 resamples against 2,000 by the definition: means to 4 standard errors, spreads to 10 %."""
    table = patients()
    y, score = table["y"].to_numpy(), table["s2"].to_numpy()
    ours = resampled_areas(
        score[y == 1], score[y == 0], 5000, np.random.default_rng(1), stratified=stratified
    )
    rng = np.random.default_rng(2)
    theirs = []
    while len(theirs) < 2000:
        pick = rng.integers(0, y.size, y.size)
        if stratified:
            pick = np.concatenate([rng.choice(np.flatnonzero(y == k), (y == k).sum()) for k in (0, 1)])
        drawn, value = y[pick] == 1, score[pick]
        theirs.append(kernel_matrix(value[drawn], value[~drawn]).mean())
    spread = np.std(theirs)
    assert ours.mean() == pytest.approx(np.mean(theirs), abs=4 * spread / np.sqrt(2000))
    assert ours.std() == pytest.approx(spread, rel=0.1)


def test_bootstrap_does_not_depend_on_the_number_of_threads() -> None:
    positive, negative = binormal(1.0, 300)
    runs = [
        resampled_areas(positive, negative, 101, np.random.default_rng(5), threads=threads)
        for threads in (1, 2, 7)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])


def test_single_intervals_agree_with_statsmodels() -> None:
    for x, n in [(3, 17), (16, 17), (40, 90)]:
        ours = run("proportion_ci", {}, {"x": x, "n": n, "conf": 0.9}).values
        for method, theirs in [
            ("clopper_pearson", "beta"),
            ("wilson", "wilson"),
            ("agresti_coull", "agresti_coull"),
            ("jeffreys", "jeffreys"),
            ("wald", "normal"),
        ]:
            expected = proportion_confint(x, n, alpha=0.1, method=theirs)
            found = (ours[f"{method}_low"], ours[f"{method}_high"])
            if method in ("agresti_coull", "wald"):
                found = tuple(np.clip(found, 0, 1))
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_newcombe_difference_agrees_with_statsmodels() -> None:
    ours = run("proportion_difference_independent", {}, {"x1": 9, "n1": 10, "x2": 3, "n2": 12}).values
    theirs = confint_proportions_2indep(9, 10, 3, 12, method="newcomb", compare="diff")
    np.testing.assert_allclose([ours["newcombe_low"], ours["newcombe_high"]], theirs, atol=1e-10)


def test_score_intervals_end_where_the_score_statistic_is_z() -> None:
    """The definition of both intervals, at three confidence levels."""
    for level in (0.8, 0.95, 0.99):
        z = stats.norm.isf((1 - level) / 2)
        low, high = miettinen_nurminen(56, 70, 48, 80, level)
        assert miettinen_nurminen_z(56, 70, 48, 80, low) == pytest.approx(z, abs=1e-6)
        assert miettinen_nurminen_z(56, 70, 48, 80, high) == pytest.approx(-z, abs=1e-6)
        low, high = tango(8, 3, 40, level)
        assert tango_z(8, 3, 40, low) == pytest.approx(z, abs=1e-6)
        assert tango_z(8, 3, 40, high) == pytest.approx(-z, abs=1e-6)


def test_clusters_of_one_give_delongs_variance() -> None:
    table = patients().assign(own=range(60))
    inputs = {"truth": "y", "score": "s2"}
    clustered = run("clustered_auc", {"long": table}, {**inputs, "cluster": "own"}).values
    plain = run("roc_auc", {"wide": table}, inputs).values
    assert clustered["variance"] == pytest.approx(plain["delong_var"], rel=1e-12)


def test_subgroups_of_two_levels_give_the_unpaired_delong_statistic() -> None:
    table = patients()
    inputs = {"truth": "y", "score": "s1"}
    grouped = run("subgroups", {"wide": table}, {**inputs, "by": ["sex"], "minimum": 5}).values
    pair = run(
        "auc_comparison_unpaired", {"wide": table}, {**inputs, "group": "sex", "group1": "f", "group2": "m"}
    )
    assert grouped["sex_interaction_chi2"] == pytest.approx(pair.values["D"] ** 2, rel=1e-10)


def test_one_reader_is_the_paired_delong_test() -> None:
    """With one reader the fixed-reader chi-square is DeLong's z squared; random readers are undefined."""
    table = readings().query("reader == 1")
    names = {name: name for name in ("truth", "rating", "treatment", "reader", "case")}
    ours = run("mrmc_obuchowski_rockette", {"long": table}, names).values
    wide = table.pivot_table(index=["case", "truth"], columns="treatment", values="rating").reset_index()
    wide.columns = ["case", "truth", "first", "second"]
    pair = run(
        "auc_comparison_paired", {"wide": wide}, {"truth": "truth", "score1": "first", "score2": "second"}
    )
    assert ours["frrc_test_x2"] == pytest.approx(pair.values["z"] ** 2, rel=1e-10)
    assert ours["frrc_diff_stderr"] == pytest.approx(pair.values["se_difference"], rel=1e-10)
    assert ours["rrrc_test_p_value"] is None


def test_three_treatments_are_compared_in_pairs() -> None:
    table = pd.concat([readings(), readings().query("treatment == 1").assign(treatment=2)], ignore_index=True)
    table.loc[table["treatment"] == 2, "rating"] += table["case"] % 3
    names = {name: name for name in ("truth", "rating", "treatment", "reader", "case")}
    values = run("mrmc_obuchowski_rockette", {"long": table}, names).values
    means = values["rrrc_mean_estimate"]
    expected = [means[0] - means[1], means[0] - means[2], means[1] - means[2]]
    np.testing.assert_allclose(values["rrrc_diff_estimate"], expected)
    assert len(values["rrrc_diff_ci"]) == 6
    assert values["rrrc_test_df1"] == 2


def test_covariances_of_readers_against_brute_force() -> None:
    """Jackknife by leaving out every case in turn; the unbiased one by all quadruples of cases."""
    rng = np.random.default_rng(11)
    truth = np.repeat([True, False], [5, 6])
    ratings = rng.integers(0, 4, (2, 11)).astype(float)
    v10, v01 = components(truth, ratings, "empirical_auc", None)
    left_out = np.array(
        [
            [kernel_matrix(r[keep & truth], r[keep & ~truth]).mean() for r in ratings]
            for keep in ~np.eye(11, dtype=bool)
        ]
    )
    np.testing.assert_allclose(jackknife_covariance(v10, v01), np.cov(left_out.T) * 100 / 11, rtol=1e-10)
    a, b = (kernel_matrix(r[truth], r[~truth]) for r in ratings)
    apart = [
        a[i, j] * b[k, l]
        for i in range(5)
        for j in range(6)
        for k in range(5)
        for l in range(6)
        if i != k and j != l
    ]
    expected = a.mean() * b.mean() - np.mean(apart)
    assert unbiased_covariance(truth, ratings)[0, 1] == pytest.approx(expected, abs=1e-12)
    found, covariance = areas(truth, ratings.T)
    np.testing.assert_allclose(delong_covariance(v10, v01), covariance)
    np.testing.assert_allclose(found, [a.mean(), b.mean()])


def test_predictive_values_at_the_intended_prevalence() -> None:
    """Bayes by hand: sensitivity 0.9, specificity 0.8, prevalence 0.1 give PPV 1/3 and NPV 0.72/0.73."""
    inputs = {"tp": 90, "fn": 10, "fp": 20, "tn": 80, "prevalence": [0.1]}
    values = run("diagnostic_accuracy", {}, inputs).values
    assert values["ppv_at_prev_10pct"] == pytest.approx(1 / 3)
    assert values["npv_at_prev_10pct"] == pytest.approx(0.72 / 0.73)
    assert values["ppv_at_prev_10pct_ci_low"] < 1 / 3 < values["ppv_at_prev_10pct_ci_high"]


def test_threshold_comes_from_the_tuning_rows_alone() -> None:
    table = patients()
    inputs = {"truth": "y", "score": "s1", "split": "split"}
    before = run("operating_point", {"wide": table}, inputs).values
    changed = table.assign(y=table["y"].where(table["split"] == "tuning", 1 - table["y"]))
    after = run("operating_point", {"wide": changed}, inputs).values
    assert before["threshold"] == after["threshold"]
    assert before["sensitivity"] != after["sensitivity"]


def test_sample_size_for_a_goal_holds_its_power() -> None:
    """By the exact binomial distribution the planned n and the next 100 keep the power, n - 1 does not."""
    values = run(
        "sample_size_proportion", {}, {"p": 0.9, "goal": 0.8, "power": 0.8, "half_width": 0.05}
    ).values
    n = values["n_goal"]

    def power(size: int) -> float:
        x = np.arange(size + 1)
        low = np.where(x == 0, 0.0, stats.beta.ppf(0.025, x, size - x + 1))
        return float(stats.binom.pmf(x, size, 0.9)[low > 0.8].sum())

    assert all(power(size) >= 0.8 for size in range(n, n + 100))
    assert power(n - 1) < 0.8
    assert values["power"] == pytest.approx(power(n), abs=1e-10)


def test_clusters_of_one_are_resampled_like_cases_and_larger_ones_spread_more() -> None:
    """Doubling every patient keeps the spread of whole patients, and shrinks that of cases by sqrt 2."""
    table = patients().assign(own=range(60))
    inputs = {"truth": "y", "score": "s2", "resamples": 4000}
    doubled = pd.concat([table, table], ignore_index=True)
    alone = run("bootstrap_auc", {"wide": table}, {**inputs, "stratified": False}).values["se"]
    whole = run("bootstrap_auc", {"wide": doubled}, {**inputs, "cluster": "own"}).values["se"]
    apart = run("bootstrap_auc", {"wide": doubled}, {**inputs, "stratified": False}).values["se"]
    assert whole == pytest.approx(alone, rel=0.06)
    assert apart == pytest.approx(alone / np.sqrt(2), rel=0.06)


def test_planned_noninferiority_trial_has_its_power() -> None:
    """4,000 simulated trials of the planned size: 80 % within 3 points (the plan is asymptotic)."""
    plan = run("sample_size_noninferiority", {}, {"p1": 0.85, "p2": 0.85, "margin": 0.1}).values
    rng = np.random.default_rng(14)
    n1, n2 = plan["n1"], plan["n2"]
    x1, x2 = rng.binomial(n1, 0.85, 4000), rng.binomial(n2, 0.85, 4000)
    trials = pd.Series(list(zip(x1.tolist(), x2.tolist(), strict=True))).value_counts()
    shown = 0
    for (a, b), times in trials.items():
        inputs = {"x1": a, "n1": n1, "x2": b, "n2": n2, "margin": 0.1}
        shown += times * run("noninferiority_independent_proportions", {}, inputs).values["noninferior"]
    assert shown / 4000 == pytest.approx(0.8, abs=0.03)


def test_planned_comparison_of_areas_shrinks_with_their_correlation() -> None:
    """A correlation of one half halves the variance of the difference, up to the unequal variances."""
    inputs = {"auc1": 0.85, "auc2": 0.75}
    independent = run("sample_size_auc_comparison", {}, inputs).values["ncases"]
    paired = run("sample_size_auc_comparison", {}, {**inputs, "correlation": 0.5}).values["ncases"]
    assert paired == pytest.approx(independent / 2, rel=0.02)
