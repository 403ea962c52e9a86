"""Divide a linear model's output among its features exactly, with and without their correlation.

Interventional Shapley values treat features as if they could be changed one by one; conditional ones ask what
knowing a feature says about the others, and may credit a feature of weight zero. Both sum to the same
difference from the mean output; a report prints both side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import factorial

import numpy as np

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, parameter, vector

LARGEST = 12
"""Features whose 2**d coalitions are enumerated."""


def interventional(coefficients: Floats, x: Floats, mean: Floats) -> Floats:
    """Return coefficient times distance from the mean."""
    return coefficients * (x - mean)


def conditional(coefficients: Floats, x: Floats, mean: Floats, covariance: Floats) -> Floats:
    """Return Shapley values with features left out replaced by their Gaussian expectation given the rest.

    Parameters
    ----------
    coefficients, x, mean
        (d,) model, case and means; d at most 12.
    covariance
        (d, d) of the features.

    Notes
    -----
    Where known features are collinear the expectation uses the pseudo-inverse.

    References
    ----------
    Aas K, Jullum M, Løland A. Artif Intell 2021;298:103502. doi:10.1016/j.artint.2021.103502.
    """
    d = x.size
    distance = x - mean
    worth = {}
    for size in range(d + 1):
        for known in combinations(range(d), size):
            inside = list(known)
            weights = np.linalg.pinv(covariance[np.ix_(inside, inside)], hermitian=True) @ distance[inside]
            expected = covariance[:, inside] @ weights
            expected[inside] = distance[inside]
            worth[known] = float(coefficients @ expected)
    values = np.zeros(d)
    for j in range(d):
        others = [k for k in range(d) if k != j]
        for size in range(d):
            share = factorial(size) * factorial(d - size - 1) / factorial(d)
            for known in combinations(others, size):
                values[j] += share * (worth[tuple(sorted((*known, j)))] - worth[known])
    return values


@statistic("shapley_linear", values=("feature", "interventional", "conditional", "total"))
def shapley_linear(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Attribute a linear output at ``x`` given ``coefficients``.

    ``mean`` and ``covariance`` are given, or come from the complete rows of a table with ``features``.
    """
    coefficients, x = (
        vector(parameter(inputs, "coefficients"), "coefficients"),
        vector(parameter(inputs, "x"), "x"),
    )
    d = x.size
    notes: Sequence[str] = ()
    names = [str(name) for name in inputs.get("features", [f"x{k + 1}" for k in range(d)])]
    if not 1 <= d <= LARGEST:
        raise StatisticError(f"{d} features are given; 1 to {LARGEST} can be enumerated exactly.")
    if tables:
        rows = complete(tables, "wide", names)
        if len(rows.frame) < 2:
            raise Undefined("fewer than two complete rows: the features have no covariance")
        data = rows.matrix(names)
        mean, covariance, notes = data.mean(axis=0), np.atleast_2d(np.cov(data, rowvar=False)), rows.notes
    else:
        mean = vector(inputs.get("mean", [0.0] * d), "mean")
        covariance = np.asarray(parameter(inputs, "covariance"), dtype=float)
    if not coefficients.size == len(names) == mean.size == d or covariance.shape != (d, d):
        raise StatisticError("Coefficients, x, mean, covariance and feature names differ in length.")
    values = {
        "feature": names,
        "interventional": interventional(coefficients, x, mean),
        "conditional": conditional(coefficients, x, mean, covariance),
        "total": float(coefficients @ (x - mean)),
    }
    return values, notes
