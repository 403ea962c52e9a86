"""Bootstrap, adjusted p-values and label sets against scipy, statsmodels and scikit-learn."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import f1_score, hamming_loss, jaccard_score
from statsmodels.stats.multitest import multipletests

from voxtrial.validation.bootstrap import bca_interval, index_blocks, replicate, stream
from voxtrial.validation.multiplicity import serial_gatekeeping
from voxtrial.validation.registry import Undefined, run
from voxtrial.validation.tables import StatisticError


def skewed():
    rng = np.random.default_rng(11)
    return pd.DataFrame({"a": rng.gamma(2, 2, 50), "b": rng.gamma(5, 1, 50)})


RATIO = {"numerator": "a", "denominator": "b"}


def test_bca_interval_of_a_ratio_follows_scipy():
    """Limits within the Monte-Carlo error of 20,000 resamples."""
    table = skewed()
    values = run("bootstrap_bca", {"wide": table}, RATIO).values
    for method, ours in (("BCa", "bca"), ("percentile", "perc")):
        theirs = scipy_bootstrap(
            (table.a.to_numpy(), table.b.to_numpy()),
            lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
            paired=True,
            n_resamples=20_000,
            batch=1000,
            method=method,
            rng=1,
        ).confidence_interval
        assert values[f"{ours}_low"] == pytest.approx(theirs.low, abs=0.01)
        assert values[f"{ours}_high"] == pytest.approx(theirs.high, abs=0.01)
    assert values["estimate"] == pytest.approx(table.a.mean() / table.b.mean())


def test_clusters_are_resampled_as_a_whole():
    """Ten copies of each patient carry no more information than one."""
    table = skewed().assign(patient=np.arange(50))
    ten = pd.concat([table] * 10, ignore_index=True)
    once = run("bootstrap_bca", {"wide": table}, RATIO).values
    clustered = run("bootstrap_bca", {"wide": ten}, {**RATIO, "cluster": "patient"}).values
    ignored = run("bootstrap_bca", {"wide": ten}, RATIO).values
    assert clustered["n"] == 50
    assert clustered["bca_low"] == pytest.approx(once["bca_low"], rel=1e-9)
    assert ignored["bca_high"] - ignored["bca_low"] < 0.5 * (once["bca_high"] - once["bca_low"])


def bound(seed):
    """Return one bound of one case; runs in a worker process."""
    return run("bootstrap_bca", {"wide": skewed()}, {**RATIO, "resamples": 500, "seed": seed}).values[
        "bca_low"
    ]


def test_results_do_not_depend_on_the_number_of_processes():
    alone = [bound(seed) for seed in range(4)]
    for workers in (1, 2):
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            assert list(pool.map(bound, range(4))) == alone


def test_streams_belong_to_names_and_not_to_the_order_of_asking():
    first = stream(7, "case 1", "dice").random(3)
    stream(7, "case 2", "dice").random(3)
    assert np.array_equal(first, stream(7, "case 1", "dice").random(3))
    others = [stream(7, "case 1", "hd"), stream(7, "case 2", "dice"), stream(8, "case 1", "dice")]
    others.append(stream(7, "case 1dice"))
    assert not any(np.array_equal(first, other.random(3)) for other in others)


def test_blocks_give_the_asked_number_of_resamples():
    shapes = [block.shape for block in index_blocks(1 << 21, 5, stream(0))]
    assert shapes == [(2, 1 << 21), (2, 1 << 21), (1, 1 << 21)]
    assert replicate(lambda index: float(index.size), 3, 4, stream(0)).tolist() == [3, 3, 3, 3]


def test_estimate_outside_its_replicates_has_no_bca_interval():
    low, high = bca_interval(5.0, np.arange(3.0), np.arange(4.0), 0.95)
    assert isinstance(low, Undefined)
    assert isinstance(high, Undefined)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), "1 independent units"),
        (pd.DataFrame({"a": [1.0, 2], "b": [0.0, 0]}), "denominator is zero"),
        (pd.DataFrame({"a": [2.0, 2], "b": [1.0, 1]}), "all replicates lie|does not change|same estimate"),
    ],
)
def test_bootstrap_without_variation_is_undefined(table, reason):
    import re

    result = run("bootstrap_bca", {"wide": table}, RATIO)
    assert result.values["bca_low"] is None
    assert any(re.search(reason, note) for note in result.notes)


def test_too_few_resamples_are_refused():
    with pytest.raises(StatisticError, match="at least 100"):
        run("bootstrap_bca", {"wide": skewed()}, {**RATIO, "resamples": 10})


def test_summary_of_cases_follows_numpy_and_scipy():
    """Median limits are the 6th and 15th of 20 (Conover 1999, table A3); the mean's as scipy's BCa."""
    value = np.random.default_rng(5).beta(8, 2, 20)
    values = run("case_summary", {"wide": pd.DataFrame({"dice": value})}, {"value": "dice"}).values
    assert values["sd"] == pytest.approx(value.std(ddof=1))
    assert (values["q25"], values["q75"]) == pytest.approx(tuple(np.quantile(value, [0.25, 0.75])))
    assert (values["median_ci_low"], values["median_ci_high"]) == tuple(np.sort(value)[[5, 14]])
    theirs = scipy_bootstrap((value,), np.mean, n_resamples=10_000, rng=2).confidence_interval
    assert values["mean_ci_low"] == pytest.approx(theirs.low, abs=0.003)
    assert values["mean_ci_high"] == pytest.approx(theirs.high, abs=0.003)


def test_cases_without_a_value_are_counted_and_named():
    table = pd.DataFrame({"hd95": [1.0, 2.0, np.nan, 4.0]})
    result = run("case_summary", {"wide": table}, {"value": "hd95"})
    assert (result.values["n"], result.values["n_undefined"]) == (3, 1)
    assert "1 of 4 cases have no value and are not in the summary" in result.notes
    assert result.values["median_ci_low"] is None


def test_several_cases_of_a_patient_are_resampled_together():
    table = pd.DataFrame({"dice": [0.8, 0.8, 0.9, 0.9, 0.7, 0.7], "patient": [1, 1, 2, 2, 3, 3]})
    result = run("case_summary", {"wide": table}, {"value": "dice", "cluster": "patient"})
    single = run("case_summary", {"wide": table.iloc[::2]}, {"value": "dice"})
    assert result.values["n_clusters"] == 3
    assert result.values["mean_ci_low"] == pytest.approx(single.values["mean_ci_low"])
    assert result.values["median_ci_low"] is None


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_p_values_follow_statsmodels(seed):
    p = np.random.default_rng(seed).random(9) ** 2
    values = run("multiplicity", {}, {"p": p.tolist()}).values
    for ours, theirs in (
        ("bonferroni", "bonferroni"),
        ("holm", "holm"),
        ("hochberg", "simes-hochberg"),
        ("BH", "fdr_bh"),
    ):
        np.testing.assert_allclose(values[ours], multipletests(p, method=theirs)[1], rtol=1e-12)


def test_hierarchy_stops_at_the_first_hypothesis_that_fails():
    """Fixed sequence 0.01, 0.06, 0.001: the third is not opened."""
    values = run("gatekeeping", {}, {"families": [[0.01], [0.06], [0.001]]}).values
    assert values["adjusted"] == [[0.01], [0.06], [0.06]]
    assert values["rejected"] == [[1], [0], [0]]


def test_family_is_a_gate_that_opens_when_all_of_it_is_rejected():
    adjusted = serial_gatekeeping([np.array([0.01, 0.02]), np.array([0.015])])
    assert [p.tolist() for p in adjusted] == [[0.02, 0.02], [0.02]]


@pytest.mark.parametrize("p", [[0.5, 1.2], [-0.1], [float("nan")]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(StatisticError, match="between 0 and 1"):
        run("multiplicity", {}, {"p": p})


def test_no_hypothesis_is_undefined():
    assert run("multiplicity", {}, {"p": []}).values["holm"] is None


def labels(true, pred):
    names = [f"t{i}" for i in range(true.shape[1])], [f"p{i}" for i in range(true.shape[1])]
    table = pd.DataFrame(np.hstack([true, pred]), columns=[*names[0], *names[1]])
    return {"wide": table}, {"true": names[0], "pred": names[1]}


def test_label_sets_follow_scikit_learn():
    rng = np.random.default_rng(3)
    true, pred = (rng.random((40, 4)) < 0.5).astype(int), (rng.random((40, 4)) < 0.5).astype(int)
    true[:, 0] = 1
    values = run("multilabel_jaccard", *labels(true, pred)).values
    assert values["jaccard_macro"] == pytest.approx(jaccard_score(true, pred, average="macro"))
    assert values["jaccard_micro"] == pytest.approx(jaccard_score(true, pred, average="micro"))
    assert values["jaccard_samples_non_empty"] == pytest.approx(jaccard_score(true, pred, average="samples"))
    assert values["f1_macro"] == pytest.approx(f1_score(true, pred, average="macro"))
    assert values["hamming_loss"] == pytest.approx(hamming_loss(true, pred))


def test_label_that_never_occurs_is_not_averaged_over():
    true, pred = np.array([[1, 0], [1, 0]]), np.array([[1, 0], [0, 0]])
    result = run("multilabel_jaccard", *labels(true, pred))
    assert result.values["jaccard_per_label"] == [0.5, None]
    assert result.values["jaccard_macro"] is None
    assert result.values["jaccard_micro"] == 0.5


def test_label_that_is_not_binary_is_refused():
    with pytest.raises(StatisticError, match="other than 0 and 1"):
        run("multilabel_jaccard", *labels(np.array([[2]]), np.array([[1]])))
