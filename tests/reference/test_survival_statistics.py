"""Survival statistics against lifelines, statsmodels, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from scipy import integrate
from stats_examples import patients
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import survdiff

from voxtrial.validation.accuracy.delong import area
from voxtrial.validation.prediction.penalized import cox_loss, fit_path, logistic_loss
from voxtrial.validation.registry import run
from voxtrial.validation.survival.c_index import concordance, cumulative_dynamic_auc, uno_concordance

TIMED = {"time": "time", "event": "event"}


def cohort(n: int = 300, seed: int = 4) -> pd.DataFrame:
    """Return patients with tied times, censoring, a good and a useless covariate, sites and sexes."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=n), rng.normal(size=n)
    time, censoring = rng.exponential(20 * np.exp(-0.7 * x)), rng.exponential(40, n)
    return pd.DataFrame(
        {
            "time": np.ceil(np.minimum(time, censoring)),
            "event": (time <= censoring).astype(int),
            "x": x,
            "noise": noise,
            "site": rng.integers(0, 4, n),
            "arm": rng.integers(0, 3, n),
            "risk": np.round(x + 0.5 * rng.normal(size=n), 1),
        }
    )


def test_survival_curve_agrees_with_lifelines() -> None:
    table = cohort()
    at = [3, 10, 25]
    ours = run("kaplan_meier", {"wide": table}, {**TIMED, "times": at, "conf": 0.9, "group": "arm"}).values
    theirs = KaplanMeierFitter(alpha=0.1).fit(table["time"], table["event"])
    np.testing.assert_allclose(ours["survival"], theirs.survival_function_at_times(at), rtol=1e-12)
    limits = theirs.confidence_interval_survival_function_.loc[at]
    np.testing.assert_allclose(ours["loglog_ci_low"], limits.iloc[:, 0], rtol=1e-10)
    np.testing.assert_allclose(ours["loglog_ci_high"], limits.iloc[:, 1], rtol=1e-10)
    assert ours["median"] == theirs.median_survival_time_
    test = multivariate_logrank_test(table["time"], table["arm"], table["event"])
    assert ours["logrank_chi2"] == pytest.approx(test.test_statistic, rel=1e-8)
    assert ours["logrank_df"] == 2


def test_stratified_log_rank_agrees_with_statsmodels() -> None:
    table = cohort()
    ours = run("logrank_stratified", {"wide": table}, {**TIMED, "group": "arm", "strata": "site"}).values
    chi2, p = survdiff(table["time"], table["event"], table["arm"], strata=table["site"])
    assert ours["chi2"] == pytest.approx(chi2, rel=1e-10)
    assert ours["p"] == pytest.approx(p, rel=1e-8)
    assert sum(ours["observed"]) == table["event"].sum()


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_stratified_cox_agrees_with_statsmodels(ties: str) -> None:
    table = cohort()
    inputs = {**TIMED, "covariates": ["x", "noise"], "strata": ["site"], "ties": ties}
    ours = run("cox_stratified", {"wide": table}, inputs).values
    model = PHReg(
        table["time"], table[["x", "noise"]], status=table["event"], strata=table["site"], ties=ties
    )
    theirs = model.fit()
    np.testing.assert_allclose(ours["coef"], theirs.params, rtol=1e-6)
    np.testing.assert_allclose(ours["se"], theirs.bse, rtol=1e-6)
    assert ours["loglik"] == pytest.approx(theirs.llf, rel=1e-9)


def test_stratified_cox_agrees_with_lifelines() -> None:
    """To 1e-4: lifelines stops its Newton steps earlier."""
    table = cohort()
    inputs = {**TIMED, "covariates": ["x", "noise"], "strata": ["site", "arm"]}
    ours = run("cox_stratified", {"wide": table}, inputs).values
    theirs = CoxPHFitter().fit(
        table[["time", "event", "x", "noise", "site", "arm"]], "time", "event", strata=["site", "arm"]
    )
    np.testing.assert_allclose(ours["coef"], theirs.params_, rtol=1e-4)
    np.testing.assert_allclose(ours["se"], theirs.standard_errors_, rtol=1e-4)
    assert ours["loglik"] == pytest.approx(theirs.log_likelihood_, rel=1e-8)


