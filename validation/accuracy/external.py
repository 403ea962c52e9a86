"""Summarise external cohorts: each on its own, a random-effects mean, and where a new cohort would fall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special, stats

from voxtrial.validation.accuracy.delong import area
from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.accuracy.scored_cases import scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    comparable,
    complete,
    confidence,
    parameter,
)

METHODS = ("REML", "DL")
SCALES = ("identity", "logit", "log")


def cochran_q(estimate: Floats, variance: Floats) -> float:
    """Return the heterogeneity statistic with inverse-variance weights."""
    weight = 1 / variance
    return float(weight @ (estimate - weight @ estimate / weight.sum()) ** 2)


def dersimonian_laird(estimate: Floats, variance: Floats) -> float:
    """Return the moment estimate of the variance between cohorts, not below 0.

    References
    ----------
    DerSimonian R, Laird N. Control Clin Trials 1986;7:177-188. doi:10.1016/0197-2456(86)90046-2.
    """
    weight = 1 / variance
    scale = weight.sum() - (weight**2).sum() / weight.sum()
    return max(0.0, (cochran_q(estimate, variance) - (estimate.size - 1)) / float(scale))


def restricted_maximum_likelihood(estimate: Floats, variance: Floats) -> float:
    """Return the REML estimate of the variance between cohorts.

    The restricted likelihood may have several maxima: the best point of a grid is refined.
    """

    def deviance(tau2: float) -> float:
        total = variance + tau2
        mean = (estimate / total).sum() / (1 / total).sum()
        return float(np.log(total).sum() + np.log((1 / total).sum()) + ((estimate - mean) ** 2 / total).sum())

    spread = float(estimate.var(ddof=1))
    grid = np.concatenate([[0.0], np.geomspace(1e-8, 10, 200) * max(spread, variance.min())])
    best = int(np.argmin([deviance(t) for t in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    found = optimize.minimize_scalar(deviance, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    return float(found.x) if deviance(found.x) < deviance(grid[best]) else float(grid[best])


def _on_scale(estimate: Floats, se: Floats, scale: str) -> tuple[Floats, Floats]:
    if scale == "identity":
        return estimate, se
    if scale == "log":
        if (estimate <= 0).any():
            raise Undefined("an estimate is 0 or less and has no logarithm")
        return np.log(estimate), se / estimate
    if ((estimate <= 0) | (estimate >= 1)).any():
        raise Undefined("an estimate is 0 or 1, or outside, and has no logit")
    return special.logit(estimate), se / (estimate * (1 - estimate))


def _back(values: Floats, scale: str) -> Floats:
    if scale == "identity":
        return values
    return np.asarray(special.expit(values) if scale == "logit" else np.exp(values))


@statistic(
    "random_effects_summary",
    values=("cohort", "estimate", "ci_low", "ci_high", "summary", "summary_ci_low", "summary_ci_high"),
)
def random_effects_summary(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Summarise cohorts given as ``cohort``, ``estimate``, ``se``; or as cases with ``truth`` and ``score``.

    Of cases each cohort's AUC with DeLong's variance is taken, on the logit scale. ``scale`` (identity,
    logit, log) is where the normal model holds; ``method`` REML or DL. The HKSJ interval (Hartung, Knapp,
    Sidik, Jonkman) has k - 1 degrees of freedom, the prediction interval k - 2.

    References
    ----------
    Higgins JPT, Thompson SG, Spiegelhalter DJ. J R Stat Soc A 2009;172:137-159.
    doi:10.1111/j.1467-985X.2008.00552.x.
    IntHout J, Ioannidis JPA, Borm GF. BMC Med Res Methodol 2014;14:25. doi:10.1186/1471-2288-14-25.
    """
    cohort = parameter(inputs, "cohort")
    method, level = str(inputs.get("method", "REML")), confidence(inputs)
    scale = str(inputs.get("scale", "logit" if "score" in inputs else "identity"))
    for given, known in ((method, METHODS), (scale, SCALES)):
        if given not in known:
            raise StatisticError(f"{given!r} is not known here; known are {', '.join(known)}.")
    labels, estimate, se, notes = _cohorts(tables, inputs, cohort)
    if not (np.isfinite(se) & (se > 0)).all():
        raise Undefined("a cohort has a standard error of 0 or none: it cannot be weighted")
    y, error = _on_scale(estimate, se, scale)
    z = normal_quantile(level)
    values: dict[str, object] = {
        "cohort": labels,
        "estimate": estimate,
        "ci_low": _back(y - z * error, scale),
        "ci_high": _back(y + z * error, scale),
        "k": y.size,
    }
    names = ("tau2_dl", "tau2_reml", "q", "q_df", "q_p", "i2", "summary", "summary_ci_low", "summary_ci_high")
    more = ("hksj_ci_low", "hksj_ci_high", "prediction_low", "prediction_high")
    if y.size < 2:
        return values | dict.fromkeys((*names, *more), Undefined("there is one cohort only")), notes
    variance = error**2
    tau2 = {"DL": dersimonian_laird(y, variance), "REML": restricted_maximum_likelihood(y, variance)}
    weight = 1 / (variance + tau2[method])
    mean = float(weight @ y / weight.sum())
    standard_error = float(1 / np.sqrt(weight.sum()))
    q = cochran_q(y, variance)
    df = y.size - 1
    hartung_knapp = float(np.sqrt(weight @ (y - mean) ** 2 / df / weight.sum()))
    half = stats.t.isf((1 - level) / 2, df) * hartung_knapp
    ends = _back(
        np.array([mean - z * standard_error, mean + z * standard_error, mean - half, mean + half]), scale
    )
    values |= {
        "tau2_dl": tau2["DL"],
        "tau2_reml": tau2["REML"],
        "q": q,
        "q_df": df,
        "q_p": stats.chi2.sf(q, df),
        "i2": max(0.0, 1 - df / q) if q > 0 else 0.0,
        "summary": _back(np.array(mean), scale),
        "summary_scale_estimate": mean,
        "summary_scale_se": standard_error,
        "summary_ci_low": ends[0],
        "summary_ci_high": ends[1],
        "hksj_ci_low": ends[2] if half > 0 else Undefined("the cohorts agree exactly"),
        "hksj_ci_high": ends[3] if half > 0 else Undefined("the cohorts agree exactly"),
    }
    if y.size < 3:
        lack = Undefined("a prediction interval needs three cohorts")
        values |= dict.fromkeys(("prediction_low", "prediction_high"), lack)
    else:
        reach = stats.t.isf((1 - level) / 2, y.size - 2) * np.sqrt(tau2[method] + standard_error**2)
        bounds = _back(np.array([mean - reach, mean + reach]), scale)
        values |= {"prediction_low": bounds[0], "prediction_high": bounds[1]}
    return values, [*notes, f"tau2 by {method}, {scale} scale, prediction interval with k - 2 df"]


