"""Linearity, bias at each level, and the range in which a measurement may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, confidence, parameter


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """Least-squares polynomial: coefficients from the constant upwards, with their t tests."""

    coefficients: Floats
    standard_errors: Floats
    residual_squares: float
    degrees: int

    def p_of_highest(self, rounding: float) -> object:
        """Return the p-value of the highest term, or why it does not exist."""
        if self.degrees < 1:
            return Undefined("too few points for this term")
        if self.residual_squares <= rounding:
            return Undefined("the points lie exactly on the curve: no test exists")
        t = self.coefficients[-1] / self.standard_errors[-1]
        return float(2 * stats.t.sf(abs(t), self.degrees))


def fit_polynomial(x: Floats, y: Floats, order: int) -> Polynomial:
    """Fit by least squares on centred, scaled x (exact for high orders) and return coefficients in x."""
    centre, scale = float(x.mean()), float(np.ptp(x)) / 2
    design = np.vander((x - centre) / scale, order + 1, increasing=True)
    q, r = np.linalg.qr(design)
    scaled = np.linalg.solve(r, q.T @ y)
    residual = y - design @ scaled
    squares, degrees = float(residual @ residual), x.size - order - 1
    to_x = np.zeros((order + 1, order + 1))
    for power in range(order + 1):
        expanded = np.polynomial.polynomial.polypow([-centre / scale, 1 / scale], power)
        to_x[: power + 1, power] = expanded
    inverse = to_x @ np.linalg.inv(r)
    variance = squares / degrees if degrees > 0 else float("nan")
    return Polynomial(
        coefficients=to_x @ scaled,
        standard_errors=np.sqrt(variance * np.sum(inverse**2, axis=1)),
        residual_squares=squares,
        degrees=degrees,
    )


LINEARITY = (
    *("n", "intercept", "slope", "intercept_ci_low", "intercept_ci_high", "slope_ci_low", "slope_ci_high"),
    *(
        "r_squared",
        "residual_sd",
        "quadratic_coef",
        "quadratic_p",
        "cubic_p",
        "lack_of_fit_F",
        "lack_of_fit_p",
    ),
)


@statistic("linearity", values=LINEARITY)
def linearity(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the straight line, what a curve would add, and lack of fit where levels repeat.

    Inputs: ``x`` (level), ``y`` (measured; columns of ``wide``), ``conf``. ``quadratic_coef`` and
    ``quadratic_p`` are of y ~ x + x², ``cubic_p`` of y ~ x + x² + x³.

    References
    ----------
    CLSI EP06. Kroll MH, Emancipator K. Clin Chem 1993;39:405-413.
    """
    x_name, y_name = (str(parameter(inputs, name)) for name in ("x", "y"))
    rows = complete(tables, "wide", [x_name, y_name])
    x, y = rows.numbers(x_name), rows.numbers(y_name)
    n, levels = x.size, np.unique(x)
    if n < 3 or levels.size < 2:
        raise Undefined(f"{n} points at {levels.size} levels: at least 3 points at 2 levels are needed")
    line = fit_polynomial(x, y, 1)
    total = float(np.sum((y - y.mean()) ** 2))
    rounding = n * (16 * np.finfo(float).eps * float(np.abs(y).max())) ** 2
    values: dict[str, object] = {"n": n}
    t = float(stats.t.ppf((1 + confidence(inputs)) / 2, n - 2))
    exact = line.residual_squares <= rounding
    missing = Undefined("the points lie exactly on a line: no interval exists") if exact else None
    for name, estimate, se in zip(
        ("intercept", "slope"), line.coefficients, line.standard_errors, strict=True
    ):
        values |= {
            name: estimate,
            f"{name}_ci_low": missing or estimate - t * se,
            f"{name}_ci_high": missing or estimate + t * se,
        }
    values |= {
        "r_squared": 1 - line.residual_squares / total if total > rounding else Undefined("y does not vary"),
        "residual_sd": np.sqrt(line.residual_squares / (n - 2)),
    }
    few = Undefined(f"{levels.size} levels: too few for this term")
    quadratic = fit_polynomial(x, y, 2) if levels.size > 2 else None
    values["quadratic_coef"] = quadratic.coefficients[2] if quadratic else few
    values["quadratic_p"] = quadratic.p_of_highest(rounding) if quadratic else few
    values["cubic_p"] = fit_polynomial(x, y, 3).p_of_highest(rounding) if levels.size > 3 else few
    f, p = _lack_of_fit(x, y, line, levels)
    return values | {"lack_of_fit_F": f, "lack_of_fit_p": p}, rows.notes


def _lack_of_fit(x: Floats, y: Floats, line: Polynomial, levels: Floats) -> tuple[object, object]:
    if levels.size == x.size or levels.size < 3:
        reason = Undefined("lack of fit needs replicates at three levels or more")
        return reason, reason
    group = np.searchsorted(levels, x)
    means = np.bincount(group, y) / np.bincount(group)
    pure = float(np.sum((y - means[group]) ** 2))
    if pure == 0:
        reason = Undefined("the replicates of every level are equal")
        return reason, reason
    df1, df2 = levels.size - 2, x.size - levels.size
    f = (line.residual_squares - pure) / df1 / (pure / df2)
    return f, float(stats.f.sf(f, df1, df2))


