"""ComBat against closed forms and another program; the golden cases of sva stand with the reference tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from voxtrial.validation import registry
from voxtrial.validation.agreement import combat
from voxtrial.validation.tables import StatisticError

rng = np.random.default_rng(20)
COUNTS = (14, 9, 23)
BATCH = np.repeat(["a", "b", "c"], COUNTS).tolist()
N = len(BATCH)


def cohort(features: int = 30, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Patients whose age adds 0.5 per year to every feature, on three scanners with shift and spread."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(30, 80, N)
    shift = np.repeat(rng.normal(0, 3, (3, features)), COUNTS, axis=0)
    spread = np.repeat(rng.uniform(0.5, 2, (3, features)), COUNTS, axis=0)
    values = 10 + 0.5 * age[:, None] + shift + spread * rng.normal(size=(N, features))
    return values, age[:, None]


def batches(values: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(COUNTS)[:-1])


def test_without_shrinkage_batch_means_and_variances_become_equal() -> None:
    """Closed form: every batch gets the pooled mean, and the pooled variance n / (n_i - 1) over its own."""
    values, _ = cohort()
    model = combat.fit(values, BATCH, shrinkage="none")
    parts = batches(combat.apply(model, values, BATCH))
    pooled = np.concatenate([p - p.mean(0) for p in batches(values)]).var(axis=0)
    for part in parts:
        np.testing.assert_allclose(part.mean(axis=0), values.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(part.var(axis=0, ddof=1), pooled, atol=1e-12)


def test_what_a_protected_covariate_explains_is_kept() -> None:
    """Age adds 0.5 a year before and after; only the noise around the line is rescaled."""
    values, age = cohort(features=4)
    for shrinkage in ("none", "parametric"):
        model = combat.fit(values, BATCH, age, shrinkage=shrinkage)  # type: ignore[arg-type]  # a literal in a loop
        np.testing.assert_allclose(model.beta, 0.5, atol=0.05)
        again = combat.fit(combat.apply(model, values, BATCH, age), BATCH, age, shrinkage="none")
        np.testing.assert_allclose(again.beta, model.beta, atol=0.02)


def test_unprotected_covariate_is_removed_with_the_batch() -> None:
    """Scanner c has the older patients: without protection their age goes with the scanner."""
    values, age = cohort()
    old = np.array(BATCH) == "c"
    values[old] += 10
    age[old] += 20
    naive = combat.apply(combat.fit(values, BATCH), values, BATCH)
    protected = combat.apply(combat.fit(values, BATCH, age), values, BATCH, age)
    assert abs(naive[old].mean() - naive[~old].mean()) < 0.5
    assert protected[old].mean() - protected[~old].mean() == pytest.approx(
        0.5 * (age[old].mean() - age[~old].mean()), abs=1
    )


def test_reference_batch_is_returned_bit_by_bit() -> None:
    values, age = cohort()
    model = combat.fit(values, BATCH, age, reference="b")
    parts = batches(combat.apply(model, values, BATCH, age))
    np.testing.assert_array_equal(parts[1], batches(values)[1])
    assert not np.array_equal(parts[0], batches(values)[0])


def test_without_shrinkage_the_others_take_mean_and_spread_of_the_reference() -> None:
    values, _ = cohort()
    model = combat.fit(values, BATCH, reference="b", shrinkage="none")
    reference = batches(values)[1]
    for part in batches(combat.apply(model, values, BATCH)):
        np.testing.assert_allclose(part.mean(axis=0), reference.mean(axis=0), atol=1e-12)
    first = batches(combat.apply(model, values, BATCH))[0]
    np.testing.assert_allclose(first.var(axis=0, ddof=1), reference.var(axis=0), atol=1e-12)


def test_new_patients_are_treated_with_the_stored_parameters() -> None:
    """Through JSON and back, one patient at a time, equals the cohort at once, and the formula by hand."""
    values, age = cohort()
    model = combat.fit(values, BATCH, age)
    stored = combat.ComBat.from_json(json.loads(json.dumps(model.as_json())))
    together = combat.apply(model, values, BATCH, age)
    alone = np.concatenate(
        [combat.apply(stored, values[i : i + 1], BATCH[i : i + 1], age[i : i + 1]) for i in range(N)]
    )
    np.testing.assert_array_equal(alone, together)
    patient, k = 3.7 + np.arange(30), 2
    kept = 41.0 * model.beta[0]
    by_hand = (patient - model.alpha - kept - model.sigma * model.gamma[k]) / np.sqrt(model.delta[k])
    np.testing.assert_allclose(
        combat.apply(stored, patient[None], ["c"], np.array([[41.0]]))[0],
        by_hand + model.alpha + kept,
        rtol=1e-12,
    )


def test_small_batches_borrow_from_the_other_features() -> None:
    """All features share one shift: the shrunk estimates lie closer together than the features' own."""
    rng = np.random.default_rng(5)
    values = rng.normal(size=(N, 200))
    values[:14] += 1.5
    alone, shrunk = (combat.fit(values, BATCH, shrinkage=s) for s in ("none", "parametric"))
    spread = [np.var(m.gamma[0]) for m in (alone, shrunk)]
    assert spread[1] < 0.3 * spread[0]