def _cohorts(tables: Tables, inputs: Inputs, cohort: str) -> tuple[list[str], Floats, Floats, Sequence[str]]:
    """Return names, estimates, standard errors and notes of the cohorts."""
    if "score" not in inputs:
        columns = [parameter(inputs, "estimate"), parameter(inputs, "se")]
        rows = complete(tables, "wide", [cohort, *columns])
        if rows.frame.empty:
            raise Undefined("there is no cohort")
        if rows.frame[cohort].duplicated().any():
            raise StatisticError(f"The column {cohort!r} names a cohort twice; give one row each.")
        found = rows.matrix(columns)
        return [str(name) for name in rows.labels(cohort)], found[:, 0], found[:, 1], rows.notes
    cases = scored_cases(tables, inputs, ["score"], also=[cohort])
    names, index = np.unique(comparable(cases.frame[cohort].to_numpy()), return_inverse=True)
    rows_found = []
    for k, name in enumerate(names):
        positive, score = cases.positive[index == k], cases.scores[index == k, 0]
        if not positive.any() or positive.all():
            raise Undefined(f"the cohort {name} holds one class only")
        one = area(score[positive], score[~positive])
        rows_found.append((one.auc, np.sqrt(one.variance)))
    if not rows_found:
        raise Undefined("there is no cohort")
    estimates, errors = np.array(rows_found).T
    return [str(name) for name in names], estimates, errors, cases.notes
