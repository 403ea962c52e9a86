"""Compare two proportions, independent or paired: intervals, tests, non-inferiority.

The difference is always first minus second. Paired tables are a (both positive), b (first only), c (second
only), d (neither); the difference is (b - c) / n. statsmodels' score interval and R's PropCIs are wrong here
(misplaced count; reversed sign), which is why the score methods are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.accuracy.proportions import Interval, counts, normal_quantile, successes, wilson
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Inputs, StatisticError, Tables, confidence, parameter


def newcombe_independent(x1: int, n1: int, x2: int, n2: int, level: float) -> Interval:
    """Return Newcombe's hybrid of two Wilson intervals.

    References
    ----------
    Newcombe RG. Stat Med 1998;17:873-890, method 10.
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I.
    """
    p1, p2 = x1 / n1, x2 / n2
    (low1, high1), (low2, high2) = wilson(x1, n1, level), wilson(x2, n2, level)
    difference = p1 - p2
    low = difference - np.hypot(p1 - low1, high2 - p2)
    high = difference + np.hypot(high1 - p1, p2 - low2)
    return float(low), float(high)


def restricted_proportions(
    x1: float, n1: float, x2: float, n2: float, difference: float
) -> tuple[float, float]:
    """Return the maximum likelihood estimates of two proportions whose difference is given.

    Numbers of patients need not be whole: a plan asks for proportions of ideal groups.

    References
    ----------
    Farrington CP, Manning G. Stat Med 1990;9:1447-1454, appendix. doi:10.1002/sim.4780091208.
    """
    theta, p1, p2 = n2 / n1, x1 / n1, x2 / n2
    a = 1 + theta
    b = -(1 + theta + p1 + theta * p2 + difference * (theta + 2))
    c = difference**2 + difference * (2 * p1 + theta + 1) + p1 + theta * p2
    d = -p1 * difference * (1 + difference)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a**2) + d / (2 * a)
    u = np.sqrt(max((b / (3 * a)) ** 2 - c / (3 * a), 0.0)) * (1 if v >= 0 else -1)
    w = (np.pi + np.arccos(np.clip(v / u**3, -1, 1))) / 3 if u != 0 else np.pi / 2
    first = float(2 * u * np.cos(w) - b / (3 * a))
    first = min(max(first, 0.0, difference), 1.0, 1.0 + difference)
    return first, first - difference


def _ratio(distance: float, variance: float) -> float:
    """Return distance / sqrt(variance); without variance the sign of the distance at infinity."""
    if variance > np.finfo(float).tiny:
        return distance / float(np.sqrt(variance))
    return 0.0 if abs(distance) < np.finfo(float).eps else float(np.copysign(np.inf, distance))


def miettinen_nurminen_z(x1: int, n1: int, x2: int, n2: int, difference: float) -> float:
    """Return the score statistic at a difference, with the factor N / (N - 1) on the variance."""
    first, second = restricted_proportions(x1, n1, x2, n2, difference)
    total = n1 + n2
    variance = (first * (1 - first) / n1 + second * (1 - second) / n2) * total / (total - 1)
    return _ratio(x1 / n1 - x2 / n2 - difference, variance)


def _inverted(z_at: Callable[[float], float], estimate: float, level: float) -> Interval:
    """Return where a statistic that falls with the difference passes +z and -z, by bisection in [-1, 1]."""
    z = normal_quantile(level)

    def crossing(low: float, high: float, value: float) -> float:
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if z_at(middle) > value else (low, middle)
        return (low + high) / 2

    return crossing(-1.0, estimate, z), crossing(estimate, 1.0, -z)


def miettinen_nurminen(x1: int, n1: int, x2: int, n2: int, level: float) -> Interval:
    """Return the score interval of a difference of independent proportions.

    References
    ----------
    Miettinen O, Nurminen M. Stat Med 1985;4:213-226. doi:10.1002/sim.4780040211.
    """
    return _inverted(lambda d: miettinen_nurminen_z(x1, n1, x2, n2, d), x1 / n1 - x2 / n2, level)


def tango_z(b: int, c: int, n: int, difference: float) -> float:
    """Return the score statistic of a paired difference.

    References
    ----------
    Tango T. Stat Med 1998;17:891-908. doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B.
    """
    first = 2 * n
    second = -b - c + (2 * n - b + c) * difference
    third = -c * difference * (1 - difference)
    restricted = (np.sqrt(max(second**2 - 4 * first * third, 0.0)) - second) / (2 * first)
    variance = n * (2 * restricted + difference * (1 - difference))
    return _ratio(b - c - n * difference, float(variance))


def tango(b: int, c: int, n: int, level: float) -> Interval:
    """Return the score interval of a paired difference."""
    return _inverted(lambda d: tango_z(b, c, n, d), (b - c) / n, level)


def newcombe_paired(a: int, b: int, c: int, d: int, level: float) -> Interval:
    """Return the hybrid of two Wilson intervals with the continuity-corrected correlation.

    References
    ----------
    Newcombe RG. Stat Med 1998;17:2635-2650, method 10.
    doi:10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C.
    """
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (low1, high1), (low2, high2) = wilson(a + b, n, level), wilson(a + c, n, level)
    margins = float(a + b) * (c + d) * (a + c) * (b + d)
    cross = float(a * d - b * c)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / np.sqrt(margins) if margins > 0 else 0.0
    below1, above1, below2, above2 = p1 - low1, high1 - p1, p2 - low2, high2 - p2
    low = p1 - p2 - np.sqrt(max(below1**2 - 2 * phi * below1 * above2 + above2**2, 0.0))
    high = p1 - p2 + np.sqrt(max(above1**2 - 2 * phi * above1 * below2 + below2**2, 0.0))
    return float(low), float(high)


@statistic(
    "proportion_difference_independent",
    values=[
        "difference",
        "newcombe_low",
        "newcombe_high",
        "miettinen_nurminen_low",
        "miettinen_nurminen_high",
        "score_z",
        "score_p",
    ],
)
def proportion_difference_independent(tables: Tables, inputs: Inputs) -> Values:
    """Estimate ``x1``/``n1`` - ``x2``/``n2``."""
    x1, n1 = successes(inputs, "x1", "n1")
    x2, n2 = successes(inputs, "x2", "n2")
    if n1 == 0 or n2 == 0:
        raise Undefined("a group is empty")
    level = confidence(inputs)
    newcombe = newcombe_independent(x1, n1, x2, n2, level)
    score = miettinen_nurminen(x1, n1, x2, n2, level)
    values: dict[str, object] = {
        "difference": x1 / n1 - x2 / n2,
        "newcombe_low": newcombe[0],
        "newcombe_high": newcombe[1],
        "miettinen_nurminen_low": score[0],
        "miettinen_nurminen_high": score[1],
    }
    if x1 + x2 in (0, n1 + n2):
        return values | dict.fromkeys(("score_z", "score_p"), Undefined("both groups are all alike"))
    z = miettinen_nurminen_z(x1, n1, x2, n2, 0.0)
    return values | {"score_z": z, "score_p": 2 * stats.norm.sf(abs(z))}


@statistic(
    "proportion_difference_paired",
    values=[
        "difference",
        "mcnemar_chi2",
        "mcnemar_p",
        "mcnemar_cc_chi2",
        "mcnemar_cc_p",
        "mcnemar_exact_p",
        "mcnemar_midp",
        "tango_low",
        "tango_high",
        "newcombe10_low",
        "newcombe10_high",
    ],
)
def proportion_difference_paired(tables: Tables, inputs: Inputs) -> Values:
    """Compare two tests on the same cases from the cells ``a``, ``b``, ``c``, ``d``."""
    a, b, c, d = counts(inputs, "a", "b", "c", "d")
    n = a + b + c + d
    if n == 0:
        raise Undefined("there is no pair")
    level = confidence(inputs)
    score, hybrid = tango(b, c, n, level), newcombe_paired(a, b, c, d, level)
    values: dict[str, object] = {
        "difference": (b - c) / n,
        "tango_low": score[0],
        "tango_high": score[1],
        "newcombe10_low": hybrid[0],
        "newcombe10_high": hybrid[1],
    }
    chi_square = ("mcnemar_chi2", "mcnemar_p", "mcnemar_cc_chi2", "mcnemar_cc_p")
    tail = float(stats.binom.cdf(min(b, c), b + c, 0.5))
    values["mcnemar_exact_p"] = min(1.0, 2 * tail)
    values["mcnemar_midp"] = min(1.0, 2 * tail - float(stats.binom.pmf(min(b, c), b + c, 0.5)))
    if b + c == 0:
        return values | dict.fromkeys(chi_square, Undefined("no pair is discordant"))
    plain = (b - c) ** 2 / (b + c)
    corrected = max(abs(b - c) - 1, 0) ** 2 / (b + c)
    found = (plain, stats.chi2.sf(plain, 1), corrected, stats.chi2.sf(corrected, 1))
    return values | dict(zip(chi_square, found, strict=True))


def _margin(inputs: Inputs) -> float:
    margin = float(parameter(inputs, "margin"))
    if not 0 <= margin < 1:
        raise StatisticError(f"The margin is {margin}; it must be 0 or more, and less than 1.")
    return margin


def _verdict(z: float, inputs: Inputs) -> dict[str, object]:
    p = float(stats.norm.sf(z))
    return {"z": z, "p_one_sided": p, "noninferior": int(p <= float(inputs.get("alpha", 0.025)))}


@statistic(
    "noninferiority_independent_proportions",
    values=("p1_restricted", "p2_restricted", "z", "p_one_sided", "noninferior"),
)
def noninferiority_independent_proportions(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Test that the first proportion is not worse by ``margin`` or more; one-sided ``alpha`` (0.025)."""
    x1, n1 = successes(inputs, "x1", "n1")
    x2, n2 = successes(inputs, "x2", "n2")
    if n1 == 0 or n2 == 0:
        raise Undefined("a group is empty")
    margin = _margin(inputs)
    first, second = restricted_proportions(x1, n1, x2, n2, -margin)
    variance = first * (1 - first) / n1 + second * (1 - second) / n2
    values: dict[str, object] = {"p1_restricted": first, "p2_restricted": second}
    z = _ratio(x1 / n1 - x2 / n2 + margin, variance)
    if not np.isfinite(z) or variance <= np.finfo(float).tiny:
        reason = Undefined("under the null hypothesis the proportions do not vary")
        return values | dict.fromkeys(("z", "p_one_sided", "noninferior"), reason), ()
    return values | _verdict(z, inputs), ("H0: p1 - p2 <= -margin, Farrington-Manning",)


@statistic("noninferiority_paired_proportions", values=("z", "p_one_sided", "noninferior"))
def noninferiority_paired_proportions(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Test that the first test is not worse than the second by ``margin`` or more, on the same cases."""
    a, b, c, d = counts(inputs, "a", "b", "c", "d")
    n = a + b + c + d
    if n == 0:
        raise Undefined("there is no pair")
    margin = _margin(inputs)
    if margin == 0 and b + c == 0:
        raise Undefined("no pair is discordant and the margin is 0")
    return _verdict(tango_z(b, c, n, -margin), inputs), ("H0: p1 - p2 <= -margin, Tango",)
