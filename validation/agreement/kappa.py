"""Agreement of categories beyond chance: Cohen's kappa of two raters, Fleiss' kappa of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Complete,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    comparable,
    complete,
    confidence,
    parameter,
)

WEIGHTS = ("kappa", "kappa_linear", "kappa_quadratic")
VALUES = (
    "n",
    "observed_agreement",
    *(w + part for w in WEIGHTS for part in ("", "_se", "_ci_low", "_ci_high")),
)


def level_index(labels: NDArray[Any], levels: Sequence[object]) -> NDArray[np.intp]:
    """Return the position of each label in the given order of levels; numbers compare as numbers."""
    position = {_key(level): i for i, level in enumerate(levels)}
    try:
        return np.array([position[_key(label)] for label in labels], dtype=np.intp)
    except KeyError as error:
        raise StatisticError(
            f"The rating {error.args[0]!r} is not among the levels {list(levels)}."
        ) from error


def _key(label: object) -> object:
    return float(label) if isinstance(label, int | float | np.number) else str(label)


def weighted_kappa(table: Floats, weights: Floats) -> tuple[float, float]:
    """Return kappa and its large-sample standard error from an (L, L) table of counts.

    NaN when chance agreement is complete: both raters use one and the same level.

    References
    ----------
    Fleiss JL, Cohen J, Everitt BS. Psychol Bull 1969;72:323-327. doi:10.1037/h0028106.
    """
    n = table.sum()
    p = table / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, chance = float(np.sum(weights * p)), float(rows @ weights @ columns)
    if 1 - chance < 1e-14:
        return float("nan"), float("nan")
    kappa = (observed - chance) / (1 - chance)
    expected = (weights @ columns)[:, None] + (rows @ weights)[None, :]
    variance = np.sum(p * (weights - expected * (1 - kappa)) ** 2) - (kappa - chance * (1 - kappa)) ** 2
    return float(kappa), float(np.sqrt(max(variance, 0.0) / n) / (1 - chance))


def _cross_table(tables: Tables, inputs: Inputs) -> tuple[Floats, tuple[str, ...]]:
    first, second = (str(parameter(inputs, name)) for name in ("rater1", "rater2"))
    counted = "count" in inputs
    names = [first, second, str(inputs["count"])] if counted else [first, second]
    rows: Complete = complete(tables, "counts" if counted else "wide", names)
    a, b = rows.labels(first), rows.labels(second)
    if not a.size:
        raise Undefined("no case was rated by both raters")
    levels = inputs.get("levels") or np.unique(comparable([*a, *b])).tolist()
    weights = rows.numbers(str(inputs["count"])) if counted else np.ones(a.size)
    if (weights < 0).any():
        raise StatisticError("A count is negative.")
    cell = level_index(a, levels) * len(levels) + level_index(b, levels)
    table = np.bincount(cell, weights, len(levels) ** 2).reshape(len(levels), -1)
    return table.astype(np.float64), rows.notes


@statistic("cohen_kappa", values=VALUES)
def cohen_kappa(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return unweighted, linearly and quadratically weighted kappa of two raters.

    Inputs: ``rater1``, ``rater2``: columns of ``wide`` (one row for each case) or, with ``count``, of
    ``counts`` (one row for each cell); ``levels`` in their order (default: sorted); ``conf``. Weights follow
    the position of the level, not its number.

    Notes
    -----
    Not defined when both raters put every case in the same one level. Complete agreement over several levels
    is 1 without an interval: the large-sample standard error is 0 there.

    References
    ----------
    Cohen J. Educ Psychol Meas 1960;20:37-46. doi:10.1177/001316446002000104.
    """
    table, notes = _cross_table(tables, inputs)
    n = table.sum()
    if n == 0:
        raise Undefined("no case was rated by both raters")
    z = float(stats.norm.ppf((1 + confidence(inputs)) / 2))
    position = np.arange(len(table))
    distance = np.abs(position[:, None] - position) / max(len(table) - 1, 1)
    values: dict[str, object] = {"n": int(n), "observed_agreement": np.trace(table) / n}
    for name, weights in zip(WEIGHTS, (distance == 0, 1 - distance, 1 - distance**2), strict=True):
        kappa, se = weighted_kappa(table, weights.astype(float))
        if np.isnan(kappa):
            one_level = Undefined("both raters put every case in one level: chance agreement is complete")
            values |= dict.fromkeys((name, f"{name}_se", f"{name}_ci_low", f"{name}_ci_high"), one_level)
            continue
        missing = Undefined("the raters agree completely: no interval exists") if se < 1e-12 else None
        values |= {
            name: kappa,
            f"{name}_se": missing or se,
            f"{name}_ci_low": missing or kappa - z * se,
            f"{name}_ci_high": missing or kappa + z * se,
        }
    return values, notes


@statistic("fleiss_kappa", values=("n", "n_raters", "kappa", "kappa_se_null", "z", "p", "category_kappa"))
def fleiss_kappa(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the chance-corrected agreement of many raters, overall and for each category.

    Inputs: ``raters`` (columns of ``wide``), ``levels`` (default: sorted). Subjects with a missing rating are
    left out, with a note. ``z`` tests kappa = 0 with the null standard error.

    References
    ----------
    Fleiss JL. Psychol Bull 1971;76:378-382. doi:10.1037/h0031619; null variance of Fleiss, Nee, Landis 1979.
    """
    raters = [str(name) for name in parameter(inputs, "raters")]
    if len(raters) < 2:
        raise Undefined("one rater: agreement needs at least two")
    rows = complete(tables, "wide", raters)
    n, m = rows.frame.shape
    if not n:
        raise Undefined("no subject was rated by all raters")
    ratings = comparable(rows.frame.to_numpy().ravel())
    levels = inputs.get("levels") or np.unique(ratings).tolist()
    index = level_index(ratings, levels).reshape(n, m)
    counts = np.stack([(index == level).sum(axis=1) for level in range(len(levels))], axis=1).astype(float)
    share = counts.sum(axis=0) / (n * m)
    chance = share @ share
    if 1 - chance < 1e-14:
        raise Undefined("all ratings are in one level: chance agreement is complete")
    observed = (np.sum(counts**2) - n * m) / (n * m * (m - 1))
    kappa = (observed - chance) / (1 - chance)
    spread = share * (1 - share)
    null = 2 * (spread.sum() ** 2 - np.sum(spread * (1 - 2 * share))) / (n * m * (m - 1) * spread.sum() ** 2)
    disagreement = np.sum(counts * (m - counts), axis=0) / (n * m * (m - 1))
    unused = Undefined("the category is used always or never")
    return {
        "n": n,
        "n_raters": m,
        "observed_agreement": observed,
        "kappa": kappa,
        "kappa_se_null": np.sqrt(null),
        "z": kappa / np.sqrt(null),
        "p": 2 * stats.norm.sf(abs(kappa) / np.sqrt(null)),
        "category_kappa": [1 - d / s if s > 0 else unused for d, s in zip(disagreement, spread, strict=True)],
    }, rows.notes
