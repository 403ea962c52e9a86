"""One small, well-behaved input for each analytical statistic: the ground that tests damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

Example = tuple[dict[str, pd.DataFrame], dict[str, Any]]

MASKS = {
    "array_shape": [12, 14, 16],
    "spacing_mm": [2.0, 1.0, 0.8],
    "reference": [{"shape": "sphere", "center_mm": [10, 6, 6], "radius_mm": 5}],
    "test": [{"shape": "sphere", "center_mm": [12, 7, 6], "radius_mm": 4}],
    "nsd_tolerances_mm": [1],
}


def paired() -> pd.DataFrame:
    """Return 30 subjects with four readings, two raters of four categories, two labels and clusters."""
    rng = np.random.default_rng(20260102)
    truth = rng.gamma(9, 2, 30)
    table = pd.DataFrame(
        {"subject": np.arange(30), **{f"r{i}": truth + rng.normal(0.2 * i, 1, 30) for i in range(4)}}
    )
    grade = rng.integers(1, 5, 30)
    table["g1"], table["g2"] = grade, np.clip(grade + rng.integers(-1, 2, 30), 1, 4)
    table["g3"] = np.clip(grade + rng.integers(-1, 2, 30), 1, 4)
    table["t1"], table["t2"] = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    table["p1"], table["p2"] = rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    table["sd1"], table["sd2"] = 1.0, 1.2
    table["patient"] = np.repeat(np.arange(10), 3)
    table["level"] = np.repeat([1.0, 2.0, 5.0, 10.0, 20.0], 6)
    table["measured"] = table["level"] * rng.normal(1.01, 0.03, 30)
    return table


def crossed() -> pd.DataFrame:
    """Return 8 subjects measured twice on each of 3 scanners."""
    rng = np.random.default_rng(20260103)
    rows = [
        {"subject": s, "scanner": c, "trial": t, "y": 20 + 3 * s + 0.5 * k + rng.normal()}
        for s in range(8)
        for k, c in enumerate("abc")
        for t in range(2)
    ]
    return pd.DataFrame(rows).assign(x=lambda table: table["y"] + rng.normal(0, 1, len(table)))


def nested() -> pd.DataFrame:
    """Return 6 days of 2 runs of 2 replicates."""
    rng = np.random.default_rng(20260104)
    days, runs = rng.normal(0, 2, 6), rng.normal(0, 1, (6, 2))
    rows = [
        {"day": d, "run": r, "y": 100 + days[d] + runs[d, r] + rng.normal()}
        for d in range(6)
        for r in range(2)
        for _ in range(2)
    ]
    return pd.DataFrame(rows)


def agreement_examples() -> dict[str, list[Example]]:
    """Return examples by the name of the statistic."""
    wide, long = {"wide": paired()}, {"long": crossed()}
    single = {"long": crossed().query("trial == 0")}
    xy = {"x": "r0", "y": "r1"}
    counts = pd.DataFrame({"a": [0, 0, 1, 1, 2, 2], "b": [0, 1, 0, 1, 1, 2], "k": [11, 2, 1, 9, 3, 7]})
    return {
        "icc": [
            (wide, {"raters": ["r0", "r1", "r2", "r3"]}),
            (single, {"layout": "long", "subject": "subject", "rater": "scanner", "value": "y"}),
        ],
        "icc_table": [
            (
                single,
                {"subject": "subject", "rater": "scanner", "features": ["x", "y"], "threshold": 0.8},
            )
        ],
        "repeatability": [
            (wide, {"replicates": ["r0", "r1"], "claim_wcv": 0.1}),
            (long, {"layout": "long", "subject": "subject", "value": "y"}),
        ],
        "change_beyond_repeatability": [
            (wide, {"baseline": "r0", "followup": "r1", **limit})
            for limit in ({"rc": 3}, {"pct_rc": 20}, {"wcv_log": 0.1})
        ],
        "bland_altman": [(wide, xy)],
        "bland_altman_ratio": [(wide, xy)],
        "bland_altman_regression": [(wide, {**xy, "at": 20})],
        "bland_altman_repeated_true_value_constant": [(long, {"item": "subject", "x": "x", "y": "y"})],
        "bland_altman_repeated_true_value_varies": [(long, {"item": "subject", "x": "x", "y": "y"})],
        "lin_ccc": [(wide, xy)],
        "variance_components_nested": [({"long": nested()}, {"response": "y", "factors": "day/run nested"})],
        "variance_components_reml": [(long, {"response": "y", "random": ["subject", "scanner"]})],
        "gage_rr_crossed": [(long, {"part": "subject", "operator": "scanner", "response": "y"})],
        "reproducibility": [
            (tables, {"subject": "subject", "condition": "scanner", "value": "y"})
            for tables in (long, single)
        ],
        "deming": [(wide, {**xy, "error_ratio": 1.5})],
        "deming_weighted": [(wide, {**xy, "xstd": "sd1", "ystd": "sd2"})],
        "passing_bablok": [(wide, xy)],
        "linearity": [(wide, {"x": "level", "y": "measured"})],
        "bias_by_level": [(wide, {"reference": "level", "measured": "measured"})],
        "limits_of_quantitation": [
            (wide, {"reference": "level", "measured": "measured", "max_bias_pct": 5, "max_cv_pct": 10})
        ],
        "cohen_kappa": [
            (wide, {"rater1": "g1", "rater2": "g2"}),
            ({"counts": counts}, {"rater1": "a", "rater2": "b", "count": "k"}),
        ],
        "fleiss_kappa": [(wide, {"raters": ["g1", "g2", "g3"]})],
        "krippendorff_alpha": [(wide, {"raters": ["g1", "g2", "g3"], "resamples": 100})],
        "equivalence_tost": [
            (wide, {**xy, "margin": 2}),
            (wide, {**xy, "margin": 1.25, "log": True}),
            (wide, {**xy, "margin": 2, "design": "independent"}),
        ],
        "segmentation_agreement": [({}, MASKS)],
        "lesion_detection": [({}, MASKS)],
        "inter_reader_ceiling": [({}, MASKS | {"readers": [MASKS["reference"], MASKS["test"]]})],
        "multiplicity": [({}, {"p": [0.01, 0.2, 0.03]})],
        "gatekeeping": [({}, {"families": [[0.01], [0.02, 0.2]]})],
        "bootstrap_bca": [
            (wide, {"numerator": "r0", "denominator": "r1", "resamples": 500}),
            (wide, {"numerator": "r0", "cluster": "patient", "resamples": 500}),
        ],
        "case_summary": [
            (wide, {"value": "r0", "resamples": 500}),
            (wide, {"value": "r0", "cluster": "patient", "resamples": 500}),
        ],
        "multilabel_jaccard": [(wide, {"true": ["t1", "t2"], "pred": ["p1", "p2"]})],
    }
