"""Measure how well a risk score orders censored event times: Harrell's and Uno's C, and the AUC at a time.

A higher risk predicts an earlier event. A pair is comparable when the earlier time is an event; two events at
one time are not comparable, an event and a censoring at one time are. Tied risks count one half. Standard
errors sum the squared influence of every patient, the estimated censoring distribution included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.accuracy.rank_kernels import concordance_counts
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.survival.censoring import censoring_distribution
from voxtrial.validation.survival.product_limit import BEYOND, censored_times
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    confidence,
    parameter,
    vector,
)


@dataclass(frozen=True, kw_only=True)
class Concordance:
    """Concordance with its pairs; weights instead of counts for Uno's C. NaN where no pair is comparable."""

    estimate: float
    standard_error: float
    concordant: float
    discordant: float
    tied: float


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Pairs of every patient, in the order of the input: as the earlier one (case) and as the later one."""

    concordant_as_case: Floats
    pairs_as_case: Floats
    tied_as_case: Floats
    concordant_as_partner: Floats
    pairs_as_partner: Floats


def _pairs(time: Floats, event: Flags, risk: Floats, case_weight: Floats) -> _Pairs:
    order = np.lexsort((~event, time))
    t, e = time[order], event[order]
    _, score = np.unique(risk[order], return_inverse=True)
    events_before = np.concatenate([[0], np.cumsum(e)])
    start, end = np.searchsorted(t, t, "left"), np.searchsorted(t, t, "right")
    last = start + events_before[end] - events_before[start]
    below, equal, above, higher, same, lower = concordance_counts(
        last.astype(np.int64),
        np.where(e, case_weight[order], 0.0),
        np.ones(t.size, dtype=np.bool_),
        score.astype(np.int64),
        int(score.max()) + 1,
    )
    back = np.empty(t.size, dtype=np.intp)
    back[order] = np.arange(t.size)
    return _Pairs(
        concordant_as_case=(below + equal / 2)[back],
        pairs_as_case=(below + equal + above)[back],
        tied_as_case=equal[back],
        concordant_as_partner=(higher + same / 2)[back],
        pairs_as_partner=(higher + same + lower)[back],
    )


def concordance(
    time: Floats, event: Flags, risk: Floats, strata: NDArray[np.intp] | None = None
) -> Concordance:
    """Return Harrell's C, pairs compared within strata, in O(n log n).

    Parameters
    ----------
    time, event
        (n,) follow-up.
    risk
        (n,) a higher risk predicts an earlier event.
    strata
        (n,) labels; all patients form one stratum by default.

    References
    ----------
    Harrell FE et al. JAMA 1982;247:2543-2546. doi:10.1001/jama.1982.03320430047030.
    Therneau TM, Watson DA. The concordance statistic and the Cox model. Mayo Clinic report 85, 2015.
    """
    agreed, comparable = np.zeros(time.size), np.zeros(time.size)
    concordant = tied = 0.0
    groups = [slice(None)] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    for group in groups:
        e = event[group]
        found = _pairs(time[group], e, risk[group], np.ones(e.size))
        agreed[group] = found.concordant_as_case + found.concordant_as_partner
        comparable[group] = found.pairs_as_case + found.pairs_as_partner
        concordant += float(found.concordant_as_case.sum())
        tied += float(found.tied_as_case.sum())
    pairs = float(comparable.sum()) / 2
    if pairs == 0:
        return Concordance(estimate=np.nan, standard_error=np.nan, concordant=0, discordant=0, tied=0)
    estimate = concordant / pairs
    influence = (agreed - estimate * comparable) / pairs
    return Concordance(
        estimate=estimate,
        standard_error=float(np.sqrt((influence**2).sum())),
        concordant=concordant - tied / 2,
        discordant=pairs - concordant - tied / 2,
        tied=tied,
    )


def uno_concordance(time: Floats, event: Flags, risk: Floats, tau: float) -> Concordance:
    """Return Uno's C up to ``tau``: pairs weighted by the inverse squared probability of being uncensored.

    References
    ----------
    Uno H et al. Stat Med 2011;30:1105-1117. doi:10.1002/sim.4154.
    """
    censoring = censoring_distribution(time, event)
    early = event & (time < tau)
    weight = np.zeros(time.size)
    weight[early] = censoring.just_before(time[early]) ** -2.0
    found = _pairs(time, event, risk, weight)
    total = float((weight * found.pairs_as_case).sum())
    if total == 0:
        return Concordance(estimate=np.nan, standard_error=np.nan, concordant=0, discordant=0, tied=0)
    concordant = float((weight * found.concordant_as_case).sum())
    tied = float((weight * found.tied_as_case).sum())
    estimate = concordant / total
    as_case = weight * (found.concordant_as_case - estimate * found.pairs_as_case) / total
    as_partner = (found.concordant_as_partner - estimate * found.pairs_as_partner) / total
    influence = as_case + as_partner + 2 * censoring.influence(time, event, time[early], as_case[early])
    return Concordance(
        estimate=estimate,
        standard_error=float(np.sqrt((influence**2).sum())),
        concordant=concordant - tied / 2,
        discordant=total - concordant - tied / 2,
        tied=tied,
    )


@dataclass(frozen=True, kw_only=True)
class TimeArea:
    """Area under the ROC curve at a time, with its standard error; NaN where a side is empty."""

    auc: float
    standard_error: float
    n_cases: int
    n_controls: int


def cumulative_dynamic_auc(time: Floats, event: Flags, risk: Floats, at: float) -> TimeArea:
    """Return the area for events before ``at`` (weighted for censoring) against patients followed beyond it.

    References
    ----------
    Hung H, Chiang CT. Can J Stat 2010;38:8-26. doi:10.1002/cjs.10046.
    Blanche P, Dartigues JF, Jacqmin-Gadda H. Stat Med 2013;32:5381-5397. doi:10.1002/sim.5958.
    """
    cases, controls = event & (time < at), time > at
    if not cases.any() or not controls.any():
        return TimeArea(
            auc=np.nan, standard_error=np.nan, n_cases=int(cases.sum()), n_controls=int(controls.sum())
        )
    censoring = censoring_distribution(time, event)
    weight = 1 / censoring.just_before(time[cases])
    weight /= weight.sum()
    case_risk, control_risk = risk[cases], risk[controls]
    ranked = np.sort(control_risk)
    exceeded = (np.searchsorted(ranked, case_risk, "left") + np.searchsorted(ranked, case_risk, "right")) / (
        2 * ranked.size
    )
    order = np.argsort(case_risk)
    sums = np.concatenate([[0.0], np.cumsum(weight[order])])
    up_to = sums[np.searchsorted(case_risk[order], control_risk, "left")]
    up_to = (up_to + sums[np.searchsorted(case_risk[order], control_risk, "right")]) / 2
    auc = float(weight @ exceeded)
    influence = np.zeros(time.size)
    own = weight * (exceeded - auc)
    influence[cases] += own
    influence[controls] += (1 - up_to - auc) / ranked.size
    influence += censoring.influence(time, event, time[cases], own)
    return TimeArea(
        auc=auc,
        standard_error=float(np.sqrt((influence**2).sum())),
        n_cases=int(cases.sum()),
        n_controls=ranked.size,
    )


NO_SPREAD = "its standard error is 0 (perfect order, or all risks tied), which is not certainty"


def _with_interval(prefix: str, value: float, se: float, z: float, lack: str) -> dict[str, object]:
    names = (prefix + "_se", prefix + "_ci_low", prefix + "_ci_high")
    if np.isnan(value):
        return dict.fromkeys((prefix + "_c", *names), Undefined(lack))
    if not se > 1e-12:
        return {prefix + "_c": value, **dict.fromkeys(names, Undefined(NO_SPREAD))}
    bounds = (se, max(value - z * se, 0.0), min(value + z * se, 1.0))
    return {prefix + "_c": value, **dict(zip(names, bounds, strict=True))}


@statistic(
    "c_index", values=("harrell_c", "harrell_se", "concordant", "discordant", "tied_risk", "uno_c", "uno_se")
)
def c_index(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Measure the concordance of ``risk``; Uno's C up to ``tau``, by default the last event."""
    risk = parameter(inputs, "risk")
    data = censored_times(tables, inputs, also=[risk])
    score = data.matrix([risk])[:, 0]
    if not data.event.any():
        raise Undefined("there is no event")
    tau = float(inputs.get("tau", np.nextafter(data.time[data.event].max(), np.inf)))
    z = normal_quantile(confidence(inputs))
    harrell = concordance(data.time, data.event, score)
    uno = uno_concordance(data.time, data.event, score, tau)
    values = {
        "concordant": harrell.concordant,
        "discordant": harrell.discordant,
        "tied_risk": harrell.tied,
        **_with_interval("harrell", harrell.estimate, harrell.standard_error, z, "no pair is comparable"),
        **_with_interval("uno", uno.estimate, uno.standard_error, z, "no pair is comparable before tau"),
        "tau": tau,
    }
    return values, data.notes


