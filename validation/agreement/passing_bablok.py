"""Passing-Bablok regression: the line through two methods by ranks of pairwise slopes, robust to outliers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, Tables, complete, confidence, parameter

VALUES = ("n", "intercept", "intercept_ci_low", "intercept_ci_high", "slope", "slope_ci_low", "slope_ci_high")


def pairwise_slopes(x: Floats, y: Floats) -> Floats:
    """Return the ascending slopes of all pairs of points.

    Pairs of identical points and slopes of exactly -1 are left out; a vertical pair has slope +inf or -inf.
    """
    slopes = np.empty(x.size * (x.size - 1) // 2)
    filled = 0
    for i in range(x.size - 1):
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (y[i + 1 :] - y[i]) / (x[i + 1 :] - x[i])
        slope = slope[~np.isnan(slope) & (slope != -1)]
        slopes[filled : filled + slope.size] = slope
        filled += slope.size
    slopes = slopes[:filled]
    slopes.sort()
    return slopes


@statistic("passing_bablok", values=VALUES)
def passing_bablok(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return slope and intercept with their rank-based intervals.

    Inputs: ``x``, ``y`` (columns of ``wide``, positively related), ``conf``. Memory grows with n².

    Notes
    -----
    The median of the slopes is shifted by the number of slopes below -1, which makes the line independent of
    which method is x. An interval whose ranks fall outside the slopes (small n) is not defined.

    References
    ----------
    Passing H, Bablok W. J Clin Chem Clin Biochem 1983;21:709-720. doi:10.1515/cclm.1983.21.11.709.
    """
    x_name, y_name = (str(parameter(inputs, name)) for name in ("x", "y"))
    rows = complete(tables, "wide", [x_name, y_name])
    x, y = rows.numbers(x_name), rows.numbers(y_name)
    n = x.size
    if n < 3:
        raise Undefined(f"{n} complete pairs: at least 3 are needed")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise Undefined("one of the methods does not vary")
    slopes = pairwise_slopes(x, y)
    count, shift = slopes.size, int(np.count_nonzero(slopes < -1))
    middle = [(count - 1) // 2 + shift, count // 2 + shift]
    if middle[1] >= count:
        raise Undefined("the methods are negatively related")
    slope = float(slopes[middle].mean())
    intercept = float(np.median(y - slope * x))
    z = stats.norm.ppf((1 + confidence(inputs)) / 2)
    spread = z * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = round((count - spread) / 2)
    high = count - low + 1
    values: dict[str, object] = {"n": n, "slope": slope, "intercept": intercept}
    missing = Undefined(f"{n} pairs are too few for an interval at this level")
    bounds: list[object] = [missing] * 4
    if low + shift >= 1 and high + shift <= count:
        slope_low, slope_high = float(slopes[low + shift - 1]), float(slopes[high + shift - 1])
        bounds = [
            slope_low,
            slope_high,
            float(np.median(y - slope_high * x)),
            float(np.median(y - slope_low * x)),
        ]
    names = ("slope_ci_low", "slope_ci_high", "intercept_ci_low", "intercept_ci_high")
    return values | dict(zip(names, bounds, strict=True)), rows.notes