def test_exponential_survival_has_its_closed_form() -> None:
    """Rate 0.1, times at the quantiles, no censoring: S(5) = exp(-0.5), median ln 2 / 0.1, mean up to 20."""
    n = 20_000
    time = -np.log1p(-(np.arange(n) + 0.5) / n) / 0.1
    table = pd.DataFrame({"time": time, "event": 1})
    values = run("kaplan_meier", {"wide": table}, {**TIMED, "times": [5], "tau": 20}).values
    assert values["survival"][0] == pytest.approx(np.exp(-0.5), abs=1e-4)
    assert values["median"] == pytest.approx(np.log(2) / 0.1, rel=1e-3)
    assert values["rmst"] == pytest.approx((1 - np.exp(-2)) / 0.1, rel=1e-4)


def test_concordance_against_all_pairs() -> None:
    table = cohort(80)
    t, e, r = table["time"].to_numpy(), table["event"].to_numpy() == 1, table["risk"].to_numpy()
    agree = pairs = ties = 0
    for i in range(80):
        for j in range(80):
            if e[i] and (t[i] < t[j] or (t[i] == t[j] and not e[j])):
                pairs += 1
                agree += r[i] > r[j]
                ties += r[i] == r[j]
    found = concordance(t, e, r)
    assert (found.concordant, found.tied) == (agree, ties)
    assert found.estimate == pytest.approx((agree + ties / 2) / pairs, rel=1e-12)


def test_concordance_of_a_class_is_the_area_under_the_curve() -> None:
    """Everyone is followed to one time, failures come first: C is the AUC and its SE close to DeLong's."""
    table = patients()
    positive = table["y"].to_numpy() == 1
    score = table["s2"].to_numpy()
    found = concordance(np.where(positive, 1.0, 2.0), positive, score)
    expected = area(score[positive], score[~positive])
    assert found.estimate == pytest.approx(expected.auc, rel=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(expected.variance), rel=0.05)


def test_uno_without_censoring_is_harrell() -> None:
    table = cohort().assign(event=1)
    arguments = (table["time"].to_numpy(), table["event"].to_numpy() == 1, table["risk"].to_numpy())
    harrell, uno = concordance(*arguments), uno_concordance(*arguments, np.inf)
    assert uno.estimate == pytest.approx(harrell.estimate, rel=1e-12)
    assert uno.standard_error == pytest.approx(harrell.standard_error, rel=1e-12)


def test_area_at_a_time_without_censoring_is_the_plain_area() -> None:
    table = cohort().assign(event=1)
    t, r = table["time"].to_numpy(), table["risk"].to_numpy()
    found = cumulative_dynamic_auc(t, np.ones(t.size, dtype=bool), r, 9.5)
    expected = area(r[t < 9.5], r[t > 9.5])
    assert found.auc == pytest.approx(expected.auc, rel=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(expected.variance), rel=0.02)


@pytest.mark.parametrize("which", ["uno", "auc"])
def test_standard_errors_with_censoring_agree_with_the_jackknife(which: str) -> None:
    """Leaving out each of 300 patients in turn, to 3 %."""
    table = cohort()
    columns = (table["time"].to_numpy(), table["event"].to_numpy() == 1, table["risk"].to_numpy())

    def estimate(keep: np.ndarray) -> tuple[float, float]:
        kept = [column[keep] for column in columns]
        found = uno_concordance(*kept, 40.5) if which == "uno" else cumulative_dynamic_auc(*kept, 15.5)
        return (found.estimate if which == "uno" else found.auc), found.standard_error

    _, error = estimate(np.ones(300, dtype=bool))
    left_out = [estimate(keep)[0] for keep in ~np.eye(300, dtype=bool)]
    assert error == pytest.approx(np.sqrt(299**2 / 300 * np.var(left_out, ddof=1)), rel=0.03)


