"""Split the variance of a measurement over crossed or unbalanced sources by restricted maximum likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg, optimize

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, Tables, complete, parameter


@dataclass(frozen=True, kw_only=True)
class MixedFit:
    """Restricted maximum likelihood fit of an intercept and random factors."""

    intercept: float
    intercept_se: float
    variances: Floats
    residual: float
    criterion: float


def fit_reml(y: Floats, factors: Sequence[NDArray[np.intp]]) -> MixedFit:
    """Fit y = intercept + one random effect for each factor + residual, crossed, nested or unbalanced.

    The restricted likelihood is profiled over the ratios of the factors' standard deviations to the residual
    one; each evaluation is one Cholesky decomposition of the size of all levels together.

    References
    ----------
    Bates D, Maechler M, Bolker B, Walker S. J Stat Softw 2015;67(1). doi:10.18637/jss.v067.i01, section 3.
    """
    z = np.column_stack([np.equal.outer(codes, np.arange(codes.max() + 1)) for codes in factors]).astype(
        float
    )
    owner = np.repeat(np.arange(len(factors)), [codes.max() + 1 for codes in factors])
    n, ones = y.size, z.sum(axis=0)
    ztz, zty = z.T @ z, z.T @ (y - y.mean())
    centred = y - y.mean()

    def profile(theta: Floats) -> tuple[float, float, float, float]:
        scale = theta[owner]
        lower = linalg.cholesky(scale[:, None] * ztz * scale + np.eye(owner.size), lower=True)
        u = linalg.solve_triangular(lower, scale * zty, lower=True)
        r = linalg.solve_triangular(lower, scale * ones, lower=True)
        information = n - r @ r
        shift = -(r @ u) / information
        rss = float(centred @ centred - u @ u - shift**2 * information)
        variance = rss / (n - 1)
        criterion = (
            2 * float(np.log(np.diag(lower)).sum())
            + float(np.log(information))
            + (n - 1) * (1 + float(np.log(2 * np.pi * variance)))
        )
        return criterion, variance, shift, float(information)

    def criterion_of(theta: Floats) -> float:
        return profile(theta)[0]

    # The criterion is even in each ratio, so that a search without bounds meets no wall at zero.
    rough = optimize.minimize(criterion_of, np.ones(len(factors)), method="BFGS")
    best = optimize.minimize(criterion_of, np.abs(rough.x), method="Nelder-Mead", tol=1e-9)
    theta: Floats = np.where(np.abs(best.x) < 1e-4, 0.0, np.abs(best.x))
    criterion, variance, shift, information = profile(theta)
    return MixedFit(
        intercept=float(y.mean() + shift),
        intercept_se=float(np.sqrt(variance / information)),
        variances=theta**2 * variance,
        residual=variance,
        criterion=criterion,
    )


def _cells(frame: pd.DataFrame, term: str) -> NDArray[Any]:
    """Return the level of each row of a factor, or of an interaction written "part:operator"."""
    return np.asarray(frame.groupby(term.split(":"), sort=True).ngroup().to_numpy())


@statistic("variance_components_reml", values=("intercept", "var_residual", "icc_agreement_single"))
def variance_components_reml(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return REML components of unbalanced or crossed factors.

    Inputs: ``response`` and ``random``, a list of columns of ``long`` or interactions ("part:operator").
    The first factor is the measured object: ``icc_agreement_single`` is its share of the total variance.
    A component on the boundary is 0, with a note.
    """
    response = str(parameter(inputs, "response"))
    random = [str(term) for term in parameter(inputs, "random")]
    needed = list(dict.fromkeys(column for term in random for column in term.split(":")))
    rows = complete(tables, "long", [response, *needed])
    y = rows.numbers(response)
    factors = [_cells(rows.frame, term) for term in random]
    for term, codes in zip(random, factors, strict=True):
        levels = int(codes.max(initial=-1)) + 1
        if levels < 2:
            raise Undefined(f"{term} has {levels} levels: its variance cannot be estimated")
        if levels == y.size:
            raise Undefined(f"{term} has one row at each level: it cannot be told from the residual")
    if np.ptp(y) == 0:
        raise Undefined("no variance: all responses are equal")
    fit = fit_reml(y, factors)
    total = float(fit.variances.sum()) + fit.residual
    names = ["var_" + term.replace(":", "_") for term in random]
    notes = [f"{name} is 0: on the boundary" for name, v in zip(names, fit.variances, strict=True) if v == 0]
    return {
        "n": y.size,
        "intercept": fit.intercept,
        "intercept_se": fit.intercept_se,
        **dict(zip(names, fit.variances.tolist(), strict=True)),
        "var_residual": fit.residual,
        "icc_agreement_single": fit.variances[0] / total,
        "reml_criterion": fit.criterion,
    }, [*rows.notes, *notes]