@statistic("time_dependent_auc", values=("times", "auc", "se", "ci_low", "ci_high"))
def time_dependent_auc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Measure ``risk`` at every one of ``times``."""
    risk = parameter(inputs, "risk")
    data = censored_times(tables, inputs, also=[risk])
    at = vector(parameter(inputs, "times"), "times")
    if at.size == 0:
        raise StatisticError("Give at least one time.")
    z = normal_quantile(confidence(inputs))
    score = data.matrix([risk])[:, 0]
    found = [cumulative_dynamic_auc(data.time, data.event, score, float(t)) for t in at]
    rows: dict[str, list[object]] = {"auc": [], "se": [], "ci_low": [], "ci_high": []}
    for t, one in zip(at, found, strict=True):
        if np.isnan(one.auc):
            side = "no event came before it" if one.n_cases == 0 else BEYOND
            row: list[object] = [Undefined(f"at {t:g}: {side}")] * 4
        elif not one.standard_error > 1e-12:
            row = [one.auc, *[Undefined(NO_SPREAD)] * 3]
        else:
            se = one.standard_error
            row = [one.auc, se, max(one.auc - z * se, 0.0), min(one.auc + z * se, 1.0)]
        for name, value in zip(rows, row, strict=True):
            rows[name].append(value)
    counts = {"n_cases": [one.n_cases for one in found], "n_controls": [one.n_controls for one in found]}
    return {"times": at, **rows, **counts}, [
        *data.notes,
        "cases fail before the time, controls are followed beyond it",
    ]
