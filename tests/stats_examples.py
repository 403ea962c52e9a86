"""One small, well-behaved input for each clinical, utility and tabular statistic, for tests to damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from agreement_examples import agreement_examples

Example = tuple[dict[str, pd.DataFrame], dict[str, Any]]

N = 60


def patients() -> pd.DataFrame:
    """Return 60 patients with a class, scores, probabilities, times, groups and genes."""
    rng = np.random.default_rng(20260101)
    signal = rng.normal(size=N)
    probability = 1 / (1 + np.exp(-signal))
    time, censoring = rng.exponential(np.exp(-signal)), rng.exponential(2.0, N)
    return pd.DataFrame(
        {
            "y": (rng.random(N) < probability).astype(int),
            "s1": signal,
            "s2": np.round(signal + rng.normal(size=N), 1),
            "s3": rng.normal(size=N),
            "p1": probability,
            "p2": np.clip(probability + 0.1 * rng.normal(size=N), 0.01, 0.99),
            "t1": (signal > 0).astype(int),
            "t2": (signal + rng.normal(size=N) > 0).astype(int),
            "patient": np.repeat(np.arange(N // 2), 2),
            "site": np.tile(["a", "b", "c"], N // 3),
            "sex": np.tile(["f", "m"], N // 2),
            "split": np.repeat(["tuning", "test"], N // 2),
            "time": np.round(np.minimum(time, censoring), 2),
            "event": (time <= censoring).astype(int),
            "cause": np.where(time <= censoring, 1 + np.arange(N) % 2, 0),
            "cost": 1000 + 100 * rng.random(N),
            "qaly": 1 + rng.random(N),
            "arm": np.tile([0, 1], N // 2),
            "with": 50 + 10 * rng.random(N),
            "without": 60 + 10 * rng.random(N),
            **{f"g{k}": signal + rng.normal(size=N) for k in range(6)},
        }
    )


def readings() -> pd.DataFrame:
    """Return 2 treatments x 3 readers x 20 cases."""
    rng = np.random.default_rng(7)
    rows = [
        {
            "treatment": t,
            "reader": r,
            "case": c,
            "truth": c % 2,
            "rating": int(2 * (c % 2) + 4 * rng.random() + t),
        }
        for t in range(2)
        for r in range(3)
        for c in range(20)
    ]
    return pd.DataFrame(rows)


def marks() -> dict[str, pd.DataFrame]:
    """Return 2 modalities x 2 readers with marks on 12 cases, half of them with two lesions."""
    rng = np.random.default_rng(8)
    rows = []
    for m in range(1, 3):
        for r in range(1, 3):
            for c in range(1, 13):
                if rng.random() < 0.5:
                    rows.append({"case": c, "kind": "NL", "lesion": np.nan, "rating": rng.random()})
                if c % 2 == 0:
                    rows.append(
                        {"case": c, "kind": "LL", "lesion": 1 + c // 2 % 2, "rating": 0.5 + rng.random()}
                    )
                for row in rows:
                    row.setdefault("modality", m)
                    row.setdefault("reader", r)
    cases = pd.DataFrame({"case": range(1, 13)}).assign(diseased=lambda t: (t.case % 2 == 0).astype(int))
    return {"marks": pd.DataFrame(rows), "cases": cases.assign(n_lesions=2 * cases.diseased)}


def _examples() -> dict[str, list[Example]]:
    table = patients()
    wide, long = {"wide": table}, {"long": table}
    truth = {"truth": "y"}
    timed = {"time": "time", "event": "event"}
    trial = {"arm": "arm", "cost": "cost", "qaly": "qaly", "lambda": [100, 1000]}
    genes = [f"g{k}" for k in range(6)]
    crossed = {name: name for name in ("truth", "rating", "treatment", "reader", "case")}
    strategies = pd.DataFrame({"name": ["a", "b", "c"], "cost": [0.0, 10, 30], "effect": [0.0, 1, 2]})
    cohorts = pd.DataFrame(
        {"cohort": list("abcd"), "auc": [0.8, 0.7, 0.9, 0.75], "se": [0.03, 0.04, 0.02, 0.05]}
    )
    return {
        "roc_auc": [(wide, {**truth, "score": "s1"}), ({}, {"truth": [0, 1, 0, 1], "score": [1, 2, 3, 4]})],
        "auc_comparison_paired": [(wide, {**truth, "score1": "s1", "score2": "s2"})],
        "auc_comparison_unpaired": [
            (wide, {**truth, "score": "s1", "group": "sex", "group1": "f", "group2": "m"})
        ],
        "auc_comparison_global": [(wide, {**truth, "scores": ["s1", "s2", "s3"]})],
        "roc_curve": [(wide, {**truth, "score": "s2"})],
        "partial_auc": [(wide, {**truth, "score": "s1", "range": [0.8, 1]})],
        "average_precision": [(wide, {**truth, "score": "s2"})],
        "bootstrap_auc": [
            (wide, {**truth, "score": "s1", "resamples": 200, "stratified": stratified})
            for stratified in (True, False)
        ]
        + [(wide, {**truth, "score": "s1", "resamples": 100, "cluster": "patient"})],
        "operating_point": [
            (wide, {**truth, "score": "s1"}),
            (wide, {**truth, "score": "s1", "split": "split", "method": "sensitivity", "target": 0.9}),
        ],
        "power_auc_one": [({}, {"auc": 0.8, "ncases": 20, "ncontrols": 40})],
        "sample_size_auc_comparison": [({}, {"auc1": 0.85, "auc2": 0.75, "correlation": 0.4})],
        "sample_size_noninferiority": [({}, {"p1": 0.9, "p2": 0.9, "margin": 0.1})],
        "sample_size_proportion": [({}, {"p": 0.9, "goal": 0.8, "half_width": 0.05})],
        "proportion_ci": [({}, {"x": 3, "n": 17})],
        "proportion_difference_independent": [({}, {"x1": 9, "n1": 10, "x2": 3, "n2": 12})],
        "proportion_difference_paired": [({}, {"a": 12, "b": 5, "c": 2, "d": 9})],
        "noninferiority_independent_proportions": [
            ({}, {"x1": 45, "n1": 50, "x2": 44, "n2": 50, "margin": 0.1})
        ],
        "noninferiority_paired_proportions": [({}, {"a": 40, "b": 4, "c": 3, "d": 3, "margin": 0.1})],
        "diagnostic_accuracy": [(wide, {**truth, "test": "t1", "prevalence": [0.05, 0.3]})],
        "paired_binary_tests": [(long, {**truth, "test1": "t1", "test2": "t2"})],
        "clustered_auc": [(long, {**truth, "score": "s1", "cluster": "patient"})],
        "clustered_proportion": [(long, {"outcome": "y", "cluster": "patient"})],
        "mrmc_obuchowski_rockette": [
            ({"long": readings()}, {**crossed, "covariance": covariance})
            for covariance in ("DeLong", "jackknife", "unbiased")
        ]
        + [({"long": readings()}, {**crossed, "metric": "sensitivity", "threshold": 3})],
        "froc_jafroc": [(marks(), {})],
        "calibration": [(wide, {**truth, "probability": "p2"})],
        "kaplan_meier": [(wide, {**timed, "group": "site", "times": [0.1, 0.5]})],
        "logrank_stratified": [(wide, {**timed, "group": "sex", "strata": "site"})],
        "cumulative_incidence": [(wide, {"time": "time", "event": "cause", "times": [0.1, 0.5]})],
        "cox": [(wide, {**timed, "covariates": ["s1", "s3"], "ties": ties}) for ties in ("efron", "breslow")],
        "cox_stratified": [(wide, {**timed, "covariates": ["s1"], "strata": ["site", "sex"]})],
        "c_index": [(wide, {**timed, "risk": "s2"})],
        "time_dependent_auc": [(wide, {**timed, "risk": "s2", "times": [0.2, 0.6]})],
        "decision_curve": [
            (wide, {**truth, "predictors": ["p1", "t1"], "thresholds": [0.1, 0.4]}),
            (wide, {**truth, "predictors": ["p1"], "thresholds": [0, 0.1], "prevalence": 0.1}),
        ],
        "decision_curve_survival": [
            (wide, {**timed, "predictors": ["p1"], "horizon": 0.4, "thresholds": [0.2, 0.5]})
        ],
        "reclassification": [(wide, {**truth, "p_old": "p1", "p_new": "p2", "cuts": [0.3, 0.6]})],
        "cost_effectiveness": [(long, trial)],
        "cost_effectiveness_plane": [(long, {**trial, "resamples": 100})],
        "cost_effectiveness_frontier": [
            ({"wide": strategies}, {"strategy": "name", "cost": "cost", "qaly": "effect"})
        ],
        "discounted_sum": [({}, {"values": [1, 1], "rate": 0.03})],
        "markov_cohort": [
            (
                {},
                {
                    **{"transition": [[0.8, 0.2], [0, 1]], "rr": 0.5, "rr_cycles": 2, "state_costs": [100]},
                    **{"cost_mono": 10, "cost_lamivudine": 20, "cycles": 5},
                    **{"discount_cost": 0.03, "discount_effect": 0.03},
                },
            )
        ],
        "subgroups": [
            (wide, {**truth, "score": "s1", "by": ["site", "s3"], "bands": {"s3": [0]}, "minimum": 5}),
            (wide, {**truth, "score": "t1", "by": "sex", "metric": "sensitivity", "minimum": 5}),
        ],
        "random_effects_summary": [
            ({"wide": cohorts}, {"cohort": "cohort", "estimate": "auc", "se": "se", "scale": "logit"}),
            (wide, {**truth, "score": "s1", "cohort": "site", "method": "DL"}),
        ],
        "time_saved": [
            (wide, {"with": "with", "without": "without"}),
            (wide, {"with": "with", "without": "without", "reader": "site"}),
            (long, {"time": "with", "group": "sex", "group1": "f"}),
        ],
        "nested_cross_validation": [
            (wide, {**truth, "features": genes[:3], "outer": 2, "inner": 2}),
            (
                wide,
                {
                    **timed,
                    "blocks": {"a": genes[:2], "b": genes[2:4]},
                    "outer": 2,
                    "inner": 2,
                    "fusion": "late",
                },
            ),
        ],
        "pathway_scores": [
            ({"wide": table[genes]}, {"sets": {"set": genes[:3]}, "method": method})
            for method in ("mean_z", "ssgsea")
        ],
        "shapley_linear": [(wide, {"coefficients": [1, 2], "x": [0.5, 1], "features": ["s1", "s2"]})],
    }


EXAMPLES = {**_examples(), **agreement_examples()}
