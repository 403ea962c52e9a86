"""Fit a straight line when both methods err: Deming regression, with constant or individual error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, confidence, parameter

LINE = ("n", "intercept", "slope", "intercept_ci_low", "intercept_ci_high", "slope_ci_low", "slope_ci_high")


def deming_line(x: Floats, y: Floats, error_ratio: float) -> tuple[Floats, Floats]:
    """Return (intercept, slope) of the last axis; ``error_ratio`` is error variance of x over that of y."""
    centre_x, centre_y = x.mean(axis=-1), y.mean(axis=-1)
    dx, dy = x - centre_x[..., None], y - centre_y[..., None]
    sxx, syy, sxy = (np.einsum("...i,...i->...", a, b) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    gap = error_ratio * syy - sxx
    slope = (gap + np.sqrt(gap**2 + 4 * error_ratio * sxy**2)) / (2 * error_ratio * sxy)
    return centre_y - slope * centre_x, slope


def weighted_deming_line(x: Floats, y: Floats, x_sd: Floats, y_sd: Floats) -> tuple[float, float]:
    """Return (intercept, slope) that minimise sum (y - a - b x)² / (SD_y² + b² SD_x²).

    The minimum is sought over the angle of the line, so that steep lines are reached as well as flat ones.

    References
    ----------
    Ripley BD, Thompson M. Analyst 1987;112:377-383. doi:10.1039/AN9871200377.
    """

    def at(angle: float) -> tuple[float, float, float]:
        slope = np.tan(angle)
        weight = 1 / (y_sd**2 + (slope * x_sd) ** 2)
        residual = y - slope * x
        intercept = np.average(residual, weights=weight)
        return float(weight @ (residual - intercept) ** 2), float(intercept), float(slope)

    angles = np.linspace(-np.pi / 2, np.pi / 2, 182)[1:-1]
    start = angles[np.argmin([at(angle)[0] for angle in angles])]
    step = angles[1] - angles[0]
    best = optimize.minimize_scalar(
        lambda angle: at(angle)[0],
        bounds=(start - step, start + step),
        method="bounded",
        options={"xatol": 1e-12},
    )
    _, intercept, slope = at(float(best.x))
    return intercept, slope


def _pairs(tables: Tables, inputs: Inputs, *extra: str) -> tuple[list[Floats], tuple[str, ...]]:
    names = [str(parameter(inputs, name)) for name in ("x", "y", *extra)]
    rows = complete(tables, "wide", names)
    columns = [rows.numbers(name) for name in names]
    if columns[0].size < 3:
        raise Undefined(f"{columns[0].size} complete pairs: at least 3 are needed")
    if np.ptp(columns[0]) == 0 or np.ptp(columns[1]) == 0:
        raise Undefined("one of the methods does not vary")
    return columns, rows.notes


@statistic("deming", values=(*LINE, "intercept_jackknife_se", "slope_jackknife_se"))
def deming(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the line with constant ratio of error variances and jackknife intervals (t, n - 2).

    Inputs: ``x``, ``y`` (columns of ``wide``), ``error_ratio`` (error variance of x over that of y,
    default 1), ``conf``.

    References
    ----------
    Linnet K. Clin Chem 1993;39:424-432 (jackknife). CLSI EP09-A3.
    """
    (x, y), notes = _pairs(tables, inputs)
    ratio = float(inputs.get("error_ratio", 1))
    if ratio <= 0:
        raise StatisticError(f"error_ratio is {ratio}; it must be positive.")
    if abs(np.corrcoef(x, y)[0, 1]) < 1e-14:
        raise Undefined("the methods are not correlated: the slope is undetermined")
    n = x.size
    intercept, slope = deming_line(x, y, ratio)
    left_out = np.array([deming_line(np.delete(x, i), np.delete(y, i), ratio) for i in range(n)])
    standard_errors = np.sqrt((n - 1) ** 2 / n * left_out.var(axis=0, ddof=1))
    t = stats.t.ppf((1 + confidence(inputs)) / 2, n - 2)
    values: dict[str, object] = {"n": n}
    for name, estimate, se in zip(("intercept", "slope"), (intercept, slope), standard_errors, strict=True):
        exact = se < 1e-13 * max(1.0, float(np.abs(y).max()))
        missing = Undefined("the points lie exactly on the line: no interval exists") if exact else None
        values |= {
            name: estimate,
            f"{name}_jackknife_se": se,
            f"{name}_ci_low": missing or estimate - t * se,
            f"{name}_ci_high": missing or estimate + t * se,
        }
    return values, notes


@statistic("deming_weighted", values=LINE)
def deming_weighted(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the line when the standard deviation of each measurement is known, with jackknife intervals (z).

    Inputs: ``x``, ``y``, ``xstd``, ``ystd`` (columns of ``wide``), ``conf``.
    """
    (x, y, x_sd, y_sd), notes = _pairs(tables, inputs, "xstd", "ystd")
    if (x_sd < 0).any() or (y_sd < 0).any() or (x_sd + y_sd <= 0).any():
        raise Undefined("a point has no error in either direction, or a negative one")
    n = x.size
    line = weighted_deming_line(x, y, x_sd, y_sd)
    left_out = np.array(
        [weighted_deming_line(*(np.delete(v, i) for v in (x, y, x_sd, y_sd))) for i in range(n)]
    )
    standard_errors = np.sqrt(np.sum((left_out - np.array(line)) ** 2, axis=0))
    z = stats.norm.ppf((1 + confidence(inputs)) / 2)
    values: dict[str, object] = {"n": n}
    for name, estimate, se in zip(("intercept", "slope"), line, standard_errors, strict=True):
        values |= {name: estimate, f"{name}_ci_low": estimate - z * se, f"{name}_ci_high": estimate + z * se}
    return values, notes
