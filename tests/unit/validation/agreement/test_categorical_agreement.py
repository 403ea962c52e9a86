"""Kappa and alpha against statsmodels, scikit-learn and the krippendorff package."""

from __future__ import annotations

import krippendorff
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters
from statsmodels.stats.inter_rater import cohens_kappa as statsmodels_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as statsmodels_fleiss

from voxtrial.validation.registry import run
from voxtrial.validation.tables import StatisticError

LEVELS = ("nominal", "ordinal", "interval", "ratio")


def ratings(raters, levels, units=40, missing=0.0, seed=0):
    """Return raters who follow a common truth half of the time."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, levels + 1, units)
    table = {
        f"r{i}": np.where(rng.random(units) < 0.5, truth, rng.integers(1, levels + 1, units)).astype(float)
        for i in range(raters)
    }
    frame = pd.DataFrame(table)
    return frame.mask(rng.random(frame.shape) < missing)


@pytest.mark.parametrize("levels", [2, 3, 7])
def test_kappa_of_any_number_of_levels(levels):
    frame = ratings(2, levels)
    values = run("cohen_kappa", {"wide": frame}, {"rater1": "r0", "rater2": "r1"}).values
    order = sorted(np.unique(frame.to_numpy()))
    table = pd.crosstab(frame.r0, frame.r1).reindex(index=order, columns=order, fill_value=0).to_numpy()
    for name, sklearn_weights, statsmodels_weights in (
        ("kappa", None, None),
        ("kappa_linear", "linear", "linear"),
        ("kappa_quadratic", "quadratic", "quadratic"),
    ):
        assert values[name] == pytest.approx(cohen_kappa_score(frame.r0, frame.r1, weights=sklearn_weights))
        theirs = statsmodels_kappa(table, wt=statsmodels_weights)
        assert values[f"{name}_se"] == pytest.approx(theirs.std_kappa, rel=1e-9)


def test_kappa_from_counts_equals_kappa_from_cases():
    frame = ratings(2, 4)
    counts = frame.groupby(["r0", "r1"]).size().reset_index(name="n")
    inputs = {"rater1": "r0", "rater2": "r1", "levels": [1, 2, 3, 4]}
    from_counts = run("cohen_kappa", {"counts": counts}, {**inputs, "count": "n"})
    assert from_counts == run("cohen_kappa", {"wide": frame}, inputs)


def test_level_that_nobody_used_keeps_its_place_in_the_weights():
    """Levels 1 and 3 of 1 to 3 are two steps apart: linear weight 0, as in the full scale."""
    frame = pd.DataFrame({"a": [1, 1, 3, 3], "b": [1, 3, 3, 3]})
    with_gap = run("cohen_kappa", {"wide": frame}, {"rater1": "a", "rater2": "b", "levels": [1, 2, 3]})
    assert with_gap.values["kappa_linear"] == pytest.approx(with_gap.values["kappa"])


def test_words_are_weighted_in_the_given_order():
    frame = pd.DataFrame({"a": ["low", "mid", "high", "low"], "b": ["mid", "mid", "high", "low"]})
    numbers = frame.apply(lambda column: column.map({"low": 0, "mid": 1, "high": 2}))
    inputs = {"rater1": "a", "rater2": "b"}
    words = run("cohen_kappa", {"wide": frame}, {**inputs, "levels": ["low", "mid", "high"]})
    assert (
        words.values["kappa_linear"] == run("cohen_kappa", {"wide": numbers}, inputs).values["kappa_linear"]
    )


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [([1, 1, 1], [1, 1, 1], "chance agreement is complete"), ([1, 2, 1], [1, 2, 1], "agree completely")],
)
def test_kappa_without_disagreement(a, b, reason):
    result = run("cohen_kappa", {"wide": pd.DataFrame({"a": a, "b": b})}, {"rater1": "a", "rater2": "b"})
    assert result.values["kappa_ci_low"] is None
    assert any(reason in note for note in result.notes)
    assert result.values["kappa"] == (None if len(set(a)) == 1 else 1)


def test_rating_outside_the_levels_is_refused():
    frame = pd.DataFrame({"a": [1, 9], "b": [1, 2]})
    with pytest.raises(StatisticError, match=r"rating 9.* is not among the levels"):
        run("cohen_kappa", {"wide": frame}, {"rater1": "a", "rater2": "b", "levels": [1, 2, 3]})


@pytest.mark.parametrize("raters", [3, 8])
def test_fleiss_kappa_of_any_number_of_raters(raters):
    frame = ratings(raters, 4)
    values = run("fleiss_kappa", {"wide": frame}, {"raters": list(frame)}).values
    counts, _ = aggregate_raters(frame.to_numpy())
    assert values["kappa"] == pytest.approx(statsmodels_fleiss(counts), rel=1e-12)


def test_fleiss_kappa_of_one_category_is_undefined():
    frame = pd.DataFrame({"a": [1, 1], "b": [1, 1]})
    assert run("fleiss_kappa", {"wide": frame}, {"raters": ["a", "b"]}).values["kappa"] is None


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("raters", "levels"), [(2, 2), (4, 5), (9, 3)])
def test_alpha_with_missing_ratings_at_all_levels_of_measurement(raters, levels, missing):
    frame = ratings(raters, levels, missing=missing, seed=raters)
    values = run("krippendorff_alpha", {"wide": frame}, {"raters": list(frame)}).values
    for level in LEVELS:
        theirs = krippendorff.alpha(frame.to_numpy().T, level_of_measurement=level)
        assert values[level] == pytest.approx(theirs, rel=1e-9)


def test_alpha_of_words_is_nominal_or_ordinal_in_the_given_order():
    frame = pd.DataFrame({"a": ["low", "mid", "high", None], "b": ["mid", "mid", "high", "low"]})
    result = run(
        "krippendorff_alpha", {"wide": frame}, {"raters": ["a", "b"], "levels": ["low", "mid", "high"]}
    )
    numbers = frame.apply(lambda column: column.map({"low": 1, "mid": 2, "high": 3})).to_numpy(float).T
    for level in ("nominal", "ordinal"):
        assert result.values[level] == pytest.approx(krippendorff.alpha(numbers, level_of_measurement=level))
    assert result.values["interval"] is None
    assert "interval, ratio not defined: the ratings are not numbers" in result.notes


def test_alpha_of_a_single_value_is_undefined():
    result = run(
        "krippendorff_alpha", {"wide": pd.DataFrame({"a": [2, 2], "b": [2, 2]})}, {"raters": ["a", "b"]}
    )
    assert [result.values[level] for level in LEVELS] == [None] * 4


def test_interval_of_alpha_depends_on_the_seed_alone():
    frame = ratings(3, 4)
    inputs = {"raters": list(frame), "resamples": 200}
    first = run("krippendorff_alpha", {"wide": frame}, inputs)
    assert first == run("krippendorff_alpha", {"wide": frame}, inputs)
    assert first != run("krippendorff_alpha", {"wide": frame}, {**inputs, "seed": 1})
    assert first.values["nominal_ci_low"] < first.values["nominal"] < first.values["nominal_ci_high"]
