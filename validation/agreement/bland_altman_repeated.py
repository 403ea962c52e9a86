"""Limits of agreement when each item was measured several times by each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    Tables,
    columns,
    complete,
    confidence,
    parameter,
)


@dataclass(frozen=True, kw_only=True)
class OneWay:
    """Replicates of items: means, counts, and the variance within."""

    means: Floats
    counts: Floats
    within_squares: float

    @property
    def degrees_within(self) -> int:
        """Degrees of freedom within items."""
        return int(self.counts.sum()) - self.means.size

    @property
    def within_variance(self) -> float:
        """Mean square within items; NaN when every item has one replicate."""
        return self.within_squares / self.degrees_within if self.degrees_within else float("nan")


def _one_way(values: Floats, group: NDArray[np.intp], n_groups: int) -> OneWay:
    counts = np.bincount(group, minlength=n_groups).astype(float)
    means = np.bincount(group, values, n_groups) / counts
    squares = float(np.sum((values - means[group]) ** 2))
    return OneWay(means=means, counts=counts, within_squares=squares)


def _known(ways: OneWay) -> object:
    return ways.within_variance if ways.degrees_within else Undefined("one replicate of each item")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A multiple of a mean square within the total variance, for the interval of its square root."""

    weight: float
    mean_square: float
    degrees: int


def _limits(bias: float, se_bias: float, parts: Sequence[Part], conf: float) -> dict[str, object]:
    """Return both limits with intervals recovered from the intervals of bias and variance (MOVER).

    References
    ----------
    Zou GY. Stat Methods Med Res 2013;22:630-642. doi:10.1177/0962280211402548.
    """
    total = sum(part.weight * part.mean_square for part in parts)
    sd, z, tail = float(np.sqrt(total)), float(stats.norm.ppf(0.975)), (1 - conf) / 2
    lower = upper = 0.0
    for part in parts:
        size = part.weight * part.mean_square
        lower += (size * (1 - part.degrees / stats.chi2.ppf(1 - tail, part.degrees))) ** 2
        upper += (size * (part.degrees / stats.chi2.ppf(tail, part.degrees) - 1)) ** 2
    sd_low, sd_high = np.sqrt(max(total - np.sqrt(lower), 0.0)), np.sqrt(total + np.sqrt(upper))
    error = float(stats.norm.ppf(1 - tail)) * se_bias
    inner, outer = np.hypot(error, z * (sd - sd_low)), np.hypot(error, z * (sd_high - sd))
    return {
        "total_sd": sd,
        "loa_low": bias - z * sd,
        "loa_high": bias + z * sd,
        "loa_low_ci_low": bias - z * sd - outer,
        "loa_low_ci_high": bias - z * sd + inner,
        "loa_high_ci_low": bias + z * sd - inner,
        "loa_high_ci_high": bias + z * sd + outer,
    }


@statistic(
    "bland_altman_repeated_true_value_constant",
    values=("n_items", "bias", "within_var_x", "within_var_y", "total_sd", "loa_low", "loa_high"),
)
def true_value_constant(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the limits for single measurements when the true value of an item does not change.

    Inputs: ``item``, ``x``, ``y`` (columns of ``long``; a cell may be empty where one method has fewer
    replicates). Bias is the mean over items of the difference of the two means; the variance of that
    difference is corrected for the replicates that were averaged.

    References
    ----------
    Bland JM, Altman DG. Stat Methods Med Res 1999;8:135-160, section 5.1. doi:10.1177/096228029900800204.
    """
    item, x, y = (str(parameter(inputs, name)) for name in ("item", "x", "y"))
    frame = columns(tables, "long", [item, x, y]).dropna(subset=[item])
    both = set(frame[item][frame[x].notna()]) & set(frame[item][frame[y].notna()])
    if len(both) < 2:
        raise Undefined(f"{len(both)} items measured by both methods: at least two are needed")
    frame = frame[frame[item].isin(both)]
    methods: list[OneWay] = []
    for name in (x, y):
        rows = complete({"long": frame}, "long", [item, name])
        _, group = np.unique(rows.labels(item), return_inverse=True)
        methods.append(_one_way(rows.numbers(name), group, len(both)))
    first, second = methods
    difference = first.means - second.means
    k, bias, variance = difference.size, float(difference.mean()), float(difference.var(ddof=1))
    values: dict[str, object] = {
        "n_items": k,
        "bias": bias,
        "within_var_x": _known(first),
        "within_var_y": _known(second),
        "var_mean_diff": variance,
    }
    inverse = [float(np.mean(1 / method.counts)) for method in methods]
    values["mean_inverse_n"] = inverse[0] if inverse[0] == inverse[1] else float(np.mean(inverse))
    values |= {"mean_inverse_n_x": inverse[0], "mean_inverse_n_y": inverse[1]}
    parts = [Part(weight=1, mean_square=variance, degrees=k - 1)]
    notes = []
    for name, method, mean_inverse in zip((x, y), methods, inverse, strict=True):
        if method.degrees_within:
            weight = 1 - mean_inverse
            parts.append(
                Part(weight=weight, mean_square=method.within_variance, degrees=method.degrees_within)
            )
        else:
            notes.append(f"{name} has one replicate of each item: its variation within items is not known")
    return values | _limits(bias, float(np.sqrt(variance / k)), parts, confidence(inputs)), notes


@statistic(
    "bland_altman_repeated_true_value_varies",
    values=("n_items", "n_pairs", "bias", "within_var", "between_var", "total_sd", "loa_low", "loa_high"),
)
def true_value_varies(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the limits from linked pairs when the true value changes between replicates.

    Inputs: ``item``, ``x``, ``y`` (columns of ``long``, one linked pair in each row). The differences are
    split into variance between and within items; a negative between-item estimate is set to 0, with a note.

    References
    ----------
    Bland JM, Altman DG. J Biopharm Stat 2007;17:571-582. doi:10.1080/10543400701329422.
    """
    item, x, y = (str(parameter(inputs, name)) for name in ("item", "x", "y"))
    rows = complete(tables, "long", [item, x, y])
    difference = rows.numbers(x) - rows.numbers(y)
    labels, group = np.unique(rows.labels(item), return_inverse=True)
    k, n = labels.size, difference.size
    if k < 2:
        raise Undefined(f"{k} items: at least two are needed")
    if n == k:
        raise Undefined("one pair of each item: use bland_altman")
    ways = _one_way(difference, group, k)
    bias = float(difference.mean())
    between_ms = float(ways.counts @ (ways.means - bias) ** 2) / (k - 1)
    divisor = (n - float(np.sum(ways.counts**2)) / n) / (k - 1)
    between = (between_ms - ways.within_variance) / divisor
    notes = list(rows.notes)
    if between < 0:
        notes.append(f"between-item variance estimated as {between:.6g}, set to 0")
        between = 0.0
        parts = [Part(weight=1.0, mean_square=ways.within_variance, degrees=n - k)]
    else:
        parts = [
            Part(weight=1 / divisor, mean_square=between_ms, degrees=k - 1),
            Part(weight=1 - 1 / divisor, mean_square=ways.within_variance, degrees=n - k),
        ]
    variance_of_bias = between * float(np.sum(ways.counts**2)) / n**2 + ways.within_variance / n
    limits = _limits(bias, float(np.sqrt(variance_of_bias)), parts, confidence(inputs))
    return {
        "n_items": k,
        "n_pairs": n,
        "bias": bias,
        "within_var": ways.within_variance,
        "between_ms": between_ms,
        "divisor": divisor,
        "between_var": between,
        **limits,
    }, notes
