"""Check whether predicted probabilities mean what they say.

Intercept and slope come first, binned measures beside them with their binning named; Hosmer-Lemeshow is given
for comparison with older reports only, since its value hangs on the grouping.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from voxtrial.validation.accuracy.delong import area
from voxtrial.validation.accuracy.logistic import LogisticFit, fit_logistic, log_likelihood
from voxtrial.validation.accuracy.proportions import normal_quantile, wilson
from voxtrial.validation.accuracy.scored_cases import scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, confidence

EQUAL_WIDTH_BINS = 10
SMOOTHER_SPAN = 0.75


def hosmer_lemeshow(outcome: Floats, probability: Floats, groups: int) -> tuple[float, int]:
    """Return the chi-square over quantile groups and the number of groups that it was summed over.

    Groups are cut at the type 7 quantiles; equal cuts are merged, the lowest value is in the first group.

    References
    ----------
    Hosmer DW, Lemeshow S. Commun Stat Theory Methods 1980;9:1043-1069. doi:10.1080/03610928008827941.
    """
    cuts = np.unique(np.quantile(probability, np.linspace(0, 1, groups + 1)))
    found = max(cuts.size - 1, 1)
    index = np.clip(np.searchsorted(cuts, probability, "left") - 1, 0, found - 1)
    observed = np.bincount(index, weights=outcome, minlength=found)
    expected = np.bincount(index, weights=probability, minlength=found)
    size = np.bincount(index, minlength=found)
    absent = (size - observed - (size - expected)) ** 2 / (size - expected)
    return float(np.sum((observed - expected) ** 2 / expected + absent)), found


def equal_width_errors(outcome: Floats, probability: Floats, bins: int) -> tuple[float, float]:
    """Return the mean gap weighted by size (ECE) and the largest (MCE); bins [0, 1/k), ..., [1 - 1/k, 1]."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    size = np.bincount(index, minlength=bins)
    gap = np.bincount(index, weights=outcome - probability, minlength=bins)
    filled = size > 0
    return float(np.abs(gap).sum() / outcome.size), float((np.abs(gap[filled]) / size[filled]).max())


def smoothed_errors(outcome: Floats, probability: Floats) -> dict[str, object]:
    """Return the integrated calibration index and quantiles of the gap to a smoothed curve.

    The curve is a local straight line over the nearest three quarters of the cases, without reweighting.

    References
    ----------
    Austin PC, Steyerberg EW. Stat Med 2019;38:4051-4065. doi:10.1002/sim.8281.
    """
    from statsmodels.nonparametric.smoothers_lowess import lowess

    span = float(np.ptp(probability))
    if span == 0:
        return dict.fromkeys(("ici", "e50", "e90"), Undefined("all predictions are equal: no curve"))
    curve = lowess(
        outcome,
        probability,
        frac=SMOOTHER_SPAN,
        it=0,
        delta=0.001 * span,
        return_sorted=False,
        is_sorted=False,
    )
    gap = np.abs(np.clip(curve, 0, 1) - probability)
    return {"ici": gap.mean(), "e50": np.quantile(gap, 0.5), "e90": np.quantile(gap, 0.9)}


