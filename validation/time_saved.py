"""Estimate the reading time that a device saves, as a difference and as a share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, confidence, parameter

VALUES = (
    *("n", "mean_with", "mean_without", "saved", "saved_ci_low", "saved_ci_high", "p"),
    *("share_saved", "share_saved_ci_low", "share_saved_ci_high"),
)


def _interval(estimate: float, se: float, degrees: float, level: float) -> tuple[float, float]:
    half = float(stats.t.isf((1 - level) / 2, degrees)) * se
    return estimate - half, estimate + half


def _difference(with_device: Floats, without: Floats, paired: bool) -> tuple[float, float, float]:
    """Return mean difference (without - with), standard error and degrees of freedom (Welch if unpaired).

    A standard error within rounding of 0 is 0.
    """
    rounding = 1e-12 * max(float(np.abs(without).max()), float(np.abs(with_device).max()))
    estimate = float(without.mean() - with_device.mean())
    if paired:
        se = float((without - with_device).std(ddof=1) / np.sqrt(without.size))
        return estimate, se if se > rounding else 0.0, without.size - 1
    parts = [group.var(ddof=1) / group.size for group in (without, with_device)]
    se2 = sum(parts)
    spread = sum(v**2 / (g.size - 1) for v, g in zip(parts, (without, with_device), strict=True))
    se = float(np.sqrt(se2))
    return (estimate, se, se2**2 / spread) if se > rounding else (estimate, 0.0, np.nan)


@statistic("time_saved", values=VALUES)
def time_saved(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare reading times ``with`` and ``without`` the device (paired columns of ``wide``).

    With ``reader`` the times are first averaged for each reader, so that the interval is over readers. Or
    unpaired: ``time`` and ``group`` of ``long``, where ``group1`` reads with the device. The share is
    1 - ratio of geometric means, from logarithms; times of 0 have none.
    """
    level = confidence(inputs)
    if "with" in inputs:
        columns = [parameter(inputs, "with"), parameter(inputs, "without")]
        reader = inputs.get("reader")
        rows = complete(tables, "wide", [*columns, *([reader] if reader else [])])
        times = rows.matrix(columns)
        paired = True
    else:
        time, group, reader = parameter(inputs, "time"), parameter(inputs, "group"), None
        rows = complete(tables, "long" if "long" in tables else "wide", [time, group])
        labels = rows.labels(group)
        if np.unique(labels).size > 2:
            raise StatisticError("Reading times of two groups are compared; the column holds more.")
        inside = labels == parameter(inputs, "group1")
        values_of = rows.numbers(time)
        paired = False
        times = np.empty((0, 2))
    if (paired and (times < 0).any()) or (not paired and (values_of < 0).any()):
        raise StatisticError("A reading time is negative.")

    def sides(transform: np.ufunc | None) -> tuple[Floats, Floats]:
        if not paired:
            raw = values_of if transform is None else transform(values_of)
            return raw[inside], raw[~inside]
        raw = times if transform is None else transform(times)
        if reader:
            _, index = np.unique(rows.labels(reader), return_inverse=True)
            raw = np.column_stack([np.bincount(index, column) / np.bincount(index) for column in raw.T])
        return raw[:, 0], raw[:, 1]

    with_device, without = sides(None)
    if min(with_device.size, without.size) < 2:
        raise Undefined("fewer than two readings (or readers) on a side: the spread is unknown")
    estimate, se, degrees = _difference(with_device, without, paired)
    values: dict[str, object] = {
        "n": with_device.size if paired else with_device.size + without.size,
        "mean_with": with_device.mean(),
        "mean_without": without.mean(),
        "saved": estimate,
    }
    names = ("saved_ci_low", "saved_ci_high", "p")
    if se > 0:
        found = (*_interval(estimate, se, degrees, level), 2 * stats.t.sf(abs(estimate / se), degrees))
        values |= dict(zip(names, found, strict=True))
    else:
        values |= dict.fromkeys(names, Undefined("the saving is the same in every reading"))
    shares = ("share_saved", "share_saved_ci_low", "share_saved_ci_high")
    if (times if paired else values_of).min() <= 0:
        return values | dict.fromkeys(shares, Undefined("a time of 0 has no logarithm")), rows.notes
    ratio, se, degrees = _difference(*sides(np.log), paired)
    values["share_saved"] = -np.expm1(-ratio)
    if se > 0:
        low, high = _interval(ratio, se, degrees, level)
        values |= {shares[1]: -np.expm1(-low), shares[2]: -np.expm1(-high)}
    else:
        values |= dict.fromkeys(shares[1:], Undefined("the share is the same in every reading"))
    return values, rows.notes
