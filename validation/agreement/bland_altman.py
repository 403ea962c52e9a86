"""Limits of agreement between two methods, each limit with its own interval.

Differences are x - y. The limits hold ``coverage`` (0.95) of the differences; ``conf`` is the confidence of
the intervals around bias and limits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    Tables,
    complete,
    confidence,
    parameter,
)


def _pair(tables: Tables, inputs: Inputs, at_least: int) -> tuple[Floats, Floats, tuple[str, ...]]:
    x, y = (str(parameter(inputs, name)) for name in ("x", "y"))
    rows = complete(tables, "wide", [x, y])
    if len(rows.frame) < at_least:
        raise Undefined(f"{len(rows.frame)} complete pairs: at least {at_least} are needed")
    return rows.numbers(x), rows.numbers(y), rows.notes


def _coverage_z(inputs: Inputs) -> float:
    return float(stats.norm.ppf((1 + float(inputs.get("coverage", 0.95))) / 2))


def exact_limit_factors(n: int, z: float, conf: float) -> tuple[float, float]:
    """Return the two factors of the SD between which the upper limit lies, from the non-central t.

    The upper limit of agreement is bias + z SD in the population; ``bias + factor * sd`` are the exact limits
    of its confidence interval, and ``bias - factor * sd`` those of the lower limit.

    References
    ----------
    Carkeet A. Optom Vis Sci 2015;92:e71-e80. doi:10.1097/OPX.0000000000000513.
    """
    tail = (1 - conf) / 2
    low, high = stats.nct.ppf([tail, 1 - tail], n - 1, z * np.sqrt(n)) / np.sqrt(n)
    return float(low), float(high)


SHAPIRO_LIMIT = 5000

BLAND_ALTMAN = (
    *("n", "bias", "sd_diff", "bias_ci_low", "bias_ci_high", "loa_low", "loa_high"),
    *("loa_se_approx_3n", "loa_low_ci_low_3n", "loa_low_ci_high_3n"),
    *("loa_high_ci_low_3n", "loa_high_ci_high_3n", "loa_se", "loa_low_ci_low", "loa_low_ci_high"),
    *("loa_high_ci_low", "loa_high_ci_high", "loa_low_exact_ci_low", "loa_low_exact_ci_high"),
    *("loa_high_exact_ci_low", "loa_high_exact_ci_high", "paired_t", "paired_t_p"),
    *("corr_diff_mean", "corr_diff_mean_p", "shapiro_w", "shapiro_p"),
)


@statistic("bland_altman", values=BLAND_ALTMAN)
def bland_altman(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return bias and limits of agreement of one pair for each subject.

    Inputs: ``x``, ``y`` (columns of ``wide``), ``conf``, ``coverage``.

    Notes
    -----
    Three intervals of the limits are given: ``*_3n`` with SE² = 3 SD²/n (Bland and Altman 1986), without
    suffix with SE² = SD² (1/n + z²/(2(n - 1))) (1999), both with t quantiles, and ``exact`` (Carkeet 2015):
    report the exact one. ``corr_diff_mean`` shows a trend (use ``bland_altman_regression`` or
    ``bland_altman_ratio``), ``shapiro_p`` a departure from normality. Differences that are all equal leave
    bias and limits without intervals and tests.

    References
    ----------
    Bland JM, Altman DG. Lancet 1986;327:307-310. Stat Methods Med Res 1999;8:135-160.
    doi:10.1177/096228029900800204.
    """
    conf, z = confidence(inputs), _coverage_z(inputs)
    x, y, notes = _pair(tables, inputs, 3)
    difference, mean = x - y, (x + y) / 2
    n, bias, sd = difference.size, float(difference.mean()), float(difference.std(ddof=1))
    low, high = bias - z * sd, bias + z * sd
    values: dict[str, object] = {"n": n, "bias": bias, "sd_diff": sd, "loa_low": low, "loa_high": high}
    if np.ptp(difference) == 0 or sd == 0:
        missing = Undefined("all differences are equal: no interval or test exists")
        return dict.fromkeys(BLAND_ALTMAN, missing) | values, notes
    t = float(stats.t.ppf((1 + conf) / 2, n - 1))
    se, se_3n = sd * np.sqrt(1 / n + z**2 / (2 * (n - 1))), sd * np.sqrt(3 / n)
    nearer, farther = (factor * sd for factor in exact_limit_factors(n, z, conf))
    paired = stats.ttest_1samp(difference, 0)
    w, w_p = (
        stats.shapiro(difference)
        if n <= SHAPIRO_LIMIT
        else (Undefined(f"Shapiro and Wilk's p-value holds up to {SHAPIRO_LIMIT} pairs"),) * 2
    )
    trend, trend_p = (
        stats.pearsonr(difference, mean)
        if np.ptp(mean) > 0
        else (Undefined("all means of the pairs are equal"),) * 2
    )
    return {
        **values,
        "bias_ci_low": bias - t * sd / np.sqrt(n),
        "bias_ci_high": bias + t * sd / np.sqrt(n),
        "loa_se_approx_3n": se_3n,
        "loa_low_ci_low_3n": low - t * se_3n,
        "loa_low_ci_high_3n": low + t * se_3n,
        "loa_high_ci_low_3n": high - t * se_3n,
        "loa_high_ci_high_3n": high + t * se_3n,
        "loa_se": se,
        "loa_low_ci_low": low - t * se,
        "loa_low_ci_high": low + t * se,
        "loa_high_ci_low": high - t * se,
        "loa_high_ci_high": high + t * se,
        "loa_low_exact_ci_low": bias - farther,
        "loa_low_exact_ci_high": bias - nearer,
        "loa_high_exact_ci_low": bias + nearer,
        "loa_high_exact_ci_high": bias + farther,
        "paired_t": float(paired.statistic),
        "paired_t_p": float(paired.pvalue),
        "corr_diff_mean": trend,
        "corr_diff_mean_p": trend_p,
        "shapiro_w": w,
        "shapiro_p": w_p,
    }, notes


