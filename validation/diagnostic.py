"""Describe a test at a fixed threshold against the truth, alone or beside a second test on the same cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from voxtrial.validation.proportions import clopper_pearson, counts, normal_quantile, wilson
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.scored_cases import Flags, require_both_classes, scored_cases
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, confidence

DEFAULT_PREVALENCES = (0.05,)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Return PPV and NPV at a prevalence by Bayes' theorem; NaN where nothing is called so."""
    positive = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    negative = specificity * (1 - prevalence) + (1 - sensitivity) * prevalence
    ppv = sensitivity * prevalence / positive if positive > 0 else np.nan
    npv = specificity * (1 - prevalence) / negative if negative > 0 else np.nan
    return ppv, npv


def _log_interval(ratio: float, se_log: float, level: float) -> tuple[float, float]:
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
    return {name: top / bottom, **dict(zip(ends, _log_interval(top / bottom, se, level), strict=True))}


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
        test, truth, notes = _called(cases.scores[:, 0], "test"), cases.positive, cases.notes
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


def _called(score: Floats, name: str) -> Flags:
    if not np.isin(score, (0.0, 1.0)).all():
        raise StatisticError(f"The column of {name!r} must hold 0 and 1; apply the frozen threshold first.")
    return np.asarray(score == 1.0)


def _mcnemar(first: Flags, second: Flags) -> tuple[object, object]:
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    if b + c == 0:
        undefined = Undefined("no case is discordant")
        return undefined, undefined
    chi2 = (b - c) ** 2 / (b + c)
    return chi2, stats.chi2.sf(chi2, 1)


def generalized_score(truth: Flags, tests: Sequence[Flags], outcome: Flags) -> tuple[float, float]:
    """Return the generalised and the weighted generalised score statistic for equal predictive values.

    Parameters
    ----------
    truth
        True class.
    tests
        Two tests; where ``called`` they enter the predictive value.
    outcome
        True where a call is right: the truth for PPV, its negation for NPV.

    References
    ----------
    Leisenring W, Alonzo T, Pepe MS. Biometrics 2000;56:345-351. doi:10.1111/j.0006-341X.2000.00345.x.
    Kosinski AS. Stat Med 2013;32:964-977. doi:10.1002/sim.5587.
    """
    first, second = (test.astype(float) for test in tests)
    n1, n2 = first.sum(), second.sum()
    right = outcome.astype(float)
    pooled = (first @ right + second @ right) / (n1 + n2)
    share = n2 / (n1 + n2)
    score = (right - pooled) * (second * (1 - share) - first * share)
    plain = float(score.sum() ** 2 / (score**2).sum()) if (score**2).sum() > 0 else np.nan
    both = first * second
    common = float((both * (right - pooled) ** 2).sum() / (n1 + n2))
    variance = (pooled * (1 - pooled) - 2 * common) * (1 / n1 + 1 / n2)
    distance = first @ right / n1 - second @ right / n2
    weighted = float(distance**2 / variance) if variance > np.finfo(float).eps else np.nan
    return plain, weighted


def _relative(
    prefix: str, names: tuple[str, str, str, str, str], log_ratio: float, influence: Floats, level: float
) -> dict[str, object]:
    """Return a ratio, interval and test; the influence of each case gives the SE of its logarithm."""
    ratio, se, statistic_name, p, ends = names
    error = float(np.sqrt((influence**2).sum()))
    keys = [f"{prefix}_{key}" for key in (ratio, se, f"lcl{ends}", f"ucl{ends}", statistic_name, p)]
    if not np.isfinite(log_ratio):
        return dict.fromkeys(keys, Undefined("a proportion in the ratio is 0"))
    bounds = _log_interval(float(np.exp(log_ratio)), error, level)
    if error == 0:
        none = Undefined("both tests agree on every case that counts")
        return dict(zip(keys, (np.exp(log_ratio), none, none, none, none, none), strict=True))
    z = log_ratio / error
    found = (np.exp(log_ratio), error, *bounds, z, 2 * stats.norm.sf(abs(z)))
    return dict(zip(keys, found, strict=True))


