"""Estimate the reading time that a device saves, as a difference and as a share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, confidence, parameter

VALUES = (
    *("n", "mean_with", "mean_without", "saved", "saved_ci_low", "saved_ci_high", "p"),
    *("share_saved", "share_saved_ci_low", "share_saved_ci_high"),
)


@dataclass(frozen=True, kw_only=True)
class ReadingTimes:
    """Times with and without the device.

    Parameters
    ----------
    with_device, without
        Times of the same readings where ``paired``, else of two groups.
    paired
        Whether entry i of both belongs to one case.
    reader
        Reader of each pair, over whom the times are averaged; None keeps every reading.
    notes
        What was left out.
    """

    with_device: Floats
    without: Floats
    paired: bool
    reader: NDArray[np.intp] | None
    notes: tuple[str, ...]

    def averaged(self, logarithm: bool) -> tuple[Floats, Floats]:
        """Return both sides, averaged for each reader, of the times or of their logarithms."""
        sides = [np.log(t) if logarithm else t for t in (self.with_device, self.without)]
        if self.reader is not None:
            readings = np.bincount(self.reader)
            sides = [np.bincount(self.reader, side) / readings for side in sides]
        return sides[0], sides[1]


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Mean of without - with, its standard error (0 within rounding of 0) and degrees of freedom."""

    estimate: float
    se: float
    degrees: float

    def interval(self, level: float) -> tuple[float, float]:
        """Return Student's interval."""
        half = float(stats.t.isf((1 - level) / 2, self.degrees)) * self.se
        return self.estimate - half, self.estimate + half


def saving(with_device: Floats, without: Floats, *, paired: bool) -> Saving:
    """Compare two sides of at least two times each: paired differences, or Welch's comparison."""
    estimate = float(without.mean() - with_device.mean())
    rounding = 1e-12 * max(float(np.abs(without).max()), float(np.abs(with_device).max()))
    if paired:
        parts, sizes = [(without - with_device).var(ddof=1) / without.size], [without.size]
    else:
        sides = (without, with_device)
        parts, sizes = [side.var(ddof=1) / side.size for side in sides], [side.size for side in sides]
    se = float(np.sqrt(sum(parts)))
    if se <= rounding:
        return Saving(estimate=estimate, se=0.0, degrees=np.nan)
    degrees = sum(parts) ** 2 / sum(v**2 / (n - 1) for v, n in zip(parts, sizes, strict=True))
    return Saving(estimate=estimate, se=se, degrees=float(degrees))


def reading_times(tables: Tables, inputs: Inputs) -> ReadingTimes:
    """Read paired columns ``with`` and ``without``, or ``time`` and ``group`` with ``group1`` aided."""
    if "with" in inputs:
        names = [parameter(inputs, "with"), parameter(inputs, "without")]
        by_reader = [inputs["reader"]] if "reader" in inputs else []
        rows = complete(tables, "wide", [*names, *by_reader])
        times = rows.matrix(names)
        reader = np.unique(rows.labels(by_reader[0]), return_inverse=True)[1] if by_reader else None
        found = ReadingTimes(
            with_device=times[:, 0], without=times[:, 1], paired=True, reader=reader, notes=rows.notes
        )
    else:
        time, group = parameter(inputs, "time"), parameter(inputs, "group")
        rows = complete(tables, "long" if "long" in tables else "wide", [time, group])
        labels = rows.labels(group)
        if np.unique(labels).size > 2:
            raise StatisticError("Reading times of two groups are compared; the column holds more.")
        aided, single = labels == parameter(inputs, "group1"), rows.numbers(time)
        found = ReadingTimes(
            with_device=single[aided], without=single[~aided], paired=False, reader=None, notes=rows.notes
        )
    if (found.with_device < 0).any() or (found.without < 0).any():
        raise StatisticError("A reading time is negative.")
    return found


@statistic("time_saved", values=VALUES)
def time_saved(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare reading times ``with`` and ``without`` the device (paired columns of ``wide``).

    With ``reader`` the times are first averaged for each reader, so that the interval is over readers. Or
    unpaired: ``time`` and ``group`` of ``long``, where ``group1`` reads with the device. The share is
    1 - ratio of geometric means, from logarithms; times of 0 have none.
    """
    level = confidence(inputs)
    times = reading_times(tables, inputs)
    aided, unaided = times.averaged(logarithm=False)
    if min(aided.size, unaided.size) < 2:
        raise Undefined("fewer than two readings (or readers) on a side: the spread is unknown")
    found = saving(aided, unaided, paired=times.paired)
    values: dict[str, object] = {
        "n": aided.size if times.paired else aided.size + unaided.size,
        "mean_with": aided.mean(),
        "mean_without": unaided.mean(),
        "saved": found.estimate,
    }
    if found.se > 0:
        low, high = found.interval(level)
        p = 2 * stats.t.sf(abs(found.estimate / found.se), found.degrees)
        values |= {"saved_ci_low": low, "saved_ci_high": high, "p": p}
    else:
        same = Undefined("the saving is the same in every reading")
        values |= dict.fromkeys(("saved_ci_low", "saved_ci_high", "p"), same)
    shares = ("share_saved", "share_saved_ci_low", "share_saved_ci_high")
    if min(times.with_device.min(), times.without.min()) == 0:
        return values | dict.fromkeys(shares, Undefined("a time of 0 has no logarithm")), times.notes
    ratio = saving(*times.averaged(logarithm=True), paired=times.paired)
    values["share_saved"] = -np.expm1(-ratio.estimate)
    if ratio.se > 0:
        low, high = ratio.interval(level)
        values |= {shares[1]: -np.expm1(-low), shares[2]: -np.expm1(-high)}
    else:
        values |= dict.fromkeys(shares[1:], Undefined("the share is the same in every reading"))
    return values, times.notes
