"""Read cases with a true class and one or more scores, from a table, a table of counts, or lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from voxtrial.validation.registry import Undefined
from voxtrial.validation.tables import (
    Complete,
    Flags,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    parameter,
    vector,
)

LARGEST_COUNT = 100_000_000
"""Cases that a table of counts may stand for: each becomes a row."""


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Cases with their class and scores.

    Parameters
    ----------
    positive
        (n,) whether the condition is present.
    scores
        (n, k) one column for each score; higher means more likely positive.
    frame
        The complete rows that the cases came from.
    notes
        What was left out.
    """

    positive: Flags
    scores: Floats
    frame: pd.DataFrame
    notes: tuple[str, ...]

    def classes(self, column: int = 0) -> tuple[Floats, Floats]:
        """Return the scores of the positive and of the negative cases; both classes must be there."""
        require_both_classes(self.positive)
        score = self.scores[:, column]
        return score[self.positive], score[~self.positive]


def require_both_classes(positive: Flags) -> None:
    """Raise ``Undefined`` unless there is at least one positive and one negative case."""
    if not positive.any():
        raise Undefined("no case is positive" if positive.size else "there is no case")
    if positive.all():
        raise Undefined("no case is negative")


def binary(rows: Complete, name: str, positive: object = None) -> Flags:
    """Return where a column is positive.

    Without a named positive label the column must hold 0 and 1 only: which of "benign" and "malignant" is
    positive is never guessed.
    """
    if positive is not None:
        return np.asarray(rows.frame[name] == positive, dtype=bool)
    values = rows.numbers(name)
    if not np.isin(values, (0.0, 1.0)).all():
        raise StatisticError(
            f"The column {name!r} holds {np.unique(values)[:5].tolist()}; give the label in 'positive'."
        )
    return np.asarray(values == 1.0)


def scored_cases(
    tables: Tables, inputs: Inputs, scores: Sequence[str], also: Sequence[str] = ()
) -> ScoredCases:
    """Read ``truth`` and the named scores.

    Parameters
    ----------
    tables
        ``wide`` or ``long`` (one row a case), ``counts`` (one row a rating, with the column that
        ``count`` names), or none: then the inputs hold the lists themselves.
    inputs
        ``truth``, optional ``positive`` label, and ``count``.
    scores
        Names of the inputs that hold each score's column, or the columns themselves.
    also
        Further columns that must be complete.
    """
    truth = parameter(inputs, "truth")
    if not tables:
        lists = {"truth": truth, **{name: parameter(inputs, name) for name in scores}}
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) > 1:
            raise StatisticError(f"The lists differ in length: {lengths}.")
        frame = pd.DataFrame({name: vector(values, name) for name, values in lists.items()})
        tables, truth, names = {"wide": frame}, "truth", list(scores)
    else:
        names = [str(inputs.get(name, name)) for name in scores]
    role = next((role for role in ("wide", "long", "counts") if role in tables), "wide")
    weights = [str(parameter(inputs, "count"))] if role == "counts" else []
    rows = complete(tables, role, [truth, *names, *also, *weights])
    if weights:
        count = rows.numbers(weights[0])
        if (count < 0).any() or (count != np.round(count)).any() or count.sum() > LARGEST_COUNT:
            raise StatisticError(f"The column {weights[0]!r} must hold whole numbers of cases, not too many.")
        rows = Complete(
            frame=rows.frame.loc[rows.frame.index.repeat(count.astype(int))].reset_index(drop=True),
            notes=rows.notes,
        )
    return ScoredCases(
        positive=binary(rows, truth, inputs.get("positive")),
        scores=rows.matrix(names),
        frame=rows.frame,
        notes=rows.notes,
    )
