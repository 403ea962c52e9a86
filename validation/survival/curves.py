"""Report survival: curves with limits, medians, follow-up, restricted means and log-rank tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.survival.log_rank import log_rank
from voxtrial.validation.survival.product_limit import (
    BEYOND,
    CensoredTimes,
    censored_times,
    kaplan_meier_estimator,
    log_limits,
    log_log_limits,
    median_of,
    restricted_mean,
    strata_of,
)
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    Tables,
    column_names,
    comparable,
    confidence,
    parameter,
    vector,
)


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
        labels, index = np.unique(comparable(data.frame[group].to_numpy()), return_inverse=True)
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


@statistic("logrank_stratified", values=("chi2", "df", "p", "observed", "expected"))
def logrank_stratified(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare the levels of ``group`` within the ``strata`` (one column or several)."""
    group, strata = parameter(inputs, "group"), column_names(parameter(inputs, "strata"))
    data = censored_times(tables, inputs, also=[group, *strata])
    _, index = np.unique(comparable(data.frame[group].to_numpy()), return_inverse=True)
    test = log_rank(data.time, data.event, index, strata_of(data, strata))
    values = {
        "chi2": test.chi2,
        "df": test.df,
        "p": test.p,
        "observed": test.observed,
        "expected": test.expected,
    }
    return values, data.notes
