"""Weigh the benefit of acting on a prediction against its harm, over the thresholds patients might choose.

Net benefit is TP/n - FP/n * pt/(1 - pt); a patient is treated when the predicted probability is at or above
the threshold pt. A 0/1 test counts as a probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.accuracy.scored_cases import require_both_classes, scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.survival.product_limit import censored_times, kaplan_meier_estimator
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    column_names,
    confidence,
    parameter,
    vector,
)


def net_benefit(
    positive: Flags, treated: Flags, odds: float, prevalence: float | None
) -> tuple[float, float]:
    """Return the net benefit of a decision and its standard error.

    Parameters
    ----------
    positive, treated
        (n,) truth and decision.
    odds
        pt / (1 - pt).
    prevalence
        That of the intended use, for case-control data; None takes the data as they are.

    References
    ----------
    Vickers AJ, Elkin EB. Med Decis Making 2006;26:565-574. doi:10.1177/0272989X06295361.
    """
    if prevalence is None:
        gain = np.where(treated, np.where(positive, 1.0, -odds), 0.0)
        spread = gain.std(ddof=1) / np.sqrt(gain.size) if gain.size > 1 else np.nan
        return float(gain.mean()), float(spread)
    sensitivity, false_rate = treated[positive].mean(), treated[~positive].mean()
    variance = prevalence**2 * sensitivity * (1 - sensitivity) / positive.sum()
    variance += ((1 - prevalence) * odds) ** 2 * false_rate * (1 - false_rate) / (~positive).sum()
    benefit = sensitivity * prevalence - false_rate * (1 - prevalence) * odds
    return float(benefit), float(np.sqrt(variance))


def _thresholds(inputs: Inputs) -> Floats:
    thresholds = vector(parameter(inputs, "thresholds"), "thresholds")
    if thresholds.size == 0 or (thresholds < 0).any() or (thresholds >= 1).any():
        raise StatisticError(
            "Thresholds are probabilities from 0 up to, not including, 1; give at least one."
        )
    return thresholds


@statistic("decision_curve", values=("threshold", "net_benefit_all", "net_benefit_none"))
def decision_curve(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare ``predictors`` with treating all and treating none at ``thresholds``.

    ``prevalence`` re-weights case-control data, or an enriched set, to the intended use. Intervals are normal
    approximations; where every patient gives the same there is none. ``net_reduction_per_100`` counts the
    interventions avoided against treating all.
    """
    predictors = column_names(parameter(inputs, "predictors"))
    thresholds = _thresholds(inputs)
    cases = scored_cases(tables, inputs, predictors)
    positive = cases.positive
    if positive.size == 0:
        raise Undefined("there is no patient")
    prevalence = inputs.get("prevalence")
    if prevalence is not None:
        prevalence = float(prevalence)
        if not 0 < prevalence < 1:
            raise StatisticError(f"The prevalence is {prevalence}; it must lie between 0 and 1.")
        require_both_classes(positive)
    if ((cases.scores < 0) | (cases.scores > 1)).any():
        raise StatisticError("A predictor lies outside [0, 1]; turn scores into probabilities first.")
    z = normal_quantile(confidence(inputs))
    rate = positive.mean() if prevalence is None else prevalence
    odds = thresholds / (1 - thresholds)
    everyone = rate - (1 - rate) * odds
    values: dict[str, object] = {
        "threshold": thresholds,
        "net_benefit_all": everyone,
        "net_benefit_none": np.zeros(thresholds.size),
    }
    for name, score in zip(predictors, cases.scores.T, strict=True):
        rows = [
            net_benefit(positive, score >= t, o, prevalence) for t, o in zip(thresholds, odds, strict=True)
        ]
        benefit, spread = np.array(rows).T
        lack = Undefined("the decision is the same for everybody, or there is one patient: no spread")
        values[f"net_benefit_{name}"] = benefit
        for end, sign in (("low", -1), ("high", 1)):
            values[f"net_benefit_{name}_ci_{end}"] = [
                b + sign * z * s if s > 1e-12 else lack for b, s in zip(benefit, spread, strict=True)
            ]
        values[f"net_reduction_per_100_{name}"] = [
            100 * (b - a) / o if o > 0 else Undefined("at a threshold of 0 nobody is spared")
            for b, a, o in zip(benefit, everyone, odds, strict=True)
        ]
    return values, cases.notes


@statistic("decision_curve_survival", values=("threshold", "net_benefit_all", "net_benefit_none"))
def decision_curve_survival(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare ``predictors`` (risks at ``horizon``) for censored times at ``thresholds``.

    True and false positives come from the Kaplan-Meier risk at the horizon among the patients treated; where
    their follow-up ends before the horizon that risk, and the net benefit, is not defined. The interval joins
    Greenwood's variance of the risk and the binomial one of the share treated.

    References
    ----------
    Vickers AJ et al. BMC Med Inform Decis Mak 2008;8:53. doi:10.1186/1472-6947-8-53.
    """
    predictors = column_names(parameter(inputs, "predictors"))
    thresholds, horizon = _thresholds(inputs), float(parameter(inputs, "horizon"))
    data = censored_times(tables, inputs, also=predictors)
    scores = data.matrix(predictors)
    if ((scores < 0) | (scores > 1)).any():
        raise StatisticError("A predictor lies outside [0, 1]; give the risk at the horizon.")

    def risk(chosen: Flags) -> tuple[float, float]:
        """Return the risk at the horizon and Greenwood's variance."""
        if not chosen.any():
            return 0.0, 0.0
        curve = kaplan_meier_estimator(data.time[chosen], data.event[chosen])
        at = np.array([horizon])
        survival = float(curve.step(curve.survival, 1.0, at)[0])
        if survival == 0:
            return 1.0, 0.0
        known = curve.longest >= horizon
        greenwood = float(curve.step(curve.hazard_variance, 0.0, at)[0])
        return 1 - survival if known else np.nan, survival**2 * greenwood

    z = normal_quantile(confidence(inputs))
    odds = thresholds / (1 - thresholds)
    overall, _ = risk(np.ones(data.time.size, dtype=bool))
    if np.isnan(overall):
        raise Undefined(f"the follow-up ends before the horizon of {horizon:g}")
    values: dict[str, object] = {
        "threshold": thresholds,
        "net_benefit_all": overall - (1 - overall) * odds,
        "net_benefit_none": np.zeros(thresholds.size),
    }
    for name, score in zip(predictors, scores.T, strict=True):
        rows: list[tuple[object, object, object]] = []
        for t, o in zip(thresholds, odds, strict=True):
            treated = score >= t
            (own, variance), share = risk(treated), float(treated.mean())
            if np.isnan(own):
                lost = Undefined(f"of those at or above {t:g} none is followed to the horizon")
                rows.append((lost, lost, lost))
                continue
            gain = own * (1 + o) - o
            se = np.sqrt((share * (1 + o)) ** 2 * variance + gain**2 * share * (1 - share) / score.size)
            flat = Undefined("nobody, or everybody alike, is treated: no spread")
            ends = [share * gain + sign * z * se if se > 1e-12 else flat for sign in (-1, 1)]
            rows.append((share * gain, ends[0], ends[1]))
        for suffix, column in zip(("", "_ci_low", "_ci_high"), zip(*rows, strict=True), strict=True):
            values[f"net_benefit_{name}{suffix}"] = list(column)
    return values, data.notes
