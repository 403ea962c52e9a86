"""Compare two binary tests on the same cases: sensitivities, predictive values and likelihood ratios.

Tests share the cases, so every comparison rests on what each case contributes: the standard error of the
logarithm of a ratio is the root of the summed squared influences of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from voxtrial.validation.accuracy.diagnostic import called, log_interval
from voxtrial.validation.accuracy.scored_cases import require_both_classes, scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Flags, Inputs, Tables, confidence

Pair = tuple[Flags, Flags]


@dataclass(frozen=True, kw_only=True)
class LogRatio:
    """Logarithm of a ratio and its standard error; NaN where a proportion in it is 0."""

    value: float
    se: float

    def presented(self, prefix: str, names: Mapping[str, str], level: float) -> dict[str, object]:
        """Return ratio, se_log, low, high, z and p under their names in the report."""
        keys = {what: f"{prefix}_{name}" for what, name in names.items()}
        if not np.isfinite(self.value):
            return dict.fromkeys(keys.values(), Undefined("a proportion in the ratio is 0"))
        ratio = float(np.exp(self.value))
        if self.se == 0:
            agreement = Undefined("both tests agree on every case that counts")
            return dict.fromkeys(keys.values(), agreement) | {keys["ratio"]: ratio}
        low, high = log_interval(ratio, self.se, level)
        z = self.value / self.se
        numbers = {"ratio": ratio, "se_log": self.se, "low": low, "high": high, "z": z}
        numbers["p"] = 2 * stats.norm.sf(abs(z))
        return {keys[what]: number for what, number in numbers.items()}


LIKELIHOOD_NAMES = {
    **{"ratio": "ratio", "se_log": "se_log", "low": "lcl", "high": "ucl"},
    **{"z": "test_statistic", "p": "p_value"},
}


def predictive_names(name: str) -> dict[str, str]:
    """Return the names of a relative predictive value, as DTComPair has them."""
    return {
        **{"ratio": f"r{name}", "se_log": f"se_log_r{name}", "low": f"lcl_r{name}", "high": f"ucl_r{name}"},
        **{"z": "test_statistic", "p": "p_value"},
    }


def mcnemar(first: Flags, second: Flags) -> tuple[object, object]:
    """Return McNemar's chi-square without correction, and its p-value."""
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    if b + c == 0:
        undefined = Undefined("no case is discordant")
        return undefined, undefined
    chi2 = (b - c) ** 2 / (b + c)
    return chi2, stats.chi2.sf(chi2, 1)


def generalized_scores(calls: Pair, right: Flags) -> tuple[float, float]:
    """Return the generalised and the weighted generalised score statistic for equal predictive values.

    Parameters
    ----------
    calls
        Where each test makes the call whose predictive value is compared.
    right
        Where such a call is right: the truth for PPV, its negation for NPV.

    References
    ----------
    Leisenring W, Alonzo T, Pepe MS. Biometrics 2000;56:345-351. doi:10.1111/j.0006-341X.2000.00345.x.
    Kosinski AS. Stat Med 2013;32:964-977. doi:10.1002/sim.5587.
    """
    first, second = (call.astype(float) for call in calls)
    n1, n2 = first.sum(), second.sum()
    hit = right.astype(float)
    pooled = (first @ hit + second @ hit) / (n1 + n2)
    share = n2 / (n1 + n2)
    score = (hit - pooled) * (second * (1 - share) - first * share)
    plain = float(score.sum() ** 2 / (score**2).sum()) if (score**2).sum() > 0 else np.nan
    common = float((first * second * (hit - pooled) ** 2).sum() / (n1 + n2))
    variance = (pooled * (1 - pooled) - 2 * common) * (1 / n1 + 1 / n2)
    distance = first @ hit / n1 - second @ hit / n2
    weighted = float(distance**2 / variance) if variance > np.finfo(float).eps else np.nan
    return plain, weighted


def relative_predictive_value(calls: Pair, right: Flags) -> LogRatio:
    """Return the predictive value of the second test over that of the first.

    References
    ----------
    Moskowitz CS, Pepe MS. Clin Trials 2006;3:272-279. doi:10.1191/1740774506cn147oa.
    """
    rates = [right[call].mean() for call in calls]
    if min(rates) == 0:
        return LogRatio(value=np.nan, se=np.nan)
    first, second = (
        call * (right - rate) / (call & right).sum() for call, rate in zip(calls, rates, strict=True)
    )
    value = float(np.log(rates[1]) - np.log(rates[0]))
    return LogRatio(value=value, se=float(np.sqrt(((second - first) ** 2).sum())))


