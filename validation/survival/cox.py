"""Fit proportional hazards, with a baseline hazard for each stratum, and test the proportionality.

Tied event times by Efron or Breslow. Every event becomes one term of the partial likelihood, so that
gradient, information and the test of proportionality are sums over the same few arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.survival.c_index import Concordance, concordance
from voxtrial.validation.survival.partial_likelihood import PartialLikelihood, Terms
from voxtrial.validation.survival.product_limit import (
    CensoredTimes,
    censored_times,
    kaplan_meier_estimator,
    strata_of,
)
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    column_names,
    confidence,
    parameter,
)

STEPS = 40
TOLERANCE = 1e-12
INFINITE = 25.0
"""A log hazard ratio per standard deviation beyond this is a likelihood without a maximum."""


@dataclass(frozen=True, kw_only=True)
class CoxFit:
    """Maximum partial likelihood fit, on the scale of the covariates as given.

    Parameters
    ----------
    coefficients, covariance
        (p,), (p, p) log hazard ratios.
    log_likelihood_null, log_likelihood
        At zero and at the estimates.
    score_chi2
        Rao's test of no effect.
    proportionality
        (p + 1,) chi-square of each covariate against 1 - Kaplan-Meier just before, the global test last.
    linear_predictor
        (n,) covariates times coefficients.
    """

    coefficients: Floats
    covariance: Floats
    log_likelihood_null: float
    log_likelihood: float
    score_chi2: float
    proportionality: Floats
    linear_predictor: Floats

    @property
    def standard_errors(self) -> Floats:
        """Square roots of the diagonal of the covariance."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def wald_chi2(self) -> float:
        """Wald's test of no effect."""
        return float(self.coefficients @ np.linalg.solve(self.covariance, self.coefficients))


def fit_cox(
    time: Floats,
    event: NDArray[np.bool_],
    covariates: Floats,
    strata: NDArray[np.intp] | None = None,
    *,
    efron: bool = True,
) -> CoxFit:
    """Return the fit by Newton's method on standardised covariates, steps halved where they overshoot.

    Raises
    ------
    Undefined
        No event, a covariate without spread or collinear, or a likelihood without a maximum.
    """
    if not event.any():
        raise Undefined("there is no event")
    strata = np.zeros(time.size, dtype=np.intp) if strata is None else strata
    centre, scale = covariates.mean(axis=0), covariates.std(axis=0)
    if (scale <= 1e-12 * (1 + np.abs(centre))).any():
        raise Undefined("a covariate is the same for every patient")
    likelihood = PartialLikelihood(time, event, (covariates - centre) / scale, strata, efron=efron)
    beta = np.zeros(covariates.shape[1])
    terms = null = likelihood.at(beta)
    score_chi2 = np.nan
    for step_number in range(STEPS):
        information = terms.information.sum(axis=0)
        if np.linalg.matrix_rank(information, hermitian=True) < beta.size:
            raise Undefined("the covariates are collinear among the patients at risk")
        gradient = terms.residuals.sum(axis=0)
        step = np.linalg.solve(information, gradient)
        if step_number == 0:
            score_chi2 = float(gradient @ step)
        for _ in range(STEPS):
            proposed = likelihood.at(beta + step)
            if proposed.log_likelihood >= terms.log_likelihood - TOLERANCE * abs(terms.log_likelihood):
                break
            step = step / 2
        gain = proposed.log_likelihood - terms.log_likelihood
        beta, terms = beta + step, proposed
        if np.abs(beta).max() > INFINITE:
            break
        if abs(gain) <= TOLERANCE * abs(terms.log_likelihood) and np.abs(step).max() < 1e-8:
            break
    else:
        raise Undefined("the likelihood has no maximum: a covariate orders the events")
    if np.abs(beta).max() > INFINITE:
        raise Undefined("the likelihood has no maximum: a covariate orders the events")
    covariance = np.linalg.inv(terms.information.sum(axis=0)) / np.outer(scale, scale)
    return CoxFit(
        coefficients=beta / scale,
        covariance=covariance,
        log_likelihood_null=null.log_likelihood,
        log_likelihood=terms.log_likelihood,
        score_chi2=score_chi2,
        proportionality=proportionality_tests(time, event, likelihood.event_times, terms),
        linear_predictor=covariates @ (beta / scale),
    )


