"""The registry: what is undefined has a reason, what is misspelt a neighbour; only numbers leave."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from voxtrial.validation import catalogue, registry
from voxtrial.validation.registry import Undefined, run
from voxtrial.validation.tables import StatisticError

PAIRS = {"wide": pd.DataFrame({"a": [1.0, 2, 4, 7], "b": [1.1, 2.3, 3.9, 7.4], "c": ["x", "y", "x", "y"]})}


@pytest.fixture
def fake(monkeypatch):
    """Register a statistic for the length of a test."""
    monkeypatch.setattr(catalogue, "CATALOGUE", {"registry": {"fake": "a test"}})
    monkeypatch.setattr(registry, "_registered", {})

    def register(outcome, values=("a", "b")):
        def compute(tables, inputs):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        registry.statistic("fake", values=values)(compute)

    return register


def test_every_statistic_of_the_catalogue_is_registered_by_its_module():
    for name in catalogue.names():
        assert registry.find(name).name == name
    assert len(set(catalogue.names())) == len(catalogue.names())


def test_every_registered_statistic_is_in_the_catalogue():
    for module in catalogue.CATALOGUE:
        importlib.import_module(f"voxtrial.validation.{module}")
    assert set(registry._registered) <= set(catalogue.names())


def test_unknown_statistic_is_named_with_its_neighbours():
    with pytest.raises(StatisticError, match="no statistic 'lin_cc'; did you mean lin_ccc"):
        run("lin_cc", {})


@pytest.mark.parametrize(
    ("tables", "inputs", "message"),
    [
        ({}, {"x": "a", "y": "b"}, "table 'wide' is missing"),
        (PAIRS, {"x": "a", "y": "bb"}, "no column 'bb'; did you mean b"),
        (PAIRS, {"x": "a"}, "input 'y' is missing"),
        (PAIRS, {"x": "a", "y": "c"}, "column 'c' holds something that is not a number"),
        (PAIRS, {"x": "a", "y": "b", "conf": 95}, "confidence level is 95"),
    ],
)
def test_call_that_cannot_be_understood_is_one_sentence(tables, inputs, message):
    with pytest.raises(StatisticError, match=message):
        run("bland_altman", tables, inputs)


def test_undefined_value_is_none_with_its_reason(fake):
    fake({"a": 1.5, "b": Undefined("the mask is empty"), "c": [1, Undefined("the level is zero")]})
    result = run("fake", {})
    assert result.values == {"a": 1.5, "b": None, "c": [1, None]}
    assert result.notes == ("b not defined: the mask is empty", "c[1] not defined: the level is zero")


def test_values_undefined_for_one_reason_share_a_note(fake):
    fake(dict.fromkeys("ab", Undefined("no event")))
    assert run("fake", {}).notes == ("a, b not defined: no event",)


def test_undefined_statistic_lists_its_values(fake):
    fake(Undefined("one rater"))
    result = run("fake", {})
    assert result.values == {"a": None, "b": None}
    assert result.notes == ("fake is not defined: one rater",)


@pytest.mark.parametrize("value", [float("nan"), np.inf, -np.inf, np.float32("nan"), None])
def test_nan_and_infinity_never_leave(fake, value):
    fake({"a": value, "b": [value, 2.0]})
    result = run("fake", {})
    assert result.values == {"a": None, "b": [None, 2.0]}
    assert len(result.notes) == 1


def test_numpy_values_become_plain(fake):
    fake({"a": np.int64(3), "b": np.array([[1.0, 2.0]]), "c": True, "d": "x"})
    assert json.dumps(run("fake", {}).values) == '{"a": 3, "b": [[1.0, 2.0]], "c": 1, "d": "x"}'


def test_anything_else_is_a_mistake_of_the_statistic(fake):
    fake({"a": object()})
    with pytest.raises(TypeError, match="a is a object"):
        run("fake", {})


def test_singular_equations_leave_the_statistic_undefined(fake):
    fake(np.linalg.LinAlgError("Singular matrix"))
    result = run("fake", {})
    assert result.values == {"a": None, "b": None}
    assert "no unique solution" in result.notes[0]


@pytest.mark.parametrize("error", [OverflowError("34"), ZeroDivisionError("division by zero")])
def test_numbers_beyond_double_precision_leave_the_statistic_undefined(fake, error):
    fake(error)
    result = run("fake", {})
    assert result.values == {"a": None, "b": None}
    assert "double precision" in result.notes[0]


def test_confidence_level_of_the_call_overrides_the_inputs():
    wide, inputs = PAIRS, {"x": "a", "y": "b"}
    assert run("bland_altman", wide, inputs, conf=0.9) == run("bland_altman", wide, {**inputs, "alpha": 0.1})
    assert run("bland_altman", wide, {**inputs, "alpha": 0.1}, conf=0.95) == run("bland_altman", wide, inputs)


def test_rows_with_missing_values_are_counted():
    wide = {"wide": pd.DataFrame({"a": [1, 2, np.nan, 5, 6], "b": [1.5, 2, 3, np.nan, 6]})}
    result = run("bland_altman", wide, {"x": "a", "y": "b"})
    assert result.values["n"] == 3
    assert "2 of 5 rows left out: a value is missing" in result.notes


def case(folder, document, table="a,b\n1,2\n2,3\n4,4\n"):
    """Write a case and its table as the golden cases lie, and return the case."""
    (folder / "cases").mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "t.csv").write_text(table)
    path = folder / "cases" / "one.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_case_is_read_from_the_folder_above(tmp_path):
    document = {"statistic": "lin_ccc", "data": {"wide": "data/t.csv"}, "inputs": {"x": "a", "y": "b"}}
    result = registry.run_case(case(tmp_path, document))
    assert (result.case, result.statistic) == ("one", "lin_ccc")
    assert json.loads(result.as_json())["values"]["n"] == 3


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is not JSON"),
        ([1], "names no statistic"),
        ({"data": {}}, "names no statistic"),
        ({"statistic": "lin_ccc", "data": {"wide": "data/u.csv"}}, "cannot be read"),
    ],
)
def test_broken_case_is_one_sentence(tmp_path, document, message):
    with pytest.raises(StatisticError, match=message):
        registry.run_case(case(tmp_path, document))


def test_missing_case_is_one_sentence(tmp_path):
    with pytest.raises(StatisticError, match=r"none.json cannot be read: No such file"):
        registry.run_case(tmp_path / "none.json")


def test_listing_imports_no_family():
    code = "import sys, voxtrial.validation.catalogue; print('numpy' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
