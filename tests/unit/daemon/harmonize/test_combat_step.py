"""One patient with stored ComBat parameters: the same numbers as in the cohort, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.combat import harmonized, load, save
from voxtrial.validation.agreement.combat import apply, fit

RNG = np.random.default_rng(3)
VALUES, AGE = RNG.normal(10, 2, (30, 4)), RNG.uniform(40, 70, (30, 1))
SCANNERS = ["A"] * 12 + ["B"] * 18
NAMES = ("volume", "mean", "entropy", "contrast")
MODEL = fit(VALUES, SCANNERS, AGE, features=NAMES, covariate_names=("age",))


def test_patient_of_the_cohort_gets_the_value_of_the_cohort(tmp_path: Path) -> None:
    save(MODEL, tmp_path / "combat.json")
    patient = dict(zip(NAMES, VALUES[20], strict=True)) | {"unrelated": 1.0}
    found = harmonized(load(tmp_path / "combat.json"), patient, "B", {"age": float(AGE[20, 0])})
    assert list(found) == list(NAMES)
    assert list(found.values()) == apply(MODEL, VALUES, SCANNERS, AGE)[20].tolist()


@pytest.mark.parametrize(
    ("features", "batch", "covariates", "rule"),
    [
        (NAMES, "C", {"age": 50.0}, "unknown_batch"),
        (NAMES, "A", {}, "missing_covariate"),
        (NAMES, "A", {"age": float("nan")}, "missing_covariate"),
        (NAMES[:3], "A", {"age": 50.0}, "missing_feature"),
    ],
)
def test_nothing_is_guessed(
    features: tuple[str, ...], batch: str, covariates: dict[str, float], rule: str
) -> None:
    with pytest.raises(Refused) as refusal:
        harmonized(MODEL, dict.fromkeys(features, 1.0), batch, covariates)
    assert refusal.value.rule == rule


def test_file_without_parameters_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "combat.json"
    for text in ("{}", "not json"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(Misconfigured, match=r"combat\.json"):
            load(path)
