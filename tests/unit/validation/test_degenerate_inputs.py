"""No statistic of the registry answers a degenerate input with a traceback, a NaN, or an invented 0 or 1."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED_DATA
from stats_examples import EXAMPLES

from voxtrial.validation import catalogue
from voxtrial.validation.registry import StatisticResult, read_case, run
from voxtrial.validation.tables import StatisticError

CASES = sorted((SHARED_DATA / "stats" / "cases").glob("*.json"))

Damage = Callable[[pd.DataFrame], pd.DataFrame]


def _numbers(value: float) -> Damage:
    """Replace every numeric column by one value: no event, one class, ties only, no variance."""

    def replace(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{c: value for c in table.columns if table[c].dtype.kind in "iuf"})

    return replace


def _missing(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**dict.fromkeys(table.columns, np.nan))


DAMAGES: dict[str, Damage] = {
    "no row": lambda table: table.iloc[:0],
    "one row": lambda table: table.iloc[:1],
    "two rows": lambda table: table.iloc[:2],
    "last three rows": lambda table: table.iloc[-3:],
    "nothing but missing": _missing,
    "nothing but zeros": _numbers(0),
    "nothing but ones": _numbers(1),
    "one row many times": lambda table: table.iloc[[0] * 20].reset_index(drop=True),
    "huge numbers": _numbers(1e300),
}


def presentable(result: StatisticResult) -> None:
    """Every value is a finite number, a text, a list of these, or None with a note."""

    def walk(value: object) -> bool:
        if isinstance(value, list):
            return any(list(map(walk, value)))
        assert value is None or isinstance(value, int | float | str)
        assert not isinstance(value, float) or math.isfinite(value)
        return value is None

    undefined = any(list(map(walk, result.values.values())))
    assert result.notes or not undefined
    json.dumps(result.values, allow_nan=False)


def answer_or_sentence(name: str, tables: dict[str, pd.DataFrame], inputs: dict[str, Any]) -> None:
    """The statistic gives a presentable result, or refuses in a sentence."""
    try:
        presentable(run(name, tables, inputs))
    except StatisticError as error:
        refusal = str(error)
    else:
        return
    assert refusal[0].isupper()
    assert refusal.rstrip().endswith((".", "?"))


@pytest.mark.parametrize("name", [name for name in catalogue.names() if name in EXAMPLES])
@pytest.mark.parametrize("damage", DAMAGES)
def test_degenerate_table_is_answered_or_refused_in_a_sentence(name: str, damage: str) -> None:
    for tables, inputs in EXAMPLES[name]:
        damaged = {role: DAMAGES[damage](table) for role, table in tables.items()}
        answer_or_sentence(name, damaged, inputs)


@pytest.mark.shared_data
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_damaged_reference_case(path: Path, damage: str) -> None:
    """The same for every stored case with a table, which covers the statistics without an example."""
    _, name, tables, inputs = read_case(path)
    if not tables:
        return
    if "resamples" in inputs:
        inputs["resamples"] = 200
    answer_or_sentence(name, {role: DAMAGES[damage](table) for role, table in tables.items()}, inputs)


@pytest.mark.parametrize("name", [name for name in catalogue.names() if name in EXAMPLES])
def test_whole_example_gives_numbers(name: str) -> None:
    for tables, inputs in EXAMPLES[name]:
        result = run(name, tables, inputs)
        presentable(result)
        assert any(value is not None for value in result.values.values())


COUNTED = {
    "proportion_ci": {"x": 0, "n": 0},
    "proportion_difference_independent": {"x1": 0, "n1": 0, "x2": 0, "n2": 5},
    "proportion_difference_paired": {"a": 0, "b": 0, "c": 0, "d": 0},
    "noninferiority_independent_proportions": {"x1": 0, "n1": 0, "x2": 0, "n2": 0, "margin": 0.1},
    "noninferiority_paired_proportions": {"a": 5, "b": 0, "c": 0, "d": 5, "margin": 0},
    "diagnostic_accuracy": {"tp": 0, "fn": 0, "fp": 0, "tn": 0},
    "power_auc_one": {"auc": 0.5, "ncases": 10, "ncontrols": 10},
    "discounted_sum": {"values": [], "rate": 0.03},
    "roc_auc": {"truth": [1, 1], "score": [1, 2]},
}


@pytest.mark.parametrize("name", COUNTED)
def test_empty_counts_are_undefined_with_a_reason(name: str) -> None:
    result = run(name, {}, COUNTED[name])
    assert any(value is None for value in result.values.values())
    assert any("not defined" in note for note in result.notes)


CELLS = [
    (0, 0, 0, 7),
    (7, 0, 0, 0),
    (0, 7, 0, 0),
    (0, 0, 7, 0),
    (5, 0, 0, 5),
    (0, 5, 5, 0),
    (1, 0, 0, 0),
    (3, 2, 0, 0),
]


@pytest.mark.parametrize("cells", CELLS)
def test_tables_with_empty_cells(cells: tuple[int, int, int, int]) -> None:
    """A 2x2 table with empty cells has its exact intervals, and no ratio with a denominator of 0."""
    tp, fn, fp, tn = cells
    accuracy = run("diagnostic_accuracy", {}, {"tp": tp, "fn": fn, "fp": fp, "tn": tn})
    presentable(accuracy)
    if fp == 0 and tp + fn and fp + tn:
        assert accuracy.values["lr_pos"] is None
    paired = run("proportion_difference_paired", {}, dict(zip("abcd", cells, strict=True)))
    presentable(paired)
    assert paired.values["tango_low"] <= paired.values["difference"] <= paired.values["tango_high"]
    assert paired.values["newcombe10_low"] <= paired.values["difference"] <= paired.values["newcombe10_high"]


def test_perfect_separation_has_no_interval_of_width_zero() -> None:
    result = run("roc_auc", {}, {"truth": [0, 0, 0, 1, 1, 1], "score": [1, 2, 3, 4, 5, 6]})
    assert result.values["auc"] == 1
    assert result.values["delong_ci_low"] is None
    assert any("not certainty" in note for note in result.notes)


def test_survival_without_an_event() -> None:
    table = pd.DataFrame(
        {"time": [3.0, 5, 8], "event": [0, 0, 0], "risk": [1.0, 2, 3], "group": ["a", "b", "b"]}
    )
    named = {"time": "time", "event": "event"}
    curve = run("kaplan_meier", {"wide": table}, {**named, "group": "group", "times": [4, 9]}).values
    assert curve["survival"] == [1.0, None]
    assert curve["loglog_ci_low"] == [None, None]
    assert curve["median"] is None
    assert curve["logrank_p"] is None
    assert run("cox", {"wide": table}, {**named, "covariates": ["risk"]}).values["coef"] is None
    assert run("c_index", {"wide": table}, {**named, "risk": "risk"}).values["harrell_c"] is None


def test_covariate_that_orders_the_events_has_no_hazard_ratio() -> None:
    table = pd.DataFrame({"time": [1.0, 2, 3, 4, 5, 6], "event": 1, "x": [6.0, 5, 4, 3, 2, 1]})
    result = run("cox", {"wide": table}, {"time": "time", "event": "event", "covariates": ["x"]})
    assert result.values["hr"] is None
    assert any("no maximum" in note for note in result.notes)


def test_probabilities_that_separate_the_classes_have_no_slope() -> None:
    table = pd.DataFrame({"y": [0, 0, 0, 1, 1, 1], "p": [0.1, 0.2, 0.3, 0.7, 0.8, 0.9]})
    values = run("calibration", {"wide": table}, {"truth": "y", "probability": "p"}).values
    assert values["calibration_slope"] is None
    assert values["c_statistic"] == 1
    assert values["brier"] == pytest.approx(np.mean([0.01, 0.04, 0.09] * 2))


def test_small_subgroup_is_listed_not_left_out() -> None:
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {"y": rng.integers(0, 2, 200), "s": rng.random(200), "site": ["a"] * 196 + ["b"] * 4}
    )
    result = run("subgroups", {"wide": table}, {"truth": "y", "score": "s", "by": ["site"]})
    assert result.values["site_level"] == ["a", "b"]
    assert result.values["site_estimate"][1] is None
    assert any("n too small" in note for note in result.notes)
