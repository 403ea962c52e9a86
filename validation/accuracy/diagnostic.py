"""Describe a test at a fixed threshold against the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from voxtrial.validation.accuracy.proportions import clopper_pearson, counts, normal_quantile, wilson
from voxtrial.validation.accuracy.scored_cases import scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Flags, Floats, Inputs, StatisticError, Tables, confidence

DEFAULT_PREVALENCES = (0.05,)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Return PPV and NPV at a prevalence by Bayes' theorem; NaN where nothing is called so."""
    positive = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    negative = specificity * (1 - prevalence) + (1 - sensitivity) * prevalence
    ppv = sensitivity * prevalence / positive if positive > 0 else np.nan
    npv = specificity * (1 - prevalence) / negative if negative > 0 else np.nan
    return ppv, npv


def log_interval(ratio: float, se_log: float, level: float) -> tuple[float, float]:
    """Return the interval of a ratio that is symmetric in its logarithm."""
    half = normal_quantile(level) * se_log
    return float(ratio * np.exp(-half)), float(ratio * np.exp(half))


def _ratio_values(
    name: str, top: float, bottom: float, reciprocals: Sequence[float], level: float
) -> dict[str, object]:
    """Return a ratio with the interval of its logarithm, whose variance sums signed reciprocals of counts."""
    ends = (f"{name}_ci_low", f"{name}_ci_high")
    if bottom == 0:
        return dict.fromkeys((name, *ends), Undefined("its denominator is 0"))
    if top == 0:
        return {name: 0.0, **dict.fromkeys(ends, Undefined("the ratio is 0: its logarithm has no interval"))}
    se = float(np.sqrt(max(sum(1 / r for r in reciprocals), 0.0)))
    return {name: top / bottom, **dict(zip(ends, log_interval(top / bottom, se, level), strict=True))}


def _prevalences(inputs: Inputs) -> Sequence[float]:
    given = inputs.get("prevalence", DEFAULT_PREVALENCES)
    found = [float(p) for p in (given if isinstance(given, Sequence) else [given])]
    if not all(0 < p < 1 for p in found):
        raise StatisticError(f"The prevalence is {found}; it must lie between 0 and 1.")
    return found


def _at_prevalence(tp: int, fn: int, fp: int, tn: int, prevalence: float, level: float) -> dict[str, object]:
    """Return predictive values at a prevalence with logit intervals (Mercaldo 2007)."""
    n1, n0 = tp + fn, tn + fp
    sensitivity, specificity = tp / n1, tn / n0
    found = predictive_values(sensitivity, specificity, prevalence)
    z = normal_quantile(level)
    values: dict[str, object] = {}
    parts = (
        (fn / (tp * n1) if tp else 0, tn / (fp * n0) if fp else 0),
        (tp / (fn * n1) if fn else 0, fp / (tn * n0) if tn else 0),
    )
    for name, value, variances in zip(("ppv", "npv"), found, parts, strict=True):
        label = f"{name}_at_prev_{100 * prevalence:g}pct"
        values[label] = (
            value if np.isfinite(value) else Undefined(f"no case is called for the {name.upper()}")
        )
        ends = (f"{label}_ci_low", f"{label}_ci_high")
        if 0 < value < 1:
            half = z * np.sqrt(sum(variances))
            bounds = special.expit(special.logit(value) + np.array([-half, half]))
            values |= dict(zip(ends, bounds, strict=True))
        else:
            values |= dict.fromkeys(ends, Undefined("a predictive value of 0 or 1 has no logit interval"))
    return values


@statistic("diagnostic_accuracy", values=("sensitivity", "specificity", "ppv", "npv", "lr_pos", "lr_neg"))
def diagnostic_accuracy(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Describe a 2x2 table with exact and Wilson intervals.

    Cells ``tp``, ``fn``, ``fp``, ``tn``, or a table with the 0/1 columns ``truth`` and ``test``.
    ``prevalence`` (a number or a list, default 0.05) is that of the intended use: an enriched set must not
    report its raw predictive values as if they were met in practice.

    References
    ----------
    Simel DL, Samsa GP, Matchar DB. J Clin Epidemiol 1991;44:763-770. doi:10.1016/0895-4356(91)90128-V.
    Mercaldo ND, Lau KF, Zhou XH. Stat Med 2007;26:2170-2183. doi:10.1002/sim.2677.
    """
    notes: Sequence[str] = ()
    if tables:
        cases = scored_cases(tables, inputs, ["test"])
        test, truth, notes = called(cases.scores[:, 0], "test"), cases.positive, cases.notes
        tp, fn = int((test & truth).sum()), int((~test & truth).sum())
        fp, tn = int((test & ~truth).sum()), int((~test & ~truth).sum())
    else:
        tp, fn, fp, tn = counts(inputs, "tp", "fn", "fp", "tn")
    level = confidence(inputs)
    n1, n0, total = tp + fn, fp + tn, tp + fn + fp + tn
    values: dict[str, object] = {"tp": tp, "fn": fn, "fp": fp, "tn": tn}
    for name, x, n, lack in (
        ("sensitivity", tp, n1, "no case is positive"),
        ("specificity", tn, n0, "no case is negative"),
        ("ppv", tp, tp + fp, "no case is called positive"),
        ("npv", tn, tn + fn, "no case is called negative"),
        ("accuracy", tp + tn, total, "there is no case"),
        ("f1", 2 * tp, 2 * tp + fp + fn, "no case is positive or called positive"),
    ):
        suffixes = ("",) if name == "f1" else ("", "_ci_low", "_ci_high", "_wilson_low", "_wilson_high")
        names = [name + suffix for suffix in suffixes]
        if n == 0:
            values |= dict.fromkeys(names, Undefined(lack))
            continue
        found = (x / n, *clopper_pearson(x, n, level), *wilson(x, n, level)) if len(names) > 1 else (x / n,)
        values |= dict(zip(names, found, strict=True))
    margins = float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    values["mcc"] = (
        (tp * tn - fp * fn) / np.sqrt(margins)
        if margins
        else Undefined("a row or column of the table is empty")
    )
    ratios = ("lr_pos", "lr_pos_ci_low", "lr_pos_ci_high", "lr_neg", "lr_neg_ci_low", "lr_neg_ci_high")
    if n1 == 0 or n0 == 0:
        reason = Undefined("a class is empty")
        return values | dict.fromkeys((*ratios, "youden", "balanced_accuracy", "dor"), reason), notes
    values["youden"] = tp / n1 + tn / n0 - 1
    values["balanced_accuracy"] = (tp / n1 + tn / n0) / 2
    values |= _ratio_values("lr_pos", tp / n1, fp / n0, (tp, -n1, fp, -n0), level)
    values |= _ratio_values("lr_neg", fn / n1, tn / n0, (fn, -n1, tn, -n0), level)
    values |= _ratio_values("dor", tp * tn, fp * fn, (tp, fn, fp, tn), level)
    for prevalence in _prevalences(inputs):
        values |= _at_prevalence(tp, fn, fp, tn, prevalence, level)
    return values, notes


def called(score: Floats, name: str) -> Flags:
    """Return where a 0/1 result is positive; a score must meet its frozen threshold first."""
    if not np.isin(score, (0.0, 1.0)).all():
        raise StatisticError(f"The column of {name!r} must hold 0 and 1; apply the frozen threshold first.")
    return np.asarray(score == 1.0)
