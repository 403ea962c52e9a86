"""Read columns and parameters of a statistic's input, and say in one sentence what is missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Tables = Mapping[str, pd.DataFrame]
Inputs = Mapping[str, Any]


class StatisticError(ValueError):
    """The call cannot be understood: an unknown statistic, a missing column, a parameter out of range."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean a, b?" for the closest known names, or the whole list when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else f"; known are {', '.join(known)}."


def parameter(inputs: Inputs, name: str) -> Any:
    """Return a parameter that the statistic cannot do without."""
    if name not in inputs:
        raise StatisticError(f"The input {name!r} is missing; given are {sorted(inputs)}.")
    return inputs[name]


def confidence(inputs: Inputs) -> float:
    """Return the confidence level: ``conf``, else 1 - ``alpha``, else 0.95."""
    level = float(inputs.get("conf", 1 - float(inputs.get("alpha", 0.05))))
    if not 0 < level < 1:
        raise StatisticError(f"The confidence level is {level}; it must lie between 0 and 1.")
    return level


def table(tables: Tables, role: str) -> pd.DataFrame:
    """Return the table that plays ``role`` (``wide``, ``long``, ``counts``, ...)."""
    if role not in tables:
        raise StatisticError(f"The table {role!r} is missing; given are {sorted(tables)}.")
    return tables[role]


def column_names(value: str | Sequence[str]) -> list[str]:
    """Return one or several column names as a list."""
    return [value] if isinstance(value, str) else list(value)


def columns(tables: Tables, role: str, names: Sequence[str]) -> pd.DataFrame:
    """Return the named columns of a table, in that order."""
    frame = table(tables, role)
    for name in names:
        if name not in frame.columns:
            raise StatisticError(
                f"The table {role!r} has no column {name!r}{nearest(str(name), map(str, frame.columns))}"
            )
    return frame.loc[:, list(names)]


@dataclass(frozen=True, kw_only=True)
class Complete:
    """Rows of a table in which nothing is missing.

    Parameters
    ----------
    frame
        The complete rows.
    notes
        How many rows were left out, empty when none was: never a silent average over what is there.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...]

    def numbers(self, name: str) -> Floats:
        """Return one column as float64."""
        return _as_numbers(self.frame[name], name)

    def matrix(self, names: Sequence[str]) -> Floats:
        """Return several columns as an (n, k) float64 array."""
        if not names:
            return np.empty((len(self.frame), 0))
        return np.column_stack([self.numbers(name) for name in names])

    def labels(self, name: str) -> NDArray[Any]:
        """Return one column as it stands: groups, raters, levels."""
        return comparable(self.frame[name].to_numpy())


def complete(tables: Tables, role: str, names: Sequence[str]) -> Complete:
    """Return the rows of a table that have a value in every named column, and say how many have not."""
    frame = columns(tables, role, list(dict.fromkeys(names)))
    kept = frame.dropna()
    left_out = len(frame) - len(kept)
    notes = (f"{left_out} of {len(frame)} rows left out: a value is missing",) if left_out else ()
    return Complete(frame=kept.reset_index(drop=True), notes=notes)


def comparable(labels: Sequence[object] | NDArray[Any]) -> NDArray[Any]:
    """Return labels of one kind: numbers as they are, and all as text where words stand among them."""
    array = np.asarray(labels)
    if array.dtype != object or all(isinstance(label, str) for label in array):
        return array
    if all(isinstance(label, int | float | np.number) for label in array):
        return array.astype(np.float64)
    return np.array([str(label) for label in array], dtype=object)


def vector(values: Sequence[object], name: str) -> Floats:
    """Return a list given in the inputs as float64."""
    return _as_numbers(pd.Series(list(values)), name)


def _as_numbers(series: pd.Series[Any], name: str) -> Floats:
    try:
        numbers = np.asarray(series.to_numpy(dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise StatisticError(f"The column {name!r} holds something that is not a number: {error}.") from error
    if np.isinf(numbers).any():
        raise StatisticError(f"The column {name!r} holds an infinite value; a missing one is an empty cell.")
    return numbers
