"""Estimate survival from censored times: Kaplan-Meier, medians, log-rank tests, restricted mean.

At equal times events come before censorings: a patient censored on the day of an event was at risk for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.proportions import normal_quantile
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.scored_cases import Flags
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    confidence,
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


@dataclass(frozen=True, kw_only=True)
class LogRank:
    """Weighted log-rank test of k groups."""

    chi2: float
    df: int
    p: float
    observed: Floats
    expected: Floats


def log_rank(
    time: Floats, event: Flags, group: NDArray[np.intp], strata: NDArray[np.intp], *, peto: bool = False
) -> LogRank:
    """Return the log-rank test, or Peto and Peto's with the pooled survival just before as weight.

    Parameters
    ----------
    time, event
        (n,) follow-up.
    group, strata
        (n,) labels 0, 1, ...; observed and expected numbers are summed over the strata.
    peto
        Weight by the Kaplan-Meier estimate of the stratum.

    Notes
    -----
    A group in which no event can be expected takes no part and lowers the degrees of freedom.

    References
    ----------
    Peto R, Peto J. J R Stat Soc A 1972;135:185-207. doi:10.2307/2344317.
    """
    groups = int(group.max()) + 1
    observed, expected = np.zeros(groups), np.zeros(groups)
    weighted, spread = np.zeros(groups), np.zeros((groups, groups))
    for stratum in np.unique(strata):
        inside = strata == stratum
        t, e, g = time[inside], event[inside], group[inside]
        if not e.any():
            continue
        curve = kaplan_meier_estimator(t, e)
        weight = np.concatenate([[1.0], curve.survival[:-1]]) if peto else np.ones(curve.times.size)
        deaths = np.array(
            [
                np.bincount(np.searchsorted(curve.times, t[e & (g == k)]), minlength=curve.times.size)
                for k in range(groups)
            ]
        )
        risk = np.array(
            [(g == k).sum() - np.searchsorted(np.sort(t[g == k]), curve.times) for k in range(groups)]
        )
        share = risk / curve.at_risk
        due = share * curve.events
        observed += deaths.sum(axis=1)
        expected += due.sum(axis=1)
        weighted += ((deaths - due) * weight).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = curve.events * (curve.at_risk - curve.events) / (curve.at_risk - 1)
        factor = np.where(curve.at_risk > 1, factor, 0.0) * weight**2
        spread += np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    taking_part = np.flatnonzero(expected > 0)
    df = taking_part.size - 1
    if df < 1:
        raise Undefined("fewer than two groups were at risk when events happened")
    used = taking_part[:-1]
    try:
        solved = np.linalg.solve(spread[np.ix_(used, used)], weighted[used])
    except np.linalg.LinAlgError as error:
        raise Undefined("the groups were never at risk together at an event") from error
    chi2 = float(weighted[used] @ solved)
    return LogRank(chi2=chi2, df=df, p=float(stats.chi2.sf(chi2, df)), observed=observed, expected=expected)


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


def _listed(values: Floats, known: Flags, reason: str) -> list[object]:
    return [value if ok else Undefined(reason) for value, ok in zip(values, known, strict=True)]


@statistic("kaplan_meier", values=("n", "events", "times", "survival", "median", "median_follow_up"))
def kaplan_meier(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate survival of all patients at ``times``, compare the levels of ``group``.

    ``tau`` bounds the restricted mean (by default the last of the times). Times beyond the longest follow-up
    have no estimate unless survival has reached 0.
    """
    group = inputs.get("group")
    data = censored_times(tables, inputs, also=[group] if group else [])
    level = confidence(inputs)
    curve = kaplan_meier_estimator(data.time, data.event)
    at = vector(inputs.get("times", ()), "times")
    survival = curve.step(curve.survival, 1.0, at)
    variance = curve.step(curve.hazard_variance, 0.0, at)
    known = (at <= curve.longest) | (survival == 0)
    low, high = log_log_limits(survival, variance, level)
    log_low, log_high = log_limits(survival, variance, level)
    started = known & (variance > 0) & (survival > 0)
    no_limit = "no event yet, nobody left, or beyond the longest follow-up"
    greenwood = np.where(survival > 0, survival * np.sqrt(variance), np.nan)
    curve_low, curve_high = log_log_limits(curve.survival, curve.hazard_variance, level)
    not_reached = Undefined("survival (or its limit) does not fall to one half")

    def or_not_reached(median: float) -> object:
        return not_reached if np.isnan(median) else median

    reverse = kaplan_meier_estimator(data.time, ~data.event)
    follow_up = median_of(reverse.times, reverse.survival)
    values: dict[str, object] = {
        "n": data.time.size,
        "events": int(data.event.sum()),
        "times": at,
        "survival": _listed(survival, known, BEYOND),
        "n_at_risk": data.time.size - np.searchsorted(np.sort(data.time), at, "left"),
        "greenwood_se": _listed(greenwood, started, no_limit),
        "loglog_ci_low": _listed(low, started, no_limit),
        "loglog_ci_high": _listed(high, started, no_limit),
        "log_ci_low": _listed(log_low, started, no_limit),
        "log_ci_high": _listed(log_high, started, no_limit),
        "median": or_not_reached(median_of(curve.times, curve.survival)),
        "median_loglog_ci_low": or_not_reached(median_of(curve.times, curve_low)),
        "median_loglog_ci_high": or_not_reached(median_of(curve.times, curve_high)),
        "median_follow_up": Undefined("half of the patients are never censored")
        if np.isnan(follow_up)
        else follow_up,
    }
    tau = float(inputs.get("tau", at.max() if at.size else curve.longest))
    values["rmst_tau"] = tau
    if tau > curve.longest and not (curve.survival.size and curve.survival[-1] == 0):
        values |= dict.fromkeys(("rmst", "rmst_se"), Undefined(f"tau = {tau:g}: {BEYOND}"))
    else:
        values["rmst"], se = restricted_mean(curve, tau)
        values["rmst_se"] = se if se > 0 else Undefined("no event before tau, or all at once: no spread")
    if group:
        labels, index = np.unique(data.frame[group].to_numpy(), return_inverse=True)
        values |= compared_groups(data, labels, index)
    return values, data.notes


