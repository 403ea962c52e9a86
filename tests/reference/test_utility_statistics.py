"""Calibration, utility, summary and tabular statistics against closed forms and published analyses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special
from sklearn import metrics
from stats_examples import patients
from statsmodels.api import GLM, families

from voxtrial.validation.accuracy.calibration import hosmer_lemeshow
from voxtrial.validation.prediction.pathways import mean_z, read_gmt, single_sample_enrichment
from voxtrial.validation.registry import run
from voxtrial.validation.tables import StatisticError
from voxtrial.validation.utility.economics import frontier

BCG = """
4 119 11 128 6 300 29 274 3 228 11 209 62 13536 248 12619 33 5036 47 5761 180 1361 372 1079 8 2537 10 619
505 87886 499 87892 29 7470 45 7232 17 1699 65 1600 186 50448 141 27197 5 2493 3 2338 27 16886 29 17825
"""


def test_simulated_truth_has_slope_one_and_intercept_zero() -> None:
    """Outcomes drawn from the predictions themselves; 4 standard errors of 50,000 cases."""
    rng = np.random.default_rng(6)
    logit = rng.normal(-1, 1.2, 50_000)
    table = pd.DataFrame({"p": special.expit(logit)}).assign(
        y=lambda t: (rng.random(len(t)) < t["p"]).astype(int)
    )
    values = run("calibration", {"wide": table}, {"truth": "y", "probability": "p"}).values
    assert values["calibration_slope"] == pytest.approx(1, abs=4 * values["slope_se"])
    assert values["calibration_in_the_large"] == pytest.approx(0, abs=4 * values["citl_se"])
    assert values["ici"] < 0.01
    assert values["ece_10_equal_width"] < 0.01
    assert abs(values["spiegelhalter_z"]) < 4


def test_calibration_agrees_with_statsmodels_and_scikit_learn() -> None:
    table = patients()
    values = run("calibration", {"wide": table}, {"truth": "y", "probability": "p2"}).values
    y, p = table["y"].to_numpy(), table["p2"].to_numpy()
    logit = special.logit(p)
    joint = GLM(y, np.column_stack([np.ones(60), logit]), family=families.Binomial()).fit()
    assert values["calibration_slope"] == pytest.approx(joint.params[1], rel=1e-6)
    assert values["slope_se"] == pytest.approx(joint.bse[1], rel=1e-4)
    large = GLM(y, np.ones(60), family=families.Binomial(), offset=logit).fit()
    assert values["calibration_in_the_large"] == pytest.approx(large.params[0], abs=1e-7)
    assert values["brier"] == pytest.approx(metrics.brier_score_loss(y, p), rel=1e-12)
    assert values["log_loss"] == pytest.approx(metrics.log_loss(y, p), rel=1e-12)


def test_hosmer_lemeshow_by_hand() -> None:
    """Three groups of two: expected 0.2, 0.8, 1.6 events of 2, observed 0, 1, 2."""
    p = np.array([0.1, 0.1, 0.35, 0.45, 0.8, 0.8])
    y = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    expected = sum((o - e) ** 2 * (1 / e + 1 / (2 - e)) for o, e in [(0, 0.2), (1, 0.8), (2, 1.6)])
    found, groups = hosmer_lemeshow(y, p, 3)
    assert groups == 3
    assert found == pytest.approx(expected, rel=1e-12)


def test_treating_all_crosses_zero_at_the_prevalence() -> None:
    """Treat-all is prevalence - (1 - prevalence) odds; a perfect marker gains the prevalence everywhere."""
    table = patients()
    prevalence = table["y"].mean()
    inputs = {"truth": "y", "predictors": ["y"], "thresholds": [0.2, float(prevalence)]}
    values = run("decision_curve", {"wide": table}, inputs).values
    assert values["net_benefit_all"][0] == pytest.approx(prevalence - (1 - prevalence) * 0.25)
    assert values["net_benefit_all"][1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(values["net_benefit_y"], prevalence)


def test_given_prevalence_equal_to_the_observed_one_changes_nothing() -> None:
    table = patients()
    inputs = {"truth": "y", "predictors": ["p2"], "thresholds": [0.1, 0.3, 0.6]}
    plain = run("decision_curve", {"wide": table}, inputs).values
    given = run("decision_curve", {"wide": table}, {**inputs, "prevalence": float(table["y"].mean())}).values
    np.testing.assert_allclose(given["net_benefit_p2"], plain["net_benefit_p2"], rtol=1e-12)
    np.testing.assert_allclose(given["net_benefit_all"], plain["net_benefit_all"], rtol=1e-12)


def test_case_control_net_benefit_by_hand() -> None:
    """Sensitivity 3/4, false positive rate 1/4, prevalence 0.1, threshold 0.2: 0.075 - 0.225/4."""
    table = pd.DataFrame({"y": [1] * 4 + [0] * 4, "t": [1, 1, 1, 0, 1, 0, 0, 0]})
    inputs = {"truth": "y", "predictors": ["t"], "thresholds": [0.2], "prevalence": 0.1}
    values = run("decision_curve", {"wide": table}, inputs).values
    assert values["net_benefit_t"] == [pytest.approx(0.075 - 0.225 / 4)]
    assert values["net_benefit_all"] == [pytest.approx(0.1 - 0.9 / 4)]


def test_survival_net_benefit_without_censoring_is_that_of_the_class() -> None:
    table = patients().assign(event=1).assign(died=lambda t: (t["time"] <= 0.4).astype(int))
    shared = {"predictors": ["p1"], "thresholds": [0.2, 0.5]}
    timed = {"time": "time", "event": "event", "horizon": 0.4}
    survival = run("decision_curve_survival", {"wide": table}, {**shared, **timed}).values
    classes = run("decision_curve", {"wide": table}, {**shared, "truth": "died"}).values
    for name in ("net_benefit_p1", "net_benefit_all"):
        np.testing.assert_allclose(survival[name], classes[name], atol=1e-12)


def test_random_effects_of_the_vaccine_trials() -> None:
    """Colditz 1994 by metafor: REML tau2 0.3132, -0.7145 (SE 0.1798), Q 152.2330; DL tau2 0.3088."""
    a, b, c, d = np.array(BCG.split(), dtype=float).reshape(-1, 4).T
    variance = 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)
    table = pd.DataFrame(
        {"trial": range(13), "rr": np.log(a / (a + b) / (c / (c + d))), "se": np.sqrt(variance)}
    )
    inputs = {"cohort": "trial", "estimate": "rr", "se": "se"}
    values = run("random_effects_summary", {"wide": table}, inputs).values
    assert values["tau2_reml"] == pytest.approx(0.3132, abs=5e-5)
    assert values["tau2_dl"] == pytest.approx(0.3088, abs=5e-5)
    assert values["summary"] == pytest.approx(-0.7145, abs=5e-5)
    assert values["summary_scale_se"] == pytest.approx(0.1798, abs=5e-5)
    assert values["q"] == pytest.approx(152.2330, abs=5e-5)
    assert values["summary_ci_low"] == pytest.approx(-1.0669, abs=5e-5)
    assert values["summary_ci_high"] == pytest.approx(-0.3622, abs=5e-5)
    assert values["prediction_low"] < values["hksj_ci_low"] < values["summary"]


def test_shapley_values_of_dependent_features() -> None:
    """Weights (1, 2, 0), x (1, -0.5, 2), correlations 0.8 and 0.4: a feature without weight gets 0.66."""
    inputs = {
        "coefficients": [1, 2, 0],
        "x": [1, -0.5, 2],
        "covariance": [[1, 0.8, 0], [0.8, 1, 0.4], [0, 0.4, 1]],
    }
    values = run("shapley_linear", {}, inputs).values
    np.testing.assert_allclose(values["interventional"], [1, -1, 0])
    np.testing.assert_allclose(values["conditional"], [2.2794, -2.9397, 0.6603], atol=5e-5)
    assert sum(values["conditional"]) == pytest.approx(0, abs=1e-12)


def test_shapley_values_of_independent_features_agree() -> None:
    inputs = {
        "coefficients": [1, 2, 3],
        "x": [1, 2, -1],
        "covariance": np.diag([1, 4, 9]).tolist(),
        "mean": [0, 1, 0],
    }
    values = run("shapley_linear", {}, inputs).values
    np.testing.assert_allclose(values["conditional"], values["interventional"], atol=1e-12)


def test_frontier_by_hand() -> None:
    """C is dearer and worse than B; D lies above the line from B to E."""
    cost, effect = np.array([0.0, 10, 20, 30, 40]), np.array([0.0, 2, 1, 2.5, 4])
    assert frontier(cost, effect) == ([0, 1, 4], 1, 1)


def test_plane_agrees_with_the_normal_acceptability() -> None:
    table = patients()
    inputs = {"arm": "arm", "cost": "cost", "qaly": "qaly", "lambda": [0, 100, 1000], "resamples": 4000}
    plane = run("cost_effectiveness_plane", {"long": table}, inputs).values
    normal = run("cost_effectiveness", {"long": table}, inputs).values
    np.testing.assert_allclose(plane["ceac"], normal["ceac"], atol=0.03)
    quadrants = [plane[name] for name in ("north_east", "north_west", "south_west", "south_east")]
    assert sum(quadrants) == pytest.approx(1)


def test_variance_of_a_mean_of_correlated_genes() -> None:
    """20 genes with correlation 0.3: (1 + 19 * 0.3) / 20 = 0.335, of 50,000 patients to 2 %."""
    rng = np.random.default_rng(2)
    shared = rng.normal(size=(50_000, 1))
    genes = np.sqrt(0.3) * shared + np.sqrt(0.7) * rng.normal(size=(50_000, 20))
    assert mean_z(genes, np.zeros(20), np.ones(20)).var() == pytest.approx(0.335, rel=0.02)


def test_enrichment_of_four_genes_by_hand() -> None:
    """The set holds the first and third of four ranked genes; weight 0 makes the shares plain counts."""
    expression = np.array([[9.0, 7.0, 5.0, 3.0]])
    expected = 0.5 + (0.5 - 0.5) + (1 - 0.5) + (1 - 1)
    assert single_sample_enrichment(expression, [0, 2], weight=0) == pytest.approx([expected])
    best = single_sample_enrichment(expression, [0, 1])
    assert best > single_sample_enrichment(expression, [1, 2]) > single_sample_enrichment(expression, [2, 3])


def test_gene_sets_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("hypoxia\thttps://example.org\tHIF1A\tVEGFA\n\nempty\tnothing\n")
    with pytest.raises(StatisticError, match="empty"):
        read_gmt(file)
    file.write_text("hypoxia\thttps://example.org\tHIF1A\tVEGFA\n")
    assert read_gmt(file) == {"hypoxia": ["HIF1A", "VEGFA"]}


def test_permuted_outcomes_give_chance_only_when_the_validation_is_nested() -> None:
    """60 patients, 1,000 features of noise: 0.5 nested, far above when features are screened beforehand."""
    rng = np.random.default_rng(21)
    names = [f"f{k}" for k in range(1000)]
    table = pd.DataFrame(rng.normal(size=(60, 1000)), columns=names).assign(y=np.arange(60) % 2)
    inputs = {
        **{"truth": "y", "features": names, "model": "ridge", "screen": 10},
        **{"outer": 3, "inner": 3, "permutations": 6, "seed": 3},
    }
    values = run("nested_cross_validation", {"wide": table}, inputs).values
    assert values["permuted_nested_mean"] == pytest.approx(0.5, abs=0.12)
    assert values["permuted_unnested_mean"] > 0.75


def test_nested_validation_finds_a_signal_and_keeps_patients_together() -> None:
    table = patients()
    inputs = {"truth": "y", "features": [f"g{k}" for k in range(6)], "outer": 3, "group": "patient"}
    values = run("nested_cross_validation", {"wide": table}, inputs).values
    assert values["performance"] > 0.55
    again = run("nested_cross_validation", {"wide": table}, inputs).values
    assert values == again


def test_time_saved_by_hand() -> None:
    """Differences 10, 12, 14: mean 12, SD 2, t with 2 degrees of freedom 4.3027."""
    table = pd.DataFrame({"with": [50.0, 48, 46], "without": [60.0, 60, 60], "reader": ["a", "b", "c"]})
    inputs = {"with": "with", "without": "without"}
    values = run("time_saved", {"wide": table}, inputs).values
    assert values["saved"] == pytest.approx(12)
    assert values["saved_ci_low"] == pytest.approx(12 - 4.30265 * 2 / np.sqrt(3), abs=1e-4)
    assert values["share_saved"] == pytest.approx(1 - (50 * 48 * 46) ** (1 / 3) / 60)
    assert run("time_saved", {"wide": table}, {**inputs, "reader": "reader"}).values == values


def test_discounting_moves_one_year() -> None:
    values = run("discounted_sum", {}, {"values": [1, 1], "rate": 0.05}).values
    assert values["pv_start_of_year"] == pytest.approx(1 + 1 / 1.05)
    assert values["pv_end_of_year"] == pytest.approx(1 / 1.05 + 1 / 1.05**2)
