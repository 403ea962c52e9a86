"""Estimate survival from censored times: the product-limit curve, its limits, median and restricted mean.

At equal times events come before censorings: a patient censored on the day of an event was at risk for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.registry import Undefined
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    parameter,
    vector,
)

BEYOND = "it lies beyond the longest follow-up"


@dataclass(frozen=True, kw_only=True)
class CensoredTimes:
    """Follow-up of patients.

    Parameters
    ----------
    time
        (n,) follow-up, any unit, not negative.
    event
        (n,) True for the event, False for censoring.
    frame
        The complete rows that they came from.
    notes
        What was left out.
    """

    time: Floats
    event: Flags
    frame: pd.DataFrame
    notes: tuple[str, ...]

    def matrix(self, names: Sequence[str]) -> Floats:
        """Return numeric columns as (n, k)."""
        return np.column_stack([vector(self.frame[name].tolist(), name) for name in names])


def censored_times(tables: Tables, inputs: Inputs, also: Sequence[str] = ()) -> CensoredTimes:
    """Read ``time`` and ``event`` (0/1) and keep the rows complete in these and in ``also``."""
    time, event = parameter(inputs, "time"), parameter(inputs, "event")
    role = "long" if "long" in tables and "wide" not in tables else "wide"
    rows = complete(tables, role, [time, event, *also])
    if rows.frame.empty:
        raise Undefined("there is no patient")
    times, events = rows.numbers(time), rows.numbers(event)
    if (times < 0).any() or not np.isfinite(times).all():
        raise StatisticError(f"The column {time!r} holds a negative or infinite time.")
    if not np.isin(events, (0.0, 1.0)).all():
        raise StatisticError(f"The column {event!r} must hold 1 for the event and 0 for censoring.")
    return CensoredTimes(time=times, event=events == 1, frame=rows.frame, notes=rows.notes)


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """Product-limit estimate at the distinct times of events.

    Parameters
    ----------
    times, survival, hazard_variance
        (k,) ascending times with an event, survival from then on, and Greenwood's sum
        d / (n (n - d)) up to then, which is infinite once survival is 0.
    at_risk, events
        (k,) counts at these times.
    longest
        Longest follow-up.
    """

    times: Floats
    survival: Floats
    hazard_variance: Floats
    at_risk: Floats
    events: Floats
    longest: float

    def step(self, values: Floats, before: float, at: Floats) -> Floats:
        """Return a right-continuous step function through ``values`` at the given times."""
        return np.asarray(np.concatenate([[before], values])[np.searchsorted(self.times, at, "right")])


def kaplan_meier_estimator(time: Floats, event: Flags) -> SurvivalCurve:
    """Return the Kaplan-Meier estimate.

    References
    ----------
    Kaplan EL, Meier P. J Am Stat Assoc 1958;53:457-481. doi:10.1080/01621459.1958.10501452.
    """
    times, deaths = np.unique(time[event], return_counts=True)
    at_risk = time.size - np.searchsorted(np.sort(time), times, "left")
    with np.errstate(divide="ignore"):
        greenwood = deaths / (at_risk * (at_risk - deaths))
    return SurvivalCurve(
        times=times,
        survival=np.asarray(np.cumprod(1 - deaths / at_risk), dtype=np.float64),
        hazard_variance=np.cumsum(greenwood),
        at_risk=at_risk.astype(float),
        events=deaths.astype(float),
        longest=float(time.max()),
    )


def log_log_limits(survival: Floats, hazard_variance: Floats, level: float) -> tuple[Floats, Floats]:
    """Return limits that are symmetric in log(-log S); NaN where survival is 0 or 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        half = normal_quantile(level) * np.sqrt(hazard_variance) / np.abs(np.log(survival))
        low, high = survival ** np.exp(half), survival ** np.exp(-half)
    inside = (survival > 0) & (survival < 1)
    return np.where(inside, low, np.nan), np.where(inside, high, np.nan)


def log_limits(survival: Floats, hazard_variance: Floats, level: float) -> tuple[Floats, Floats]:
    """Return limits that are symmetric in log S, at most 1; NaN where survival is 0."""
    half = normal_quantile(level) * np.sqrt(hazard_variance)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = survival * np.exp(-half), np.minimum(survival * np.exp(half), 1.0)
    return np.where(survival > 0, low, np.nan), np.where(survival > 0, high, np.nan)


def median_of(times: Floats, survival: Floats) -> float:
    """Return the first time with survival at or below one half, NaN if there is none.

    Where the curve runs exactly at one half the middle of that stretch is taken.
    """
    rounding = 1e-12
    below = np.flatnonzero(survival <= 0.5 + rounding)
    if below.size == 0:
        return np.nan
    first = below[0]
    if abs(survival[first] - 0.5) <= rounding:
        later = np.flatnonzero(survival < 0.5 - rounding)
        if later.size:
            return float(times[first] + times[later[0]]) / 2
    return float(times[first])


def restricted_mean(curve: SurvivalCurve, tau: float) -> tuple[float, float]:
    """Return the area under the survival curve up to ``tau`` and its standard error (Greenwood)."""
    inside = curve.times < tau
    edges = np.concatenate([[0.0], curve.times[inside], [tau]])
    heights = np.concatenate([[1.0], curve.survival[inside]])
    pieces = np.diff(edges) * heights
    after = np.cumsum(pieces[::-1])[::-1][1:]
    n, d = curve.at_risk[inside], curve.events[inside]
    part = n > d
    variance = float((after[part] ** 2 * d[part] / (n[part] * (n[part] - d[part]))).sum())
    return float(pieces.sum()), float(np.sqrt(variance))


def strata_of(data: CensoredTimes, names: Sequence[str]) -> NDArray[np.intp]:
    """Return the stratum of every patient: one for each combination of the columns."""
    return np.asarray(data.frame.groupby(list(names), sort=True).ngroup().to_numpy())