def compared_groups(
    data: CensoredTimes, labels: NDArray[np.generic], index: NDArray[np.intp]
) -> dict[str, object]:
    """Return medians by group and the log-rank and Peto-Peto tests."""
    medians = []
    for k in range(labels.size):
        curve = kaplan_meier_estimator(data.time[index == k], data.event[index == k])
        median = median_of(curve.times, curve.survival)
        medians.append(Undefined("survival does not fall to one half") if np.isnan(median) else median)
    values: dict[str, object] = {
        "group_labels": labels,
        "group_n": np.bincount(index),
        "group_medians": medians,
    }
    one_stratum = np.zeros(index.size, dtype=np.intp)
    names = ("logrank_chi2", "logrank_df", "logrank_p", "peto_peto_chi2", "peto_peto_p")
    try:
        plain = log_rank(data.time, data.event, index, one_stratum)
        peto = log_rank(data.time, data.event, index, one_stratum, peto=True)
    except Undefined as undefined:
        return values | dict.fromkeys((*names, "logrank_observed", "logrank_expected"), undefined)
    numbers = (plain.chi2, plain.df, plain.p, peto.chi2, peto.p)
    values |= {"logrank_observed": plain.observed, "logrank_expected": plain.expected}
    return values | dict(zip(names, numbers, strict=True))


def strata_of(data: CensoredTimes, names: Sequence[str]) -> NDArray[np.intp]:
    """Return the stratum of every patient: one for each combination of the columns."""
    return np.asarray(data.frame.groupby(list(names), sort=True).ngroup().to_numpy())


def column_names(value: object) -> list[str]:
    """Return one or several column names as a list."""
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]  # JSON list


@statistic("logrank_stratified", values=("chi2", "df", "p", "observed", "expected"))
def logrank_stratified(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare the levels of ``group`` within the ``strata`` (one column or several)."""
    group, strata = parameter(inputs, "group"), column_names(parameter(inputs, "strata"))
    data = censored_times(tables, inputs, also=[group, *strata])
    _, index = np.unique(data.frame[group].to_numpy(), return_inverse=True)
    test = log_rank(data.time, data.event, index, strata_of(data, strata))
    values = {
        "chi2": test.chi2,
        "df": test.df,
        "p": test.p,
        "observed": test.observed,
        "expected": test.expected,
    }
    return values, data.notes
