"""Test and estimate treatment effects from reader estimates and their covariance over cases.

Notation of Hillis: t treatments, r readers, MS(T), MS(R), MS(T*R) the mean squares of the table of estimates;
Cov1 same reader and different treatments, Cov2 different readers and same treatment, Cov3 both different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined
from voxtrial.validation.tables import Floats

NO_SPREAD = "the error term is 0: readers and cases do not vary"
ONE_READER = "one reader: the spread between readers is unknown"
ONE_TREATMENT = "one treatment: there is nothing to compare"


@dataclass(frozen=True, kw_only=True)
class CovarianceMeans:
    """Means of the covariance matrix by what two estimates share; NaN where no pair of that kind exists.

    Parameters
    ----------
    error, cov1, cov2, cov3
        Over the whole study.
    error_by_treatment, cov2_by_treatment
        (t,) within each treatment.
    """

    error: float
    cov1: float
    cov2: float
    cov3: float
    error_by_treatment: Floats
    cov2_by_treatment: Floats


@dataclass(frozen=True, kw_only=True)
class ReaderSummary:
    """What the analysis needs: (t, r) estimates and the means of their covariance."""

    estimates: Floats
    covariance: CovarianceMeans


def covariance_means(covariance: Floats, treatments: int, readers: int) -> CovarianceMeans:
    """Return the means of a (t*r, t*r) covariance, treatments outermost."""
    cells = covariance.reshape(treatments, readers, treatments, readers).transpose(0, 2, 1, 3)
    same_reader = np.eye(readers, dtype=bool)
    same_treatment = np.eye(treatments, dtype=bool)

    def mean(values: Floats) -> float:
        return float(values.mean()) if values.size else np.nan

    within = cells[same_treatment]
    between = cells[~same_treatment]
    return CovarianceMeans(
        error=mean(within[:, same_reader]),
        cov1=mean(between[:, same_reader]),
        cov2=mean(within[:, ~same_reader]),
        cov3=mean(between[:, ~same_reader]),
        error_by_treatment=np.array([mean(w[same_reader]) for w in within]),
        cov2_by_treatment=np.array([mean(w[~same_reader]) for w in within]),
    )


class _Target:
    """Values of one inference target, named with its prefix."""

    def __init__(self, prefix: str, level: float) -> None:
        self.prefix = prefix
        self.level = level
        self.values: dict[str, object] = {}

    def put(self, **values: object) -> None:
        self.values |= {f"{self.prefix}_{name}": value for name, value in values.items()}

    def undefined(self, reason: str, *names: str) -> None:
        self.put(**dict.fromkeys(names, Undefined(reason)))

    def differences(self, estimates: Floats, stderr: float, degrees: float) -> None:
        """Put every pairwise difference, lists for more than one pair; infinite degrees mean a normal one."""
        found = np.array([estimates[i] - estimates[j] for i, j in combinations(range(estimates.size), 2)])
        half = float(_quantile(self.level, degrees)) * stderr
        ratio = found / stderr
        p = 2 * stats.t.sf(np.abs(ratio), degrees)
        ends = [*(found - half), *(found + half)]
        columns = {"estimate": found, "stderr": np.full(found.size, stderr), "p_value": p}
        columns["t" if np.isfinite(degrees) else "z"] = ratio
        if np.isfinite(degrees):
            columns["df"] = np.full(found.size, degrees)
        single = found.size == 1
        self.put(diff_ci=ends, **{f"diff_{name}": c[0] if single else c for name, c in columns.items()})

    def means(self, estimates: Floats, variances: Floats, degrees: Sequence[float]) -> None:
        """Put the mean of every treatment with its interval; ends are all lower, then all upper."""
        stderr = np.sqrt(variances)
        half = np.array([_quantile(self.level, d) for d in degrees]) * stderr
        usable = stderr > 0
        ends = np.concatenate([estimates - half, estimates + half])
        reason = Undefined(NO_SPREAD)
        self.put(
            mean_estimate=estimates,
            mean_stderr=stderr,
            mean_ci=[e if u else reason for e, u in zip(ends, np.tile(usable, 2), strict=True)],
        )
        if np.isfinite(degrees).all():
            self.put(mean_df=list(degrees))


def _quantile(level: float, degrees: float) -> float:
    return float(stats.t.isf((1 - level) / 2, degrees))


def inference(summary: ReaderSummary, level: float) -> dict[str, object]:
    """Return RRRC, RRFC and FRRC tests, differences and means, and the variance components."""
    y, c = summary.estimates, summary.covariance
    t, r = y.shape
    means, by_reader = y.mean(axis=1), y.mean(axis=0)
    residual = y - means[:, None] - by_reader[None, :] + y.mean()
    ms_t = float(r * ((means - y.mean()) ** 2).sum() / (t - 1)) if t > 1 else np.nan
    ms_r = float(t * ((by_reader - y.mean()) ** 2).sum() / (r - 1)) if r > 1 else np.nan
    ms_tr = float((residual**2).sum() / ((t - 1) * (r - 1))) if t > 1 and r > 1 else np.nan
    ms_r_by_treatment = y.var(axis=1, ddof=1) if r > 1 else np.full(t, np.nan)
    between = float(np.maximum(np.nan_to_num(c.cov2 - c.cov3), 0.0))
    shared = np.maximum(np.nan_to_num(c.cov2_by_treatment), 0.0)
    rrrc, rrfc, frrc = (_Target(name, level) for name in ("rrrc", "rrfc", "frrc"))
    tests = ("test_f", "test_df1", "test_df2", "test_p_value")
    differences = ("diff_estimate", "diff_stderr", "diff_df", "diff_ci", "diff_t", "diff_p_value")

    if r == 1:
        for one in (rrrc, rrfc):
            one.undefined(ONE_READER, *tests, *differences, "mean_stderr", "mean_df", "mean_ci")
            one.put(mean_estimate=means)
    else:
        degrees = r - 1
        random = ms_r_by_treatment + r * shared
        flexible = [_ratio(v**2, m**2 / degrees) for v, m in zip(random, ms_r_by_treatment, strict=True)]
        rrrc.means(means, random / r, flexible)
        rrrc.put(mean_ms_r_=ms_r_by_treatment, mean_cov2=c.cov2_by_treatment)
        rrfc.means(means, ms_r_by_treatment / r, [degrees] * t)
        rrfc.put(mean_ms_r_=ms_r_by_treatment)
        for one, error in ((rrrc, ms_tr + r * between), (rrfc, ms_tr)):
            if t == 1:
                one.undefined(ONE_TREATMENT, *tests, *differences)
                continue
            one.put(test_ms_t_=ms_t, test_ms_t_r_=ms_tr)
            if one is rrrc:
                one.put(test_cov2=c.cov2, test_cov3=c.cov3, test_denominator=error)
            df1 = t - 1
            df2 = _ratio(error**2, ms_tr**2 / (df1 * (r - 1)))
            if not error > 0:
                one.undefined(NO_SPREAD, *tests, *differences)
                continue
            f = ms_t / error
            p = stats.f.sf(f, df1, df2) if np.isfinite(df2) else stats.chi2.sf(f * df1, df1)
            one.put(test_f=f, test_df1=df1, test_df2=df2, test_p_value=p)
            one.differences(means, float(np.sqrt(2 * error / r)), df2)

    frrc.means(means, (c.error_by_treatment + (r - 1) * shared) / r, [np.inf] * t)
    frrc.put(mean_var_error_=c.error_by_treatment, mean_cov2=c.cov2_by_treatment)
    frrc_tests = ("test_x2", "test_df", "test_p_value")
    frrc_differences = ("diff_estimate", "diff_stderr", "diff_ci", "diff_z", "diff_p_value")
    if t == 1:
        frrc.undefined(ONE_TREATMENT, *frrc_tests, *frrc_differences)
    else:
        error = c.error - c.cov1 + (r - 1) * between
        frrc.put(
            test_ms_t_=ms_t, test_cov1=c.cov1, test_cov2=c.cov2, test_cov3=c.cov3, test_denominator=error
        )
        if error > 0:
            x2 = (t - 1) * ms_t / error
            frrc.put(test_x2=x2, test_df=t - 1, test_p_value=stats.chi2.sf(x2, t - 1))
            frrc.differences(means, float(np.sqrt(2 * error / r)), np.inf)
        else:
            frrc.undefined(NO_SPREAD, *frrc_tests, *frrc_differences)

    components: dict[str, object] = {
        "or_reader": (ms_r - ms_tr) / t - c.cov1 + c.cov3,
        "or_treatment_reader": ms_tr - c.error + c.cov1 + between,
        "or_Error": c.error,
        "or_Cov1": c.cov1,
        "or_Cov2": c.cov2,
        "or_Cov3": c.cov3,
    }
    return rrrc.values | rrfc.values | frrc.values | components


def _ratio(top: float, bottom: float) -> float:
    """Return top / bottom; degrees of freedom without a bottom are infinite."""
    return float(top / bottom) if bottom > 0 else np.inf
