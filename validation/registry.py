"""Compute any statistic of a report from its raw table, by name, as JSON-ready numbers.

A family module registers its functions::

    @statistic("lin_ccc", values=("n", "ccc", "ci_low", "ci_high"))
    def lin_ccc(tables, inputs):
        ...
        return {"n": n, "ccc": ccc, "ci_low": low, "ci_high": high}

A function returns values by name, or (values, notes). What is not defined is an ``Undefined(reason)`` in
place of the number; raised, it makes the whole statistic undefined. NaN and infinity never leave this module.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxtrial.validation import catalogue
from voxtrial.validation.tables import Inputs, StatisticError, Tables, nearest

Values = Mapping[str, object]
Computation = Callable[[Tables, Inputs], "Values | tuple[Values, Sequence[str]]"]


class Undefined(Exception):
    """A number that does not exist, with the reason.

    Returned in place of a value it leaves that one undefined; raised it leaves the whole statistic undefined.

    Parameters
    ----------
    reason
        What the data lack, e.g. "the reference mask is empty".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class StatisticResult:
    """Numbers of one statistic.

    Parameters
    ----------
    values
        Number, list of numbers, or None where not defined, by name.
    notes
        Why a value is None, what was left out, which convention a number follows.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """Numbers of one stored case: what ``voxtrial statistic run`` prints as one line."""

    case: str
    statistic: str
    values: dict[str, Any]
    notes: tuple[str, ...]

    def as_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(
            {"case": self.case, "statistic": self.statistic, "values": self.values, "notes": self.notes},
            ensure_ascii=False,
            allow_nan=False,
        )


@dataclass(frozen=True)
class Statistic:
    """A registered computation and the names of the values that it always returns."""

    name: str
    compute: Computation
    values: tuple[str, ...]


_registered: dict[str, Statistic] = {}


def statistic(name: str, *, values: Sequence[str] = ()) -> Callable[[Computation], Computation]:
    """Register a function under the name that cases and reports use.

    Parameters
    ----------
    name
        A name of the catalogue.
    values
        Names that are None when the function raises ``Undefined``; names that depend on the input
        (``nsd_surfel_1mm``) are not listed.
    """

    def register(compute: Computation) -> Computation:
        _registered[name] = Statistic(name, compute, tuple(values))
        return compute

    return register


def find(name: str) -> Statistic:
    """Return a statistic, importing its family on first use."""
    module = catalogue.module_of(name)
    if module is None:
        raise StatisticError(f"There is no statistic {name!r}{nearest(name, catalogue.names())}")
    importlib.import_module(f"voxtrial.validation.{module}")
    return _registered[name]


def run(
    name: str, tables: Tables, inputs: Inputs | None = None, *, conf: float | None = None
) -> StatisticResult:
    """Compute one statistic.

    Parameters
    ----------
    name
        Name in the catalogue.
    tables
        Role (``wide``, ``long``, ``counts``, ...) to table.
    inputs
        Column names and parameters.
    conf
        Confidence level; overrides ``conf`` and ``alpha`` of the inputs.

    Raises
    ------
    StatisticError
        When the call cannot be understood. Data that leave a number undefined do not raise: the number is
        None and a note gives the reason.
    """
    found = find(name)
    arguments = dict(inputs or {})
    if conf is not None:
        arguments.pop("alpha", None)
        arguments["conf"] = conf
    notes: list[str] = []
    try:
        with np.errstate(all="ignore"):
            outcome = found.compute(tables, arguments)
    except Undefined as undefined:
        return StatisticResult(
            values=dict.fromkeys(found.values), notes=(f"{name} is not defined: {undefined.reason}",)
        )
    except (np.linalg.LinAlgError, ArithmeticError) as error:
        reason = "a number is too large or too small for double precision"
        if isinstance(error, np.linalg.LinAlgError):
            reason = f"the equations have no unique solution ({error})"
        return StatisticResult(
            values=dict.fromkeys(found.values), notes=(f"{name} is not defined: {reason}",)
        )
    if isinstance(outcome, tuple):
        outcome, extra = outcome
        notes.extend(extra)
    values, undefined_notes = presentable(outcome)
    return StatisticResult(values=values, notes=(*undefined_notes, *notes))


def read_case(path: Path) -> tuple[str, str, dict[str, pd.DataFrame], dict[str, Any]]:
    """Read a stored case: its id, statistic, tables and inputs.

    The paths of its tables are relative to the folder above the one that holds the case.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StatisticError(f"The case {path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise StatisticError(f"The case {path} is not JSON: {error}.") from error
    if not isinstance(document, dict) or "statistic" not in document:
        raise StatisticError(f"The case {path} names no statistic.")
    tables = {}
    for role, name in dict(document.get("data") or {}).items():
        file = path.resolve().parent.parent / name
        try:
            tables[role] = pd.read_csv(file)
        except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise StatisticError(f"The table {file} of case {path} cannot be read: {error}.") from error
    identity = str(document.get("id", path.stem))
    return identity, str(document["statistic"]), tables, dict(document.get("inputs") or {})


def run_case(path: Path) -> CaseResult:
    """Compute a stored case."""
    case, name, tables, inputs = read_case(path)
    result = run(name, tables, inputs)
    return CaseResult(case=case, statistic=name, values=result.values, notes=result.notes)


def presentable(values: Values) -> tuple[dict[str, Any], list[str]]:
    """Return plain numbers with None where undefined, and for each reason a note that names the values."""
    reasons: dict[str, list[str]] = {}

    def plain(value: object, name: str) -> Any:
        if isinstance(value, Undefined):
            reasons.setdefault(value.reason, []).append(name)
            return None
        if value is None:
            reasons.setdefault("no value for this input", []).append(name)
            return None
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, list | tuple):
            return [plain(element, f"{name}[{index}]") for index, element in enumerate(value)]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, float) and not math.isfinite(value):
            reasons.setdefault("the data give no finite number", []).append(name)
            return None
        if isinstance(value, int | float | str):
            return value
        raise TypeError(f"{name} is a {type(value).__name__}; a statistic returns numbers and lists")

    shown = {name: plain(value, name) for name, value in values.items()}
    return shown, [f"{', '.join(names)} not defined: {reason}" for reason, names in reasons.items()]
