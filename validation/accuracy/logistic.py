"""Fit a logistic regression by Newton's method, with an offset where the slope is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from voxtrial.validation.registry import Undefined
from voxtrial.validation.tables import Floats

STEPS = 50
TOLERANCE = 1e-12
SEPARATED = 30.0
"""A linear predictor beyond this (odds of 1e13) for every case means that the likelihood has no maximum."""


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """Maximum likelihood estimates.

    Parameters
    ----------
    coefficients
        (k,) in the order of the columns.
    covariance
        (k, k) inverse of the information.
    log_likelihood
        At the estimates.
    """

    coefficients: Floats
    covariance: Floats
    log_likelihood: float

    @property
    def standard_errors(self) -> Floats:
        """Square roots of the diagonal of the covariance."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


def log_likelihood(outcome: Floats, predictor: Floats) -> float:
    """Return the Bernoulli log-likelihood of a linear predictor."""
    return float(
        np.sum(outcome * special.log_expit(predictor) + (1 - outcome) * special.log_expit(-predictor))
    )


def fit_logistic(design: Floats, outcome: Floats, offset: Floats | None = None) -> LogisticFit:
    """Return the maximum likelihood fit.

    Parameters
    ----------
    design
        (n, k) columns, an intercept as a column of ones.
    outcome
        (n,) 0 or 1.
    offset
        (n,) added to the linear predictor with coefficient 1.

    Raises
    ------
    Undefined
        When the columns separate the outcomes or are linearly dependent.
    """
    shift = np.zeros(outcome.size) if offset is None else offset
    beta = np.zeros(design.shape[1])
    current = log_likelihood(outcome, shift)
    for _ in range(STEPS):
        fitted = special.expit(design @ beta + shift)
        weight = fitted * (1 - fitted)
        information = design.T @ (design * weight[:, None])
        gradient = design.T @ (outcome - fitted)
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError as error:
            raise Undefined("the predictors are linearly dependent or separate the outcomes") from error
        for _ in range(STEPS):
            proposed = log_likelihood(outcome, design @ (beta + step) + shift)
            if proposed >= current - TOLERANCE * abs(current):
                break
            step /= 2
        beta = beta + step
        gain, current = proposed - current, proposed
        if abs(gain) <= TOLERANCE * abs(current) and np.abs(step).max() <= 1e-9 * (1 + np.abs(beta).max()):
            break
    else:
        raise Undefined("the predictors separate the outcomes: the likelihood has no maximum")
    predictor = design @ beta + shift
    if np.abs(predictor).min() > SEPARATED:
        raise Undefined("the predictors separate the outcomes: the likelihood has no maximum")
    fitted = special.expit(predictor)
    information = design.T @ (design * (fitted * (1 - fitted))[:, None])
    return LogisticFit(
        coefficients=beta,
        covariance=np.asarray(np.linalg.inv(information)),
        log_likelihood=log_likelihood(outcome, predictor),
    )
