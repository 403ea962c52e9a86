"""Repeatability of a biomarker: how far two measurements of an unchanged patient may lie apart.

wSD is the within-subject standard deviation, wCV its relative form, RC = 1.96 sqrt(2) wSD the difference that
95 % of unchanged pairs stay below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Complete,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    confidence,
    parameter,
)

RC_FACTOR = float(stats.norm.ppf(0.975) * np.sqrt(2))
"""2.7718: half width, in wSD, of the interval that holds 95 % of the differences of unchanged pairs."""


@dataclass(frozen=True, kw_only=True)
class WithinSubject:
    """Replicates of each subject, summed up.

    Parameters
    ----------
    variance, mean, log_variance
        Per subject; ``log_variance`` is NaN where a replicate is not positive.
    replicates
        Number of replicates per subject.
    """

    variance: Floats
    mean: Floats
    log_variance: Floats
    replicates: Floats

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the pooled variance."""
        return int((self.replicates - 1).sum())

    def pooled(self, squares: Floats) -> float:
        """Return the mean of per-subject variances, weighted by their degrees of freedom."""
        return float(np.average(squares, weights=self.replicates - 1))


def chi_square_interval(sd: float, degrees: float, conf: float) -> tuple[float, float]:
    """Return the interval of a standard deviation with ``degrees`` degrees of freedom."""
    tail = (1 - conf) / 2
    return (
        float(sd * np.sqrt(degrees / stats.chi2.ppf(1 - tail, degrees))),
        float(sd * np.sqrt(degrees / stats.chi2.ppf(tail, degrees))),
    )


def within_subject(values: Sequence[Floats]) -> WithinSubject:
    """Return the within-subject summaries of replicates, one array of at least two for each subject."""
    logs = [np.log(v) if (v > 0).all() else np.full(v.shape, np.nan) for v in values]
    return WithinSubject(
        variance=np.array([v.var(ddof=1) for v in values]),
        mean=np.array([v.mean() for v in values]),
        log_variance=np.array([v.var(ddof=1) for v in logs]),
        replicates=np.array([v.size for v in values], dtype=float),
    )


def _replicates(tables: Tables, inputs: Inputs) -> tuple[list[Floats], list[str]]:
    if inputs.get("layout", "wide") == "wide":
        names = list(parameter(inputs, "replicates"))
        rows = complete(tables, "wide", names)
        if len(names) < 2:
            raise Undefined("one replicate: repeatability needs at least two")
        return list(rows.matrix(names)), list(rows.notes)
    subject, value = (str(parameter(inputs, name)) for name in ("subject", "value"))
    rows = complete(tables, "long", [subject, value])
    groups = _grouped(rows, subject, value)
    repeated = [group for group in groups if group.size > 1]
    notes = list(rows.notes)
    if len(repeated) < len(groups):
        notes.append(f"{len(groups) - len(repeated)} of {len(groups)} subjects left out: one replicate only")
    return repeated, notes


def _grouped(rows: Complete, by: str, value: str) -> list[Floats]:
    _, group = np.unique(rows.labels(by), return_inverse=True)
    order = np.argsort(group, kind="stable")
    return np.split(rows.numbers(value)[order], np.flatnonzero(np.diff(group[order])) + 1)