# First and last patient of the case combat_parametric by neuroCombat 0.2.12 (parametric=False), numpy 2.4.
NEUROCOMBAT = {
    0: [14.9090582, 26.6368476, 44.9129865, 59.4736761, 72.4706450, 84.9855974, 97.2154706, 113.8217860],
    -1: [13.6427542, 29.6582089, 42.9147979, 57.2477867, 70.2467816, 86.4444716, 102.6397403, 116.9261665],
}


@pytest.mark.shared_data
def test_nonparametric_form_equals_neurocombat(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "stats" / "data" / "combat_parametric_input.csv")
    values, x = frame.filter(regex=r"^f\d").to_numpy(), frame[["age", "sex"]].to_numpy(float)
    model = combat.fit(values, frame["batch"].tolist(), x, shrinkage="nonparametric")
    harmonized = combat.apply(model, values, frame["batch"].tolist(), x)
    for row, expected in NEUROCOMBAT.items():
        np.testing.assert_allclose(harmonized[row], expected, atol=1e-5)


def test_constant_feature_is_returned_as_it_is_and_named() -> None:
    values, _ = cohort(features=5)
    values[:14, 3] = 7.0
    frame = pd.DataFrame(values, columns=list("vwxyz")).assign(batch=BATCH)
    result = registry.run("combat_harmonization", {"input": frame}, {"batch": "batch"})
    assert result.values["harmonized_y"] == values[:, 3].tolist()
    assert any("y" in note and "unchanged" in note for note in result.notes)
    assert result.values["n"] == N


def test_mean_only_accepts_a_batch_of_one_and_leaves_the_spread() -> None:
    values, _ = cohort()
    single = ["d", *BATCH[1:]]
    model = combat.fit(values, single, mean_only=True)
    harmonized = combat.apply(model, values, single)
    assert model.unchanged == ()
    np.testing.assert_allclose(harmonized[14:23].std(axis=0), values[14:23].std(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": ["a"] * N}, "has one"),
        ({"batch": ["d", *BATCH[1:]]}, "one patient"),
        ({"reference": "z"}, "'z' is not in"),
        ({"covariates": np.array([b == "c" for b in BATCH], float)[:, None]}, "determined by the batch"),
        ({"covariates": np.full((N, 1), np.nan)}, "missing"),
        ({"shrinkage": "some"}, "choose one of"),
        ({"values": cohort(features=1)[0]}, 'use shrinkage "none"'),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_sentence(change: dict[str, object], words: str) -> None:
    call = {"values": cohort()[0], "batch": BATCH, "covariates": None} | change
    with pytest.raises(StatisticError, match=words):
        combat.fit(**call)


def test_unknown_batch_is_not_harmonized_by_guess() -> None:
    values, _ = cohort()
    model = combat.fit(values, BATCH)
    with pytest.raises(StatisticError, match="'new' was not in the fit"):
        combat.apply(model, values[:1], ["new"])
    with pytest.raises(StatisticError, match="30 features"):
        combat.apply(model, values[:1, :5], ["a"])