def relative_likelihood_ratio(calls: Pair, truth: Flags) -> LogRatio:
    """Return the likelihood ratio of the first test over that of the second.

    References
    ----------
    Gu W, Pepe MS. Estimating the capacity for improvement in risk prediction with a marker.
    Biostatistics 2009;10:172-186. doi:10.1093/biostatistics/kxn025.
    """
    value, squares = 0.0, 0.0
    for group, direction in ((truth, 1), (~truth, -1)):
        rates = [call[group].mean() for call in calls]
        if min(rates) == 0:
            return LogRatio(value=np.nan, se=np.nan)
        first, second = (call[group] / rate for call, rate in zip(calls, rates, strict=True))
        value += direction * float(np.log(rates[0]) - np.log(rates[1]))
        squares += float(((first - second) ** 2).sum()) / int(group.sum()) ** 2
    return LogRatio(value=value, se=float(np.sqrt(squares)))


@statistic("paired_binary_tests", values=("sens1", "sens2", "spec1", "spec2", "ppv1", "ppv2", "npv1", "npv2"))
def paired_binary_tests(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare ``test1`` and ``test2`` (0/1 columns) on the same cases with ``truth``.

    ``rppv`` and ``rnpv`` are second over first, ``pdlr`` and ``ndlr`` first over second, as in their papers.
    """
    cases = scored_cases(tables, inputs, ["test1", "test2"])
    truth = cases.positive
    require_both_classes(truth)
    level = confidence(inputs)
    positive = (called(cases.scores[:, 0], "test1"), called(cases.scores[:, 1], "test2"))
    negative = (~positive[0], ~positive[1])
    values: dict[str, object] = {}
    for k in range(2):
        values |= {f"sens{k + 1}": positive[k][truth].mean(), f"spec{k + 1}": negative[k][~truth].mean()}
    for name, group in (("sens", truth), ("spec", ~truth)):
        chi2, p = mcnemar(positive[0][group], positive[1][group])
        values |= {f"{name}_mcnemar": chi2, f"{name}_p": p}
    for name, calls, right in (("ppv", positive, truth), ("npv", negative, ~truth)):
        values |= _predictive(name, calls, right, level)
    for name, calls in (("pdlr", positive), ("ndlr", negative)):
        for k, call in enumerate(calls, start=1):
            healthy = call[~truth].mean()
            lack = Undefined("no negative case has such a call: the denominator is 0")
            values[f"{name}_test{k}"] = call[truth].mean() / healthy if healthy > 0 else lack
        values |= relative_likelihood_ratio(calls, truth).presented(name, LIKELIHOOD_NAMES, level)
    return values, cases.notes


def _predictive(name: str, calls: Pair, right: Flags, level: float) -> dict[str, object]:
    """Return both predictive values, their score tests and their ratio."""
    names = predictive_names(name)
    scores = [f"{name}_gs_stat", f"{name}_gs_p", f"{name}_wgs_stat", f"{name}_wgs_p"]
    if not (calls[0].any() and calls[1].any()):
        lack = Undefined(f"a test has no call that enters the {name.upper()}")
        ratios = [f"r{name}_{key}" for key in ("test1", "test2", *names.values())]
        return dict.fromkeys([f"{name}1", f"{name}2", *scores, *ratios], lack)
    rates = [right[call].mean() for call in calls]
    values: dict[str, object] = {f"{name}{k}": rate for k, rate in enumerate(rates, start=1)}
    values |= {f"r{name}_test{k}": rate for k, rate in enumerate(rates, start=1)}
    plain, weighted = generalized_scores(calls, right)
    chi_squares = (plain, stats.chi2.sf(plain, 1), weighted, stats.chi2.sf(weighted, 1))
    flat = Undefined("both tests are right on the same calls")
    values |= {key: c if np.isfinite(c) else flat for key, c in zip(scores, chi_squares, strict=True)}
    return values | relative_predictive_value(calls, right).presented(f"r{name}", names, level)
