"""Compare the survival of groups, within strata where asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.registry import Undefined
from voxtrial.validation.survival.product_limit import kaplan_meier_estimator
from voxtrial.validation.tables import Flags, Floats


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