RATIO = ("n", "ratio", "ratio_ci_low", "ratio_ci_high", "ratio_loa_low", "ratio_loa_high")


@statistic("bland_altman_ratio", values=RATIO)
def bland_altman_ratio(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return limits of agreement of ln x - ln y, transformed back: the ratio x / y and its limits.

    Inputs: ``x``, ``y`` (columns of ``wide``, all positive), ``conf``, ``coverage``. The intervals of the
    limits are the exact ones of ``bland_altman``.
    """
    conf, z = confidence(inputs), _coverage_z(inputs)
    x, y, notes = _pair(tables, inputs, 3)
    if (x <= 0).any() or (y <= 0).any():
        raise Undefined("a measurement is not positive: its logarithm does not exist")
    difference = np.log(x) - np.log(y)
    n, bias, sd = difference.size, difference.mean(), difference.std(ddof=1)
    values: dict[str, object] = {
        "n": n,
        "ratio": np.exp(bias),
        "ratio_loa_low": np.exp(bias - z * sd),
        "ratio_loa_high": np.exp(bias + z * sd),
    }
    if np.ptp(difference) == 0:
        return dict.fromkeys(RATIO, Undefined("all ratios are equal: no interval exists")) | values, notes
    half = stats.t.ppf((1 + conf) / 2, n - 1) * sd / np.sqrt(n)
    nearer, farther = (factor * sd for factor in exact_limit_factors(n, z, conf))
    return {
        **values,
        "ratio_ci_low": np.exp(bias - half),
        "ratio_ci_high": np.exp(bias + half),
        "ratio_loa_low_exact_ci_low": np.exp(bias - farther),
        "ratio_loa_low_exact_ci_high": np.exp(bias - nearer),
        "ratio_loa_high_exact_ci_low": np.exp(bias + nearer),
        "ratio_loa_high_exact_ci_high": np.exp(bias + farther),
    }, notes


@statistic("bland_altman_regression")
def bland_altman_regression(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return limits of agreement that follow the size of the measurement.

    Inputs: ``x``, ``y`` (columns of ``wide``) and ``at``, the size at which the limits are printed
    (default 3).

    Notes
    -----
    D = x - y is regressed on A = (x + y)/2; where the spread is constant the limits at A are
    b0 + b1 A -/+ z SD(residuals), z the normal quantile of ``coverage``. Where the absolute residuals grow
    with A, |R| = c0 + c1 A, the half width is 1.96 sqrt(pi/2) (c0 + c1 A), with the paper's 1.96.

    References
    ----------
    Bland JM, Altman DG. Stat Methods Med Res 1999;8:135-160, section 3.2. doi:10.1177/096228029900800204.
    """
    x, y, notes = _pair(tables, inputs, 4)
    at = float(inputs.get("at", 3))
    difference, mean = x - y, (x + y) / 2
    if np.ptp(mean) == 0:
        raise Undefined("all means of the pairs are equal: no regression exists")
    line = stats.linregress(mean, difference)
    residuals = difference - line.intercept - line.slope * mean
    sd = float(np.sqrt(residuals @ residuals / (difference.size - 2)))
    spread = stats.linregress(mean, np.abs(residuals))
    exact = sd <= 1e-12 * float(np.abs(difference).max() + np.abs(mean).max())
    untested = Undefined("the differences lie exactly on the line: no test exists") if exact else None
    centre = line.intercept + line.slope * at
    half = _coverage_z(inputs) * sd
    varying = 1.96 * np.sqrt(np.pi / 2) * (spread.intercept + spread.slope * at)
    return {
        "n": difference.size,
        "bias": difference.mean(),
        "sd_diff": difference.std(ddof=1),
        "intercept": line.intercept,
        "slope": line.slope,
        "slope_se": line.stderr,
        "slope_p": untested or line.pvalue,
        "residual_sd": sd,
        "absres_intercept": spread.intercept,
        "absres_slope": spread.slope,
        "absres_slope_p": untested or spread.pvalue,
        f"loa_low_at_{at:g}_const": centre - half,
        f"loa_high_at_{at:g}_const": centre + half,
        f"loa_half_width_at_{at:g}_varying": varying
        if varying >= 0
        else Undefined(f"the fitted spread is negative at {at:g}"),
    }, notes
