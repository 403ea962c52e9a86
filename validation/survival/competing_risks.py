"""Estimate the cumulative incidence of an event when others may come first; ties are kept, not jittered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.survival.product_limit import BEYOND
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


@dataclass(frozen=True, kw_only=True)
class Incidence:
    """Cumulative incidence of one cause at given times with the infinitesimal jackknife's standard error."""

    incidence: Floats
    standard_error: Floats


def aalen_johansen_estimator(time: Floats, cause: NDArray[np.intp], of: int, at: Floats) -> Incidence:
    """Return the Aalen-Johansen estimate of one cause.

    Parameters
    ----------
    time
        (n,) follow-up.
    cause
        (n,) 0 for censored, else the cause of the event.
    of
        The cause whose incidence is wanted.
    at
        (k,) times.

    Notes
    -----
    The variance is the sum of squared influences of the patients, found for all of them by cumulative sums.

    References
    ----------
    Aalen OO, Johansen S. Scand J Stat 1978;5:141-150.
    """
    distinct, index = np.unique(time[cause > 0], return_inverse=True)
    if distinct.size == 0:
        return Incidence(incidence=np.zeros(at.size), standard_error=np.full(at.size, np.nan))
    causes = cause[cause > 0]
    every = np.bincount(index, minlength=distinct.size).astype(float)
    wanted = np.bincount(index[causes == of], minlength=distinct.size).astype(float)
    at_risk = time.size - np.searchsorted(np.sort(time), distinct, "left")
    before = np.concatenate([[1.0], np.cumprod(1 - every / at_risk)[:-1]])
    incidence = np.cumsum(before * wanted / at_risk)
    own = np.searchsorted(distinct, time, "right") - 1
    stays = at_risk > every
    found, errors = np.zeros(at.size), np.zeros(at.size)
    for k, t in enumerate(at):
        last = int(np.searchsorted(distinct, t, "right"))
        if last == 0:
            errors[k] = np.nan
            continue
        found[k] = incidence[last - 1]
        remaining = np.zeros(distinct.size)
        remaining[stays] = (found[k] - incidence[stays]) / (1 - every[stays] / at_risk[stays])
        gain = {True: before - remaining, False: -remaining}
        per_risk = (gain[True] * wanted + gain[False] * (every - wanted)) / at_risk**2
        drift = np.concatenate([[0.0], np.cumsum(per_risk[:last])])
        influence = -drift[np.minimum(own + 1, last)]
        failed = (cause > 0) & (time <= t)
        position = own[failed]
        influence[failed] += (
            np.where(cause[failed] == of, gain[True][position], gain[False][position]) / at_risk[position]
        )
        errors[k] = np.sqrt((influence**2).sum())
    return Incidence(incidence=found, standard_error=errors)


@statistic("cumulative_incidence", values=("times", "cif_cause1", "se_cause1"))
def cumulative_incidence(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate the incidence of every cause at ``times``; ``event`` is 0 for censored, else 1, 2, ...

    Limits are symmetric in log(-log(1 - incidence)).
    """
    time, event = parameter(inputs, "time"), parameter(inputs, "event")
    rows = complete(tables, "wide", [time, event])
    if rows.frame.empty:
        raise Undefined("there is no patient")
    times, codes = rows.numbers(time), rows.numbers(event)
    if (times < 0).any() or (codes < 0).any() or (codes != np.round(codes)).any():
        raise StatisticError(
            "Times and causes must not be negative; causes are whole numbers, 0 for censored."
        )
    at = vector(parameter(inputs, "times"), "times")
    cause = codes.astype(np.intp)
    z = normal_quantile(confidence(inputs))
    values: dict[str, object] = {"n": times.size, "times": at}
    causes = [int(c) for c in np.unique(cause) if c > 0]
    if not causes:
        raise Undefined("there is no event of any cause")
    for c in causes:
        found = aalen_johansen_estimator(times, cause, c, at)
        everyone_failed = cause[times == times.max()].all()
        known = (at <= times.max()) | everyone_failed
        with np.errstate(divide="ignore", invalid="ignore"):
            free = 1 - found.incidence
            half = z * found.standard_error / np.abs(free * np.log(free))
            limits = {"low": 1 - free ** np.exp(-half), "high": 1 - free ** np.exp(half)}
        values[f"cif_cause{c}"] = [
            v if ok else Undefined(BEYOND) for v, ok in zip(found.incidence, known, strict=True)
        ]
        spread = known & (found.standard_error > 0)
        for name, numbers in (
            (f"se_cause{c}", found.standard_error),
            (f"ci_low_cause{c}", limits["low"]),
            (f"ci_high_cause{c}", limits["high"]),
        ):
            values[name] = [
                v if ok else Undefined(f"no event yet, or {BEYOND}")
                for v, ok in zip(numbers, spread, strict=True)
            ]
    return values, rows.notes