@statistic(
    "repeatability",
    values=(
        *("n_subjects", "n_replicates", "df", "wms", "wsd", "wsd_ci_low", "wsd_ci_high"),
        *("rc", "rc_ci_low", "rc_ci_high", "wcv_rms", "wcv_rms_ci_low", "wcv_rms_ci_high"),
        *("pct_rc", "pct_rc_ci_low", "pct_rc_ci_high", "wcv_log", "grand_mean"),
    ),
)
def repeatability(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return wSD, wCV and the repeatability coefficient of test-retest data.

    Inputs: ``layout`` wide (``replicates``: columns) or long (``subject``, ``value``: columns; numbers of
    replicates may differ); ``claim_wcv``: the wCV that a profile claims. The claim holds where the upper
    limit of the two-sided interval stays at or below it; ``wcv_rms_upper_one_sided`` is the one-sided bound.

    Notes
    -----
    Intervals are chi-square with the pooled degrees of freedom. ``wcv_rms`` is the root mean square of
    SD / mean over subjects and needs means that are not zero; ``wcv_log`` needs positive replicates.
    Replicates that are all equal give wSD = 0 without an interval: rounding hides the variation.

    References
    ----------
    Raunig DL et al. Stat Methods Med Res 2015;24:27-67. doi:10.1177/0962280214537344.
    Obuchowski NA, Bullen J. Stat Methods Med Res 2018;27:3139-3150 (claims).
    """
    conf = confidence(inputs)
    replicates, notes = _replicates(tables, inputs)
    if not replicates:
        raise Undefined("no subject has two complete replicates")
    within = within_subject(replicates)
    counts = np.unique(within.replicates)
    wms = within.pooled(within.variance)
    wsd = float(np.sqrt(wms))
    no_interval = (
        Undefined("the replicates of every subject are equal: no interval exists") if wms == 0 else None
    )

    def interval(sd: float) -> tuple[object, object]:
        return (no_interval, no_interval) if no_interval else chi_square_interval(sd, within.degrees, conf)

    wsd_low, wsd_high = interval(wsd)
    rc_low, rc_high = interval(RC_FACTOR * wsd)
    values: dict[str, object] = {
        "n_subjects": len(replicates),
        "n_replicates": int(counts[0]) if counts.size == 1 else Undefined("the numbers of replicates differ"),
        "df": within.degrees,
        "wms": wms,
        "wsd": wsd,
        "wsd_ci_low": wsd_low,
        "wsd_ci_high": wsd_high,
        "rc": RC_FACTOR * wsd,
        "rc_ci_low": rc_low,
        "rc_ci_high": rc_high,
        "grand_mean": float(np.average(within.mean, weights=within.replicates)),
    }
    relative = ("wcv_rms", "wcv_rms_ci_low", "wcv_rms_ci_high", "pct_rc", "pct_rc_ci_low", "pct_rc_ci_high")
    if (within.mean == 0).any():
        values |= dict.fromkeys(relative, Undefined("the mean of a subject is zero"))
    else:
        wcv = float(np.sqrt(within.pooled(within.variance / within.mean**2)))
        bounds = (wcv, *interval(wcv), 100 * RC_FACTOR * wcv, *interval(100 * RC_FACTOR * wcv))
        values |= dict(zip(relative, bounds, strict=True))
    log_variance = within.pooled(within.log_variance)
    values["wcv_log"] = (
        Undefined("a replicate is not positive")
        if np.isnan(log_variance)
        else float(np.sqrt(np.expm1(log_variance)))
    )
    if "claim_wcv" in inputs:
        values |= _claim(values, float(inputs["claim_wcv"]), within.degrees, conf)
    return values, notes


def _claim(values: dict[str, object], claim: float, degrees: int, conf: float) -> dict[str, object]:
    high, wcv = values["wcv_rms_ci_high"], values["wcv_rms"]
    if not isinstance(high, float) or not isinstance(wcv, float):
        undefined = Undefined("the wCV has no interval")
        return {"claim_wcv": claim, "claim_met": undefined, "wcv_rms_upper_one_sided": undefined}
    return {
        "claim_wcv": claim,
        "claim_met": int(high <= claim),
        "wcv_rms_upper_one_sided": float(wcv * np.sqrt(degrees / stats.chi2.ppf(1 - conf, degrees))),
    }


@statistic("change_beyond_repeatability", values=("n", "change", "limit_low", "limit_high", "changed"))
def change_beyond_repeatability(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Flag the follow-up pairs whose change exceeds what repetition alone explains.

    Inputs: ``baseline``, ``followup`` (columns of ``wide``) and one of ``rc`` (absolute, symmetric),
    ``pct_rc`` (percent of baseline, symmetric) or ``wcv_log`` (symmetric in the logarithm, hence wider
    upwards: right for a wCV above about 15 %). Values are lists by row; ``changed`` is -1, 0 or 1.

    References
    ----------
    Obuchowski NA et al. Stat Methods Med Res 2015;24:68-106. doi:10.1177/0962280214537390.
    """
    before_name, after_name = (str(parameter(inputs, name)) for name in ("baseline", "followup"))
    rows = complete(tables, "wide", [before_name, after_name])
    before, after = rows.numbers(before_name), rows.numbers(after_name)
    if not before.size:
        raise Undefined("no complete pair")
    given = [name for name in ("rc", "pct_rc", "wcv_log") if name in inputs]
    if len(given) != 1:
        raise StatisticError(f"Give one of rc, pct_rc or wcv_log; given are {given or 'none'}.")
    size = float(inputs[given[0]])
    if not size > 0:
        raise StatisticError(f"{given[0]} is {size}; it must be positive.")
    if given[0] == "rc":
        change, low, high = after - before, -size, size
    elif (before <= 0).any() or (after <= 0).any():
        raise Undefined("a measurement is not positive: a relative change does not exist")
    elif given[0] == "pct_rc":
        change, low, high = 100 * (after / before - 1), -size, size
    else:
        reach = RC_FACTOR * np.sqrt(np.log1p(size**2))
        change = 100 * (after / before - 1)
        low, high = 100 * np.expm1(-reach), 100 * np.expm1(reach)
    changed = np.where(change > high, 1, np.where(change < low, -1, 0))
    return {
        "n": before.size,
        "n_increased": int((changed == 1).sum()),
        "n_decreased": int((changed == -1).sum()),
        "limit_low": float(low),
        "limit_high": float(high),
        "change": change,
        "changed": changed,
    }, rows.notes