@statistic("paired_binary_tests", values=("sens1", "sens2", "spec1", "spec2", "ppv1", "ppv2", "npv1", "npv2"))
def paired_binary_tests(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare ``test1`` and ``test2`` (0/1 columns) on the same cases with ``truth``.

    ``rppv`` and ``rnpv`` are second over first, ``pdlr`` and ``ndlr`` first over second, as in their papers.

    References
    ----------
    Moskowitz CS, Pepe MS. Clin Trials 2006;3:272-279. doi:10.1191/1740774506cn147oa.
    Gu W, Pepe MS. Estimating the capacity for improvement in risk prediction with a marker.
    Biostatistics 2009;10:172-186. doi:10.1093/biostatistics/kxn025.
    """
    cases = scored_cases(tables, inputs, ["test1", "test2"])
    truth = cases.positive
    require_both_classes(truth)
    tests = [_called(cases.scores[:, k], f"test{k + 1}") for k in range(2)]
    level = confidence(inputs)
    values: dict[str, object] = {}
    for k, test in enumerate(tests, start=1):
        values[f"sens{k}"] = test[truth].mean()
        values[f"spec{k}"] = (~test[~truth]).mean()
    values["sens_mcnemar"], values["sens_p"] = _mcnemar(tests[0][truth], tests[1][truth])
    values["spec_mcnemar"], values["spec_p"] = _mcnemar(tests[0][~truth], tests[1][~truth])
    for name, called, right in (("ppv", tests, truth), ("npv", [~test for test in tests], ~truth)):
        keys = [f"{name}1", f"{name}2"]
        score_keys = [f"{name}_gs_stat", f"{name}_gs_p", f"{name}_wgs_stat", f"{name}_wgs_p"]
        relative_keys = (f"r{name}", f"se_log_r{name}", "test_statistic", "p_value", f"_r{name}")
        if not all(test.any() for test in called):
            lack = Undefined(f"a test has no call that enters the {name.upper()}")
            values |= dict.fromkeys([*keys, *score_keys], lack)
            values |= {f"r{name}_{key}": lack for key in relative_keys[:4]}
            continue
        rates = [right[test].mean() for test in called]
        values |= dict(zip(keys, rates, strict=True))
        plain, weighted = generalized_score(truth, called, right)
        chi_squares = (plain, stats.chi2.sf(plain, 1), weighted, stats.chi2.sf(weighted, 1))
        values |= dict(zip(score_keys, chi_squares, strict=True))
        values |= {f"r{name}_test{k}": rate for k, rate in enumerate(rates, start=1)}
        influence = np.zeros(truth.size)
        for sign, test, rate in zip((-1, 1), called, rates, strict=True):
            hits = (test & right).sum()
            influence += sign * test * (right - rate) / hits if hits else np.nan
        log_ratio = float(np.log(rates[1]) - np.log(rates[0])) if min(rates) > 0 else np.nan
        values |= _relative(f"r{name}", relative_keys, log_ratio, influence, level)
    for name, called in (("pdlr", tests), ("ndlr", [~test for test in tests])):
        values |= _likelihood_ratio(name, called, truth, level)
    return values, cases.notes


def _likelihood_ratio(name: str, called: Sequence[Flags], truth: Flags, level: float) -> dict[str, object]:
    """Return the likelihood ratios of both tests and their ratio, first over second."""
    values: dict[str, object] = {}
    influence = np.zeros(truth.size)
    logs = []
    for k, test in enumerate(called, start=1):
        diseased, healthy = test[truth].mean(), test[~truth].mean()
        values[f"{name}_test{k}"] = (
            diseased / healthy
            if healthy > 0
            else Undefined("its denominator is 0: no such call among the negative")
        )
        logs.append(np.log(diseased) - np.log(healthy) if min(diseased, healthy) > 0 else np.nan)
        if np.isfinite(logs[-1]):
            sign = 1 if k == 1 else -1
            influence[truth] += sign * (test[truth] - diseased) / (diseased * truth.sum())
            influence[~truth] -= sign * (test[~truth] - healthy) / (healthy * (~truth).sum())
    keys = ("ratio", "se_log", "test_statistic", "p_value", "")
    return values | _relative(name, keys, float(logs[0] - logs[1]), influence, level)
