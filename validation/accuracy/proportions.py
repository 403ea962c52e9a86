"""Give a binomial proportion its interval, by every method that a protocol may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Inputs, StatisticError, Tables, confidence, parameter

Interval = tuple[float, float]


def normal_quantile(level: float) -> float:
    """Return z with P(|Z| < z) = level."""
    return float(stats.norm.isf((1 - level) / 2))


def clopper_pearson(x: float, n: float, level: float) -> Interval:
    """Return the exact interval; 0 at x = 0 and 1 at x = n.

    References
    ----------
    Clopper CJ, Pearson ES. Biometrika 1934;26:404-413. doi:10.1093/biomet/26.4.404.
    """
    tail = (1 - level) / 2
    low = 0.0 if x == 0 else float(stats.beta.ppf(tail, x, n - x + 1))
    high = 1.0 if x == n else float(stats.beta.isf(tail, x + 1, n - x))
    return low, high


def wilson(x: float, n: float, level: float) -> Interval:
    """Return Wilson's score interval; x and n may be effective (not whole) numbers.

    References
    ----------
    Wilson EB. J Am Stat Assoc 1927;22:209-212. doi:10.1080/01621459.1927.10502953.
    """
    z = normal_quantile(level)
    centre = (x + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(x * (n - x) / n + z**2 / 4) / (n + z**2)
    low = 0.0 if x == 0 else float(centre - half)
    high = 1.0 if x == n else float(centre + half)
    return low, high


def wilson_continuity_corrected(x: float, n: float, level: float) -> Interval:
    """Return the score interval with continuity correction.

    The correction is 1/2, and at most |x - n/2|, as for a test of one half.

    References
    ----------
    Newcombe RG. Stat Med 1998;17:857-872, method 4.
    doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E.
    """
    z = normal_quantile(level)
    correction = min(0.5, abs(x - n / 2))

    def bound(shifted: float, sign: int) -> float:
        p = shifted / n
        root = np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return float((p + z**2 / (2 * n) + sign * z * root) / (1 + z**2 / n))

    low = 0.0 if x == 0 else max(0.0, bound(x - correction, -1))
    high = 1.0 if x == n else min(1.0, bound(x + correction, 1))
    return low, high


def agresti_coull(x: float, n: float, level: float) -> Interval:
    """Return the interval around (x + z**2/2) / (n + z**2); it may leave [0, 1].

    References
    ----------
    Agresti A, Coull BA. Am Stat 1998;52:119-126. doi:10.1080/00031305.1998.10480550.
    """
    z = normal_quantile(level)
    larger = n + z**2
    p = (x + z**2 / 2) / larger
    half = z * np.sqrt(p * (1 - p) / larger)
    return float(p - half), float(p + half)


def jeffreys(x: float, n: float, level: float) -> Interval:
    """Return the equal-tailed interval of Beta(x + 1/2, n - x + 1/2); bound 0 at x = 0 and 1 at x = n.

    References
    ----------
    Brown LD, Cai TT, DasGupta A. Stat Sci 2001;16:101-133. doi:10.1214/ss/1009213286.
    """
    tail = (1 - level) / 2
    low = 0.0 if x == 0 else float(stats.beta.ppf(tail, x + 0.5, n - x + 0.5))
    high = 1.0 if x == n else float(stats.beta.isf(tail, x + 0.5, n - x + 0.5))
    return low, high


def wald(x: float, n: float, level: float) -> Interval:
    """Return p -/+ z SE, not clipped: it may leave [0, 1] and has no width at x = 0 or n."""
    p = x / n
    half = normal_quantile(level) * float(np.sqrt(p * (1 - p) / n))
    return p - half, p + half


INTERVALS: Mapping[str, Callable[[float, float, float], Interval]] = {
    "clopper_pearson": clopper_pearson,
    "wilson": wilson,
    "agresti_coull": agresti_coull,
    "jeffreys": jeffreys,
    "wald": wald,
    "wilson_cc": wilson_continuity_corrected,
}


def counts(inputs: Inputs, *names: str) -> tuple[int, ...]:
    """Return whole, non-negative numbers from the inputs."""
    found = []
    for name in names:
        value = parameter(inputs, name)
        if isinstance(value, str) or value != int(value) or value < 0:
            raise StatisticError(f"The input {name!r} is {value!r}; it must be a whole number of cases.")
        found.append(int(value))
    return tuple(found)


def successes(inputs: Inputs, x: str, n: str) -> tuple[int, int]:
    """Return x of n from the inputs, x at most n."""
    some, everyone = counts(inputs, x, n)
    if some > everyone:
        raise StatisticError(f"{x} = {some} exceeds {n} = {everyone}.")
    return some, everyone


@statistic(
    "proportion_ci", values=("estimate", *(f"{m}_{end}" for m in INTERVALS for end in ("low", "high")))
)
def proportion_ci(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate ``x`` of ``n`` with every interval."""
    x, n = successes(inputs, "x", "n")
    if n == 0:
        raise Undefined("n is 0")
    level = confidence(inputs)
    values: dict[str, object] = {"estimate": x / n}
    for method, interval in INTERVALS.items():
        values[f"{method}_low"], values[f"{method}_high"] = interval(x, n, level)
    notes = ["the Wald interval has no width at 0 and n and is not clipped to [0, 1]"] if x in (0, n) else []
    return values, notes