def _by_level(tables: Tables, inputs: Inputs) -> tuple[Floats, list[Floats], tuple[str, ...]]:
    names = [str(parameter(inputs, name)) for name in ("reference", "measured")]
    rows = complete(tables, "wide", names)
    reference, measured = (rows.numbers(name) for name in names)
    levels = np.unique(reference)
    if not levels.size:
        raise Undefined("no complete pair")
    return levels, [measured[reference == level] - level for level in levels], rows.notes


@statistic("bias_by_level", values=("level", "n", "bias", "bias_ci_low", "bias_ci_high", "pct_bias"))
def bias_by_level(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return measured - reference at each level, ascending, with t intervals.

    Inputs: ``reference``, ``measured`` (columns of ``wide``), ``conf``. One measurement at a level, or equal
    ones, leave it without interval; a level of zero without percentage.
    """
    levels, errors, notes = _by_level(tables, inputs)
    conf = confidence(inputs)
    low: list[object] = []
    high: list[object] = []
    for error in errors:
        if error.size < 2 or np.ptp(error) == 0:
            reason = "one measurement at the level" if error.size < 2 else "the measurements are equal"
            low.append(Undefined(f"{reason}: no interval exists"))
            high.append(low[-1])
            continue
        half = stats.t.ppf((1 + conf) / 2, error.size - 1) * error.std(ddof=1) / np.sqrt(error.size)
        low.append(error.mean() - half)
        high.append(error.mean() + half)
    bias = [float(error.mean()) for error in errors]
    return {
        "level": levels,
        "n": [error.size for error in errors],
        "bias": bias,
        "bias_ci_low": low,
        "bias_ci_high": high,
        "pct_bias": [
            100 * b / level if level else Undefined("the level is zero")
            for b, level in zip(bias, levels, strict=True)
        ],
    }, notes


@statistic("limits_of_quantitation", values=("level", "pct_bias", "cv_pct", "within", "loq_low", "loq_high"))
def limits_of_quantitation(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the range of levels in which bias and imprecision stay within their bounds.

    Inputs: ``reference``, ``measured`` (columns of ``wide``, replicates at each level), ``max_bias_pct`` and
    ``max_cv_pct`` (percent of the level). A level is within when the size of the bias and the SD, as
    percentages of it, are at most the bounds; the range is the longest run of consecutive levels within.
    Replicates at level zero (blanks) also give ``lob``, the 95th percentile of blanks, and ``lod`` with the
    SD of the lowest level above it.

    References
    ----------
    CLSI EP17-A2 (limit of blank, limit of detection). Raunig DL et al. Stat Methods Med Res 2015;24:27-67.
    """
    levels, errors, notes = _by_level(tables, inputs)
    max_bias, max_cv = (float(parameter(inputs, name)) for name in ("max_bias_pct", "max_cv_pct"))
    if (levels < 0).any():
        raise StatisticError("A reference level is negative; percentages of it have no meaning.")
    blanks = [error for level, error in zip(levels, errors, strict=True) if level == 0]
    tested = [(level, error) for level, error in zip(levels, errors, strict=True) if level > 0]
    if any(error.size < 2 for _, error in tested) or not tested:
        raise Undefined("every level needs at least two measurements: imprecision is not known otherwise")
    bias = np.array([100 * error.mean() / level for level, error in tested])
    cv = np.array([100 * error.std(ddof=1) / level for level, error in tested])
    within = (np.abs(bias) <= max_bias) & (cv <= max_cv)
    values: dict[str, object] = {
        "level": [level for level, _ in tested],
        "n": [error.size for _, error in tested],
        "pct_bias": bias,
        "cv_pct": cv,
        "within": within.astype(int),
    }
    edges = np.flatnonzero(np.diff(np.concatenate([[0], within.astype(int), [0]])))
    if edges.size:
        starts, ends = edges[::2], edges[1::2]
        longest = int(np.argmax(ends - starts))
        values |= {"loq_low": tested[starts[longest]][0], "loq_high": tested[ends[longest] - 1][0]}
    else:
        nowhere = Undefined("bias or imprecision exceeds its bound at every level")
        values |= {"loq_low": nowhere, "loq_high": nowhere}
    if blanks and blanks[0].size > 1:
        blank, (_, lowest) = blanks[0], tested[0]
        lob = blank.mean() + _percentile_factor(blank.size - 1) * blank.std(ddof=1)
        values |= {"lob": lob, "lod": lob + _percentile_factor(lowest.size - 1) * lowest.std(ddof=1)}
    return values, notes


def _percentile_factor(degrees: int) -> float:
    """Return the factor of the 95th percentile, corrected for the bias of the SD (EP17-A2)."""
    return float(stats.norm.ppf(0.95) / (1 - 1 / (4 * degrees)))
