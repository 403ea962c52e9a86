"""Fit logistic and hazard models under a ridge or lasso penalty, also with more features than patients.

One proximal gradient method serves both: it needs the gradient only, never a features x features matrix.
Objective: mean negative log-likelihood + penalty * (ratio * |b|_1 + (1 - ratio) / 2 * |b|_2^2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from voxtrial.validation.tables import Flags, Floats

STEPS = 2000
TOLERANCE = 1e-5

Loss = Callable[[Floats], tuple[float, Floats]]
"""Mean negative log-likelihood of a linear predictor and its gradient with respect to that predictor."""


def logistic_loss(outcome: Flags) -> Loss:
    """Return the loss of a logistic model; the intercept is fitted beside the penalised coefficients."""
    y = outcome.astype(float)

    def loss(predictor: Floats) -> tuple[float, Floats]:
        value = -np.mean(y * special.log_expit(predictor) + (1 - y) * special.log_expit(-predictor))
        return float(value), np.asarray((special.expit(predictor) - y) / y.size)

    return loss


def cox_loss(time: Floats, event: Flags) -> Loss:
    """Return the loss of a proportional hazards model, ties by Breslow."""
    order = np.argsort(time, kind="stable")
    t, e = time[order], event[order].astype(float)
    first, last = np.searchsorted(t, t, "left"), np.searchsorted(t, t, "right")

    def loss(predictor: Floats) -> tuple[float, Floats]:
        eta = predictor[order]
        risk = np.exp(eta - eta.max())
        at_risk = np.cumsum(risk[::-1])[::-1][first]
        value = -float((e * (eta - eta.max() - np.log(at_risk))).sum()) / t.size
        hazard = np.concatenate([[0.0], np.cumsum(e / at_risk)])[last]
        gradient = np.empty(t.size)
        gradient[order] = (risk * hazard - e) / t.size
        return value, gradient

    return loss


@dataclass(frozen=True, kw_only=True)
class PenalizedFit:
    """Coefficients of standardised features; the intercept is 0 where the model has none."""

    intercept: float
    coefficients: Floats

    def predictor(self, features: Floats) -> Floats:
        """Return the linear predictor of (n, p) standardised features."""
        return np.asarray(features @ self.coefficients + self.intercept)


def largest_penalty(features: Floats, loss: Loss, ratio: float, intercept: float) -> float:
    """Return the penalty at which a lasso has no feature left; for a ridge the scale of the same gradient."""
    _, gradient = loss(np.full(len(features), intercept))
    return float(np.abs(features.T @ gradient).max()) / max(ratio, 1e-2)


def fit_path(
    features: Floats, loss: Loss, penalties: Sequence[float], ratio: float, *, intercept: float | None
) -> list[PenalizedFit]:
    """Return a fit for each penalty, every one started from the one before.

    Parameters
    ----------
    features
        (n, p), standardised.
    loss
        Of the linear predictor.
    penalties
        Descending.
    ratio
        1 for the lasso, 0 for the ridge.
    intercept
        Starting value of an unpenalised intercept; None for a model without one.

    Notes
    -----
    Accelerated proximal gradient with backtracking and restart where the momentum points uphill.

    References
    ----------
    Beck A, Teboulle M. SIAM J Imaging Sci 2009;2:183-202. doi:10.1137/080716542.
    O'Donoghue B, Candès E. Found Comput Math 2015;15:715-732. doi:10.1007/s10208-013-9150-3.
    """
    design = features if intercept is None else np.column_stack([np.ones(len(features)), features])
    free = 0 if intercept is None else 1
    current = np.zeros(design.shape[1])
    if intercept is not None:
        current[0] = intercept
    step = 1.0
    fits = []
    for penalty in penalties:
        current, step = _minimise(design, loss, penalty, ratio, free, current, step)
        fits.append(
            PenalizedFit(intercept=float(current[0]) if free else 0.0, coefficients=current[free:].copy())
        )
    return fits


def _minimise(
    design: Floats, loss: Loss, penalty: float, ratio: float, free: int, start: Floats, step: float
) -> tuple[Floats, float]:
    """Return the minimiser and the last step length; the first ``free`` coefficients are not penalised."""
    shrink, decay = penalty * ratio, penalty * (1 - ratio)

    def smooth(b: Floats) -> tuple[float, Floats]:
        value, gradient = loss(design @ b)
        slope = design.T @ gradient
        slope[free:] += decay * b[free:]
        return value + decay / 2 * float(b[free:] @ b[free:]), slope

    current, ahead, momentum = start, start, 1.0
    for _ in range(STEPS):
        value, slope = smooth(ahead)
        shortened = False
        while True:
            proposed = ahead - step * slope
            proposed[free:] = np.sign(proposed[free:]) * np.maximum(
                np.abs(proposed[free:]) - step * shrink, 0.0
            )
            move = proposed - ahead
            bound = value + float(slope @ move) + float(move @ move) / (2 * step)
            if smooth(proposed)[0] <= bound + 1e-12 * abs(bound) or step < 1e-12:
                break
            step /= 2
            shortened = True
        change = proposed - current
        if float((ahead - proposed) @ change) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = proposed + (momentum - 1) / following * change
        current, momentum = proposed, following
        if np.abs(change).max() <= TOLERANCE * max(1.0, float(np.abs(current).max())):
            break
        if not shortened:
            step *= 1.02
    return current, step