def test_incidence_of_the_only_cause_is_one_minus_survival() -> None:
    table = cohort()
    incidence = run("cumulative_incidence", {"wide": table}, {**TIMED, "times": [5, 20]}).values
    curve = run("kaplan_meier", {"wide": table}, {**TIMED, "times": [5, 20]}).values
    np.testing.assert_allclose(incidence["cif_cause1"], 1 - np.array(curve["survival"]), rtol=1e-12)
    np.testing.assert_allclose(incidence["se_cause1"], curve["greenwood_se"], rtol=0.01)


def test_incidences_of_all_causes_and_survival_sum_to_one() -> None:
    table = cohort().assign(event=lambda t: t["event"] * (1 + t["site"] % 3))
    values = run("cumulative_incidence", {"wide": table}, {**TIMED, "times": [5, 20]}).values
    any_event = run(
        "kaplan_meier", {"wide": table.assign(event=table["event"] > 0)}, {**TIMED, "times": [5, 20]}
    )
    total = sum(np.array(values[f"cif_cause{c}"]) for c in (1, 2, 3))
    np.testing.assert_allclose(total + any_event.values["survival"], 1, rtol=1e-12)


def test_incidence_of_constant_hazards_has_its_closed_form() -> None:
    """Hazards 0.02 and 0.08: the incidence of the first is 0.2 (1 - exp(-0.1 t)) by integration."""
    rng = np.random.default_rng(9)
    n = 40_000
    table = pd.DataFrame({"time": rng.exponential(10, n), "event": np.where(rng.random(n) < 0.2, 1, 2)})
    found = run("cumulative_incidence", {"wide": table}, {**TIMED, "times": [8]}).values["cif_cause1"][0]
    expected, _ = integrate.quad(lambda u: 0.02 * np.exp(-0.1 * u), 0, 8)
    assert found == pytest.approx(expected, abs=4 * np.sqrt(0.1 / n))


def test_penalised_cox_with_a_tiny_ridge_is_the_cox_fit() -> None:
    table = cohort()
    x = table[["x", "noise"]].to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    loss = cox_loss(table["time"].to_numpy(), table["event"].to_numpy() == 1)
    ours = fit_path(x, loss, [1e-8], 0.0, intercept=None)[0].coefficients
    theirs = PHReg(table["time"], x, status=table["event"], ties="breslow").fit().params
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_penalised_cox_agrees_with_lifelines() -> None:
    """The same objective: lifelines adds the ridge to the mean log-likelihood; there are no ties."""
    rng = np.random.default_rng(12)
    table = cohort().assign(time=lambda t: t["time"] + rng.random(len(t)))
    x = table[["x", "noise"]].to_numpy()
    loss = cox_loss(table["time"].to_numpy(), table["event"].to_numpy() == 1)
    ours = fit_path(x, loss, [0.1], 0.0, intercept=None)[0].coefficients
    fitter = CoxPHFitter(penalizer=0.1)
    theirs = fitter.fit(table[["time", "event", "x", "noise"]], "time", "event").params_
    np.testing.assert_allclose(ours, theirs, atol=0.02)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_penalised_logistic_agrees_with_scikit_learn(ratio: float) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(5)
    x = rng.normal(size=(100, 8))
    y = rng.random(100) < 1 / (1 + np.exp(-x[:, 0] + 0.5 * x[:, 1] - 0.4))
    penalty = 0.05
    ours = fit_path(x, logistic_loss(y), [penalty], ratio, intercept=0.0)[0]
    model = LogisticRegression(
        l1_ratio=ratio, C=1 / (penalty * 100), solver="saga", tol=1e-8, max_iter=20_000
    )
    model.fit(x, y)
    np.testing.assert_allclose(ours.coefficients, model.coef_[0], atol=1e-3)
    assert ours.intercept == pytest.approx(model.intercept_[0], abs=1e-3)
