"""A column of the wrong kind is refused in a sentence, or answered; never with a traceback of a library."""

from __future__ import annotations

import contextlib

import numpy as np
import pandas as pd
import pytest
from stats_examples import EXAMPLES

from voxtrial.validation.registry import run
from voxtrial.validation.tables import StatisticError

WITH_TABLES = [name for name, examples in EXAMPLES.items() if any(tables for tables, _ in examples)]


def spoilt(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Put a foreign value into the second row of one column."""
    changed = table.astype({column: object})
    changed.iloc[1, changed.columns.get_loc(column)] = value
    return changed if isinstance(value, str) else changed.infer_objects()


@pytest.mark.nightly
@pytest.mark.parametrize("value", ["seven", np.inf, -1e308], ids=["word", "infinite", "huge"])
@pytest.mark.parametrize("name", WITH_TABLES)
def test_foreign_value_in_any_column_is_refused_or_answered(name, value):
    for tables, inputs in EXAMPLES[name]:
        for role, table in tables.items():
            for column in table.columns:
                with contextlib.suppress(StatisticError):
                    run(name, {**tables, role: spoilt(table, column, value)}, inputs)


RATED = {"subject": [1, 1, 2, 2], "rater": ["a", 2, "a", 2], "y": [1.0, 2.0, 3.0, 5.0]}


def test_words_among_numbers_are_labels_like_any_other():
    long = {"long": pd.DataFrame(RATED)}
    inputs = {"layout": "long", "subject": "subject", "rater": "rater", "value": "y"}
    plain = {"long": pd.DataFrame({**RATED, "rater": ["a", "b", "a", "b"]})}
    assert run("icc", long, inputs) == run("icc", plain, inputs)
    ratings = {"wide": pd.DataFrame({"a": [1, "x", 1, 2], "b": ["x", "x", 1, 2]})}
    assert run("cohen_kappa", ratings, {"rater1": "a", "rater2": "b"}).values["observed_agreement"] == 0.75


@pytest.mark.parametrize("value", ["seven", np.inf])
def test_word_or_infinity_among_numbers_is_refused(value):
    wide = {"wide": pd.DataFrame({"a": [1.0, value, 3.0], "b": [1.0, 2.0, 3.0]})}
    with pytest.raises(StatisticError, match="column 'a' holds"):
        run("bland_altman", wide, {"x": "a", "y": "b"})
