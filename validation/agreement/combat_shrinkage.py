"""Empirical Bayes for ComBat: draw what a batch says about one feature towards what it says about all.

References
----------
Johnson, Li, Rabinovic (2007), doi:10.1093/biostatistics/kxj037, section 3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.tables import Floats

Shrinkage = Literal["parametric", "nonparametric", "none"]
SHRINKAGES: tuple[Shrinkage, ...] = ("parametric", "nonparametric", "none")

_CONVERGED = 1e-4
"""Largest relative change of an estimate in the last round, as in the R package sva 3.46."""


def shrunk(
    gamma_hat: Floats,
    squares: Floats,
    counts: NDArray[np.intp],
    varies: NDArray[np.bool_],
    shrinkage: Shrinkage,
    mean_only: bool,
    reference: int | None,
) -> tuple[Floats, Floats]:
    """Return shift (0 for the ``reference``) and variance (1) of every batch (b, f) under the chosen prior.

    ``squares`` are sums of squares about the batch mean; patients are counted as in sva: a batch counts as
    one patient where only the mean is corrected.
    """
    gamma, delta = gamma_hat.copy(), np.ones_like(gamma_hat)
    gamma[:, ~varies] = 0.0
    for i, n in enumerate(counts):
        if i == reference:
            gamma[i] = 0.0
            continue
        g, s = gamma_hat[i, varies], squares[i, varies]
        if not mean_only:
            delta[i, varies] = s / (n - 1)
        if shrinkage == "none":
            continue
        if shrinkage == "nonparametric":
            gamma[i, varies], delta[i, varies] = _nonparametric(g, delta[i, varies], s, int(n))
            continue
        mean, variance = g.mean(), g.var(ddof=1)
        if mean_only:
            gamma[i, varies] = (variance * g + mean) / (variance + 1)
        else:
            gamma[i, varies], delta[i, varies] = _parametric(g, mean, variance, s, int(n))
    return gamma, delta


def _parametric(g: Floats, mean: float, variance: float, squares: Floats, n: int) -> tuple[Floats, Floats]:
    """Posterior shift and variance under a normal and an inverse gamma prior, iterated to convergence."""
    d = squares / (n - 1)
    m, v = d.mean(), d.var(ddof=1)
    g_old, d_old = g, d
    if v == 0:  # all features vary alike: nothing to draw towards
        return (n * variance * g + d * mean) / (n * variance + d), d
    a, b = (2 * v + m**2) / v, (m * v + m**3) / v
    while True:
        g_new = (n * variance * g + d_old * mean) / (n * variance + d_old)
        d_new = ((squares + n * (g - g_new) ** 2) / 2 + b) / (n / 2 + a - 1)
        # Divided by the signed shift, as sva and neuroCombat do: another rule stops a round later and differs
        # from their published values in the sixth digit.
        change = max(np.max(np.abs(g_new - g_old) / g_old), np.max(np.abs(d_new / d_old - 1)))
        g_old, d_old = g_new, d_new
        if change < _CONVERGED:
            return g_new, d_new


def _nonparametric(g: Floats, d: Floats, squares: Floats, n: int) -> tuple[Floats, Floats]:
    """Posterior means when the other features' estimates are the prior, weighted by their likelihood."""
    g_new, d_new = np.empty_like(g), np.empty_like(d)
    for k in range(len(g)):
        others = np.arange(len(g)) != k
        log = -0.5 * (n * np.log(d[others]) + (squares[k] + n * (g[k] - g[others]) ** 2) / d[others])
        weight = np.exp(log - log.max())
        weight /= weight.sum()
        g_new[k], d_new[k] = weight @ g[others], weight @ d[others]
    return g_new, d_new
