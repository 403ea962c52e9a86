"""Variance components against statsmodels, closed forms and each other."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from voxtrial.validation.registry import run


def crossed(seed, *, trials=2, keep=1.0, interaction=0.4):
    """Return subjects x scanners with known spread, a share of the rows kept."""
    rng = np.random.default_rng(seed)
    subject, scanner = rng.normal(0, 2, 12), rng.normal(0, 0.8, 4)
    both = rng.normal(0, interaction, (12, 4))
    rows = [
        (s, "abcd"[c], 10 + subject[s] + scanner[c] + both[s, c] + rng.normal(0, 0.5))
        for s in range(12)
        for c in range(4)
        for _ in range(trials)
    ]
    table = pd.DataFrame(rows, columns=["s", "c", "y"])
    return table[rng.random(len(table)) <= keep].reset_index(drop=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_reml_of_unbalanced_crossed_factors_reaches_the_likelihood_of_statsmodels(seed):
    """Same components to 0.5 %, and a criterion (-2 log likelihood) that is no worse."""
    table = crossed(seed, keep=0.8)
    values = run(
        "variance_components_reml", {"long": table}, {"response": "y", "random": ["s", "c", "s:c"]}
    ).values
    table["sc"], table["one"] = table["s"].astype(str) + table["c"], 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = smf.mixedlm(
            "y ~ 1", table, groups="one", vc_formula={"s": "0+C(s)", "c": "0+C(c)", "sc": "0+C(sc)"}
        ).fit(reml=True)
    theirs = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    assert values["reml_criterion"] <= -2 * fit.llf + 1e-6
    for name, key in (("var_s", "s"), ("var_c", "c"), ("var_s_c", "sc")):
        assert values[name] == pytest.approx(theirs[key], rel=5e-3, abs=1e-4)
    assert values["var_residual"] == pytest.approx(fit.scale, rel=5e-3)
    assert values["intercept_se"] == pytest.approx(fit.bse_fe["Intercept"], rel=5e-3)


def test_reml_of_balanced_data_is_the_method_of_moments():
    """With no negative estimate both have the same solution (Searle, Casella, McCulloch 1992)."""
    table = crossed(2)
    reml = run(
        "variance_components_reml", {"long": table}, {"response": "y", "random": ["s", "c", "s:c"]}
    ).values
    moments = run("gage_rr_crossed", {"long": table}, {"part": "s", "operator": "c", "response": "y"}).values
    for ours, theirs in (("s", "part"), ("c", "operator"), ("s_c", "interaction")):
        assert reml[f"var_{ours}"] == pytest.approx(moments[f"var_{theirs}"], rel=1e-4)
    assert reml["var_residual"] == pytest.approx(moments["var_repeatability"], rel=1e-5)


def test_component_on_the_boundary_is_zero_with_a_note():
    table = crossed(3, interaction=0.0)
    table["noise"] = np.tile([0, 1], len(table) // 2)
    result = run(
        "variance_components_reml", {"long": table}, {"response": "y", "random": ["s", "c", "noise"]}
    )
    assert result.values["var_noise"] == pytest.approx(0, abs=0.02)
    single = crossed(3, trials=1)
    hopeless = run("variance_components_reml", {"long": single}, {"response": "y", "random": ["s:c"]})
    assert hopeless.values["var_residual"] is None
    assert "cannot be told from the residual" in hopeless.notes[0]


def test_three_nested_levels_by_expected_mean_squares():
    """Site / day / run, 3 x 4 x 2 cells of 2: differences of mean squares over their sizes."""
    rng = np.random.default_rng(4)
    index = pd.MultiIndex.from_product(
        [range(3), range(4), range(2), range(2)], names=["site", "day", "run", "rep"]
    )
    table = index.to_frame(index=False)
    table["y"] = 50 + 3 * rng.normal(size=3)[table.site] + rng.normal(size=len(table))
    values = run(
        "variance_components_nested", {"long": table}, {"response": "y", "factors": "site/day/run"}
    ).values
    y = table["y"].to_numpy().reshape(3, 4, 2, 2)
    mean_squares = [
        16 * y.mean((1, 2, 3)).var(ddof=1),
        4 * y.mean((2, 3)).var(axis=1, ddof=1).mean(),
        2 * y.mean(3).var(axis=2, ddof=1).mean(),
        y.var(axis=3, ddof=1).mean(),
    ]
    raw = [(mean_squares[0] - mean_squares[1]) / 16, (mean_squares[1] - mean_squares[2]) / 4]
    raw += [(mean_squares[2] - mean_squares[3]) / 2, mean_squares[3]]
    names = ("var_site", "var_site_day", "var_site_day_run", "var_error")
    for name, expected in zip(names, raw, strict=True):
        assert values[name] == pytest.approx(max(expected, 0), rel=1e-9, abs=1e-12)
    assert values["var_total"] == pytest.approx(sum(max(v, 0) for v in raw), rel=1e-9)


def test_unbalanced_nested_experiment_is_undefined_and_says_what_takes_it():
    table = pd.DataFrame({"d": [1, 1, 2, 2, 2], "y": [1.0, 2, 3, 4, 5]})
    result = run("variance_components_nested", {"long": table}, {"response": "y", "factors": "d"})
    assert result.values["var_total"] is None
    assert "variance_components_reml" in result.notes[0]


def test_gage_study_with_one_trial_pools_interaction_and_error():
    result = run(
        "gage_rr_crossed", {"long": crossed(5, trials=1)}, {"part": "s", "operator": "c", "response": "y"}
    )
    assert result.values["var_interaction"] is None
    assert result.values["pooled_sd_repeatability"] ** 2 == pytest.approx(result.values["ms_interaction"])


def test_reproducibility_coefficient_of_known_components():
    """Scanner SD 1, interaction SD 0.5, repetition SD 1: RDC = 2.7718 x 1.5 over many scanners."""
    rng = np.random.default_rng(6)
    s, c = 40, 60
    y = rng.normal(0, 5, (s, 1, 1)) + rng.normal(0, 1, (1, c, 1)) + rng.normal(0, 0.5, (s, c, 1))
    y = y + rng.normal(0, 1, (s, c, 2))
    index = pd.MultiIndex.from_product([range(s), range(c), range(2)], names=["s", "c", "rep"])
    table = {"long": index.to_frame(index=False).assign(y=y.ravel())}
    values = run("reproducibility", table, {"subject": "s", "condition": "c", "value": "y"}).values
    assert values["rdc"] == pytest.approx(2.7718 * 1.5, rel=0.1)
    assert values["rdc_ci_low"] < 2.7718 * 1.5 < values["rdc_ci_high"]
    assert values["var_repeatability"] == pytest.approx(1, rel=0.1)