def reliability(outcome: Floats, probability: Floats, bins: int, level: float) -> dict[str, object]:
    """Return the points of a calibration plot in bins of equal width, with Wilson intervals."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    filled = np.unique(index)
    rows = []
    for k in filled:
        inside = index == k
        x, n = float(outcome[inside].sum()), int(inside.sum())
        rows.append((n, probability[inside].mean(), x / n, *wilson(x, n, level)))
    names = ("n", "predicted", "observed", "observed_ci_low", "observed_ci_high")
    return {f"bin_{name}": list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _recalibration(design: Floats, outcome: Floats, offset: Floats | None) -> LogisticFit | Undefined:
    try:
        return fit_logistic(design, outcome, offset)
    except Undefined as undefined:
        return undefined


@statistic(
    "calibration",
    values=(
        "n",
        "events",
        "c_statistic",
        "brier",
        "brier_scaled",
        "calibration_in_the_large",
        "citl_se",
        "calibration_intercept_joint",
        "calibration_slope",
        "slope_se",
        "oe_ratio",
        "oe_ci_low",
        "oe_ci_high",
        "spiegelhalter_z",
        "hosmer_lemeshow_chi2",
        "hosmer_lemeshow_df",
        "hosmer_lemeshow_p",
        "ece_10_equal_width",
        "mce_10_equal_width",
        "log_loss",
        "nagelkerke_r2",
    ),
)
def calibration(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare ``probability`` with ``truth``; ``groups`` of Hosmer-Lemeshow, by default 10.

    The intercept and slope regress the truth on the logit of the prediction; calibration in the large is the
    intercept with the slope held at 1. With one class only, what needs both is not defined; the Brier score,
    O/E and the binned errors remain.

    References
    ----------
    Van Calster B et al. BMC Med 2019;17:230. doi:10.1186/s12916-019-1466-7.
    Spiegelhalter DJ. Stat Med 1986;5:421-433. doi:10.1002/sim.4780050506.
    """
    cases = scored_cases(tables, inputs, ["probability"])
    outcome, p = cases.positive.astype(float), cases.scores[:, 0]
    n, events = p.size, int(outcome.sum())
    if n == 0:
        raise Undefined("there is no case")
    if ((p < 0) | (p > 1)).any():
        raise StatisticError("A probability lies outside [0, 1]; is the score a probability?")
    level, groups = confidence(inputs), int(inputs.get("groups", 10))
    if groups < 3:
        raise StatisticError(f"Hosmer-Lemeshow needs at least 3 groups; given are {groups}.")
    z = normal_quantile(level)
    notes = [
        *cases.notes,
        f"ECE, MCE over {EQUAL_WIDTH_BINS} bins of equal width; ICI from a local line, span {SMOOTHER_SPAN}",
    ]
    brier = float(np.mean((p - outcome) ** 2))
    rate = events / n
    ece, mce = equal_width_errors(outcome, p, EQUAL_WIDTH_BINS)
    values: dict[str, object] = {
        "n": n,
        "events": events,
        "brier": brier,
        "ece_10_equal_width": ece,
        "mce_10_equal_width": mce,
        **smoothed_errors(outcome, p),
        **reliability(outcome, p, EQUAL_WIDTH_BINS, level),
    }
    expected = float(p.sum())
    oe = ("oe_ci_low", "oe_ci_high")
    if expected == 0:
        values |= dict.fromkeys(("oe_ratio", *oe), Undefined("no event is expected"))
    else:
        values["oe_ratio"] = events / expected
        if events in (0, n):
            values |= dict.fromkeys(
                oe, Undefined("no event, or nothing but events: log(O/E) has no interval")
            )
        else:
            half = z * np.sqrt((1 - rate) / events)
            values |= {oe[0]: events / expected * np.exp(-half), oe[1]: events / expected * np.exp(half)}
    doubt = float(np.sum((1 - 2 * p) ** 2 * p * (1 - p)))
    values["spiegelhalter_z"] = (
        float(np.sum((outcome - p) * (1 - 2 * p)) / np.sqrt(doubt))
        if doubt > 0
        else Undefined("every prediction is 0, 1/2 or 1: the statistic has no variance")
    )
    chi2, kept = hosmer_lemeshow(outcome, p, groups)
    df = groups - 2
    lack = Undefined("a group expects no event, or nothing but events")
    if kept < 3:
        chi2, lack = np.nan, Undefined(f"tied predictions leave {kept} group(s)")
    elif kept < groups:
        notes.append(f"Hosmer-Lemeshow: tied predictions leave {kept} of {groups} groups; df stays {df}")
    values |= {
        "hosmer_lemeshow_chi2": chi2 if np.isfinite(chi2) else lack,
        "hosmer_lemeshow_df": df,
        "hosmer_lemeshow_p": stats.chi2.sf(chi2, df) if np.isfinite(chi2) else lack,
    }
    certain = (p == 0) | (p == 1)
    regression = (
        "calibration_in_the_large",
        "citl_se",
        "calibration_intercept_joint",
        "calibration_slope",
        "slope_se",
        "nagelkerke_r2",
    )
    if (certain & (outcome != p)).any():
        values["log_loss"] = Undefined("a prediction of 0 or 1 is wrong: the log-likelihood is infinite")
    else:
        values["log_loss"] = float(np.mean(-special.xlogy(outcome, p) - special.xlogy(1 - outcome, 1 - p)))
    if events in (0, n):
        reason = Undefined("there is one class only")
        return values | dict.fromkeys((*regression, "c_statistic", "brier_scaled"), reason), notes
    values["c_statistic"] = area(p[cases.positive], p[~cases.positive]).auc
    values["brier_scaled"] = 1 - brier / (rate * (1 - rate))
    if certain.any():
        reason = Undefined("a prediction is 0 or 1, which has no logit")
        return values | dict.fromkeys(regression, reason), notes
    logit = special.logit(p)
    values |= recalibration_values(outcome, logit, z)
    return values, notes


def recalibration_values(outcome: Floats, logit: Floats, z: float) -> dict[str, object]:
    """Return intercepts and slope of the logistic recalibration with intervals, and Nagelkerke's R2."""
    n = outcome.size
    ones = np.ones((n, 1))
    large = _recalibration(ones, outcome, logit)
    joint = _recalibration(np.column_stack([ones, logit]), outcome, None)
    values: dict[str, object] = {}
    if isinstance(large, Undefined):
        values |= dict.fromkeys(("calibration_in_the_large", "citl_se"), large)
    else:
        centre, se = float(large.coefficients[0]), float(large.standard_errors[0])
        values |= {"calibration_in_the_large": centre, "citl_se": se}
        values |= {"citl_ci_low": centre - z * se, "citl_ci_high": centre + z * se}
    if isinstance(joint, Undefined):
        names = ("calibration_intercept_joint", "calibration_slope", "slope_se", "nagelkerke_r2")
        return values | dict.fromkeys(names, joint)
    null = log_likelihood(outcome, np.full(n, special.logit(outcome.mean())))
    explained = -np.expm1(-2 / n * (joint.log_likelihood - null))
    slope, se = float(joint.coefficients[1]), float(joint.standard_errors[1])
    return values | {
        "calibration_intercept_joint": joint.coefficients[0],
        "calibration_slope": slope,
        "slope_se": se,
        "slope_ci_low": slope - z * se,
        "slope_ci_high": slope + z * se,
        "nagelkerke_r2": explained / -np.expm1(2 / n * null),
    }
