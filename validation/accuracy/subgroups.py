"""Report performance in every subgroup, small ones included, with a test of interaction for each variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.accuracy.delong import NO_SPREAD, area, logit_interval
from voxtrial.validation.accuracy.proportions import wilson
from voxtrial.validation.accuracy.scored_cases import scored_cases
from voxtrial.validation.multiplicity import holm
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    column_names,
    comparable,
    confidence,
    parameter,
)

METRICS = ("auc", "sensitivity", "specificity")
DEFAULT_MINIMUM = 10


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Performance in one level of a variable; the variance is NaN where the estimate has no spread."""

    n_positive: int
    n_negative: int
    estimate: float | Undefined
    low: float | Undefined
    high: float | Undefined
    variance: float


def stratum(positive: Flags, score: Floats, metric: str, minimum: int, level: float) -> Stratum:
    """Estimate one level; with fewer than ``minimum`` cases of a class that matters it is too small."""
    m, n = int(positive.sum()), int((~positive).sum())
    needed = {"auc": min(m, n), "sensitivity": m, "specificity": n}[metric]
    if needed < max(minimum, 1):
        small = Undefined(f"n too small: {m} positive and {n} negative cases, minimum {minimum}")
        return Stratum(n_positive=m, n_negative=n, estimate=small, low=small, high=small, variance=np.nan)
    if metric == "auc":
        found = area(score[positive], score[~positive])
        if not found.variance > 0:
            flat = Undefined(NO_SPREAD)
            return Stratum(
                n_positive=m, n_negative=n, estimate=found.auc, low=flat, high=flat, variance=np.nan
            )
        low, high = logit_interval(found.auc, float(np.sqrt(found.variance)), level)
        return Stratum(
            n_positive=m, n_negative=n, estimate=found.auc, low=low, high=high, variance=found.variance
        )
    right = score[positive] == 1 if metric == "sensitivity" else score[~positive] == 0
    x, size = int(right.sum()), right.size
    low, high = wilson(x, size, level)
    p = x / size
    return Stratum(n_positive=m, n_negative=n, estimate=p, low=low, high=high, variance=p * (1 - p) / size)


def interaction(strata: Sequence[Stratum], metric: str) -> tuple[float, int]:
    """Return the chi-square of equal performance over the levels that are large enough, and its df.

    Areas by inverse variances (Cochran's Q: of two levels the squared DeLong z), proportions by Pearson.
    """
    usable = [s for s in strata if not isinstance(s.estimate, Undefined)]
    if metric == "auc":
        usable = [s for s in usable if np.isfinite(s.variance)]
    if len(usable) < 2:
        raise Undefined("fewer than two levels are large enough and vary")
    estimates = np.array([s.estimate for s in usable], dtype=float)
    if metric == "auc":
        weight = 1 / np.array([s.variance for s in usable])
        mean = weight @ estimates / weight.sum()
        return float(weight @ (estimates - mean) ** 2), len(usable) - 1
    sizes = np.array([s.n_positive if metric == "sensitivity" else s.n_negative for s in usable])
    pooled = float(sizes @ estimates / sizes.sum())
    if pooled in (0.0, 1.0):
        raise Undefined("every case of every level has the same result")
    return float(sizes @ (estimates - pooled) ** 2 / (pooled * (1 - pooled))), len(usable) - 1


def _levels(column: pd.Series, cuts: Sequence[float] | None, name: str) -> tuple[list[str], NDArray[np.intp]]:
    """Return level names and the level of each case; ``cuts`` make half-open bands [low, high)."""
    if cuts is None:
        names, index = np.unique(comparable(column.to_numpy()), return_inverse=True)
        return [str(n) for n in names], index
    try:
        values = column.to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise StatisticError(f"The column {name!r} is not numeric and cannot be cut into bands.") from error
    edges = [-np.inf, *cuts, np.inf]
    bands = [f"[{low:g}, {high:g})" for low, high in pairwise(edges)]
    return bands, np.searchsorted(np.asarray(cuts, dtype=float), values, "right")


@statistic("subgroups", values=("overall", "overall_ci_low", "overall_ci_high"))
def subgroups(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate the ``metric`` of ``score`` by subgroup: auc, or sensitivity or specificity of a 0/1 score.

    ``by`` lists the columns, ``bands`` maps numeric columns to cuts, ``minimum`` (10) is the smallest number
    of cases of a class that the metric needs: below it the level is listed as too small, not left out.
    P-values of the interactions come plain and adjusted by Holm over the variables.
    """
    metric = str(inputs.get("metric", "auc"))
    if metric not in METRICS:
        raise StatisticError(f"The metric is {metric!r}; known are {', '.join(METRICS)}.")
    by = column_names(parameter(inputs, "by"))
    bands: Mapping[str, Sequence[float]] = inputs.get("bands", {})
    minimum, level = int(inputs.get("minimum", DEFAULT_MINIMUM)), confidence(inputs)
    cases = scored_cases(tables, inputs, ["score"], also=by)
    score = cases.scores[:, 0]
    if metric != "auc" and not np.isin(score, (0.0, 1.0)).all():
        raise StatisticError(
            "Sensitivity and specificity need a 0/1 result; apply the frozen threshold first."
        )
    whole = stratum(cases.positive, score, metric, 1, level)
    values: dict[str, object] = {
        "overall": whole.estimate,
        "overall_ci_low": whole.low,
        "overall_ci_high": whole.high,
    }
    p_values: dict[str, float] = {}
    for name in by:
        labels, index = _levels(cases.frame[name], bands.get(name), name)
        found = [
            stratum(cases.positive[index == k], score[index == k], metric, minimum, level)
            for k in range(len(labels))
        ]
        values |= {
            f"{name}_level": labels,
            f"{name}_n_positive": [s.n_positive for s in found],
            f"{name}_n_negative": [s.n_negative for s in found],
            f"{name}_estimate": [s.estimate for s in found],
            f"{name}_ci_low": [s.low for s in found],
            f"{name}_ci_high": [s.high for s in found],
        }
        keys = [f"{name}_interaction_{what}" for what in ("chi2", "df", "p", "p_holm")]
        try:
            chi2, df = interaction(found, metric)
        except Undefined as undefined:
            values |= dict.fromkeys(keys, undefined)
            continue
        p_values[name] = float(stats.chi2.sf(chi2, df))
        values |= dict(zip(keys[:3], (chi2, df, p_values[name]), strict=True))
    for name, adjusted in zip(p_values, holm(np.array(list(p_values.values()))), strict=True):
        values[f"{name}_interaction_p_holm"] = adjusted
    return values, [*cases.notes, f"{len(by)} variables were looked at; p_holm holds the level over them"]