def proportionality_tests(
    time: Floats, event: NDArray[np.bool_], event_times: Floats, terms: Terms
) -> Floats:
    """Return the score test of each covariate times a function of time, and the global one last.

    References
    ----------
    Grambsch PM, Therneau TM. Biometrika 1994;81:515-526. doi:10.1093/biomet/81.3.515; as exact score test.
    """
    curve = kaplan_meier_estimator(time, event)
    before = np.concatenate([[1.0], curve.survival])[np.searchsorted(curve.times, event_times, "left")]
    g = 1 - before
    g = g - g.mean()
    first = terms.information.sum(axis=0)
    mixed = np.einsum("i,ijk->jk", g, terms.information)
    second = np.einsum("i,ijk->jk", g**2, terms.information)
    score = g @ terms.residuals
    spread = second - mixed @ np.linalg.solve(first, mixed)
    single = np.array(
        [u**2 / v if v > 1e-12 else np.nan for u, v in zip(score, np.diag(spread), strict=True)]
    )
    together = np.nan
    if np.linalg.matrix_rank(spread, hermitian=True) == score.size:
        together = float(score @ np.linalg.solve(spread, score))
    return np.append(single, together)


def _summary(data: CensoredTimes, fit: CoxFit, found: Concordance, level: float) -> dict[str, object]:
    p = fit.coefficients.size
    z = normal_quantile(level)
    se = fit.standard_errors
    chi2 = 2 * (fit.log_likelihood - fit.log_likelihood_null)
    flat = Undefined("events at one time only: proportionality cannot be tested")
    zph = [flat if np.isnan(value) else value for value in fit.proportionality]
    degrees = [*[1] * p, p]
    return {
        "n": data.time.size,
        "events": int(data.event.sum()),
        "coef": fit.coefficients,
        "se": se,
        "hr": np.exp(fit.coefficients),
        "hr_ci_low": np.exp(fit.coefficients - z * se),
        "hr_ci_high": np.exp(fit.coefficients + z * se),
        "p": 2 * stats.norm.sf(np.abs(fit.coefficients / se)),
        "loglik_null": fit.log_likelihood_null,
        "loglik": fit.log_likelihood,
        "lr_chi2": chi2,
        "lr_p": stats.chi2.sf(chi2, p),
        "wald_chi2": fit.wald_chi2,
        "score_chi2": fit.score_chi2,
        "concordance": found.estimate,
        "concordance_se": found.standard_error,
        "zph_chi2": zph,
        "zph_p": [
            flat if np.isnan(value) else stats.chi2.sf(value, df)
            for value, df in zip(fit.proportionality, degrees, strict=True)
        ],
    }


COX_VALUES = ("n", "events", "coef", "se", "hr", "hr_ci_low", "hr_ci_high", "p", "loglik", "concordance")


def _run(tables: Tables, inputs: Inputs, strata: Sequence[str]) -> tuple[Values, Sequence[str]]:
    covariates = column_names(parameter(inputs, "covariates"))
    ties = str(inputs.get("ties", "efron"))
    if ties not in ("efron", "breslow"):
        raise StatisticError(f"Ties are treated by 'efron' or 'breslow', not {ties!r}.")
    data = censored_times(tables, inputs, also=[*covariates, *strata])
    labels = strata_of(data, strata) if strata else np.zeros(data.time.size, dtype=np.intp)
    fit = fit_cox(data.time, data.event, data.matrix(covariates), labels, efron=ties == "efron")
    found = concordance(data.time, data.event, fit.linear_predictor, labels)
    return _summary(data, fit, found, confidence(inputs)), [*data.notes, f"ties by {ties.capitalize()}"]


@statistic("cox", values=COX_VALUES)
def cox(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Regress the hazard on ``covariates``; ``ties`` efron or breslow."""
    return _run(tables, inputs, ())


@statistic("cox_stratified", values=COX_VALUES)
def cox_stratified(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Regress the hazard on ``covariates`` with a baseline hazard for each level of ``strata``.

    Pairs of the concordance are compared within strata.
    """
    return _run(tables, inputs, column_names(parameter(inputs, "strata")))
