"""Estimate and compare areas under ROC curves by DeLong's structural components, in O(n log n) time.

A higher score means positive. A tied pair of a positive and a negative case counts one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from voxtrial.validation.accuracy.rank_kernels import counts_below, placement_sums
from voxtrial.validation.accuracy.scored_cases import require_both_classes, scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Flags, Floats, Inputs, StatisticError, Tables, confidence, parameter

NO_SPREAD = (
    "DeLong's variance is 0 (the scores separate the classes, or all are tied), which is not certainty"
)


@dataclass(frozen=True, kw_only=True)
class Area:
    """Area under an empirical ROC curve with DeLong's variance; NaN where a class has one case."""

    auc: float
    variance: float
    n_positive: int
    n_negative: int


def area(positive: Floats, negative: Floats) -> Area:
    """Return the area under the ROC curve and its variance.

    Parameters
    ----------
    positive, negative
        Scores of the positive and of the negative cases; at least one of each.

    References
    ----------
    DeLong ER, DeLong DM, Clarke-Pearson DL. Biometrics 1988;44:837-845. doi:10.2307/2531595.
    Sun X, Xu W. IEEE Signal Process Lett 2014;21:1389-1393. doi:10.1109/LSP.2014.2337313.
    """
    m, n = positive.size, negative.size
    p, q = np.sort(positive), np.sort(negative)
    total, squares_10 = placement_sums(p, q)
    total_01, squares_01 = placement_sums(q, p)
    variance = np.nan
    if m > 1 and n > 1:
        s10 = (squares_10 - total**2 / m) / (m - 1) / (2 * n) ** 2
        s01 = (squares_01 - total_01**2 / n) / (n - 1) / (2 * m) ** 2
        variance = max(s10, 0.0) / m + max(s01, 0.0) / n
    return Area(auc=total / (2 * m * n), variance=float(variance), n_positive=m, n_negative=n)


def placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Return the structural components of every case, in the order of the cases.

    ``v10[i]`` is the part of the negative cases that positive case i exceeds, ``v01[j]`` the part of the
    positive cases that exceed negative case j, ties half; the mean of either is the area.
    """
    by_p, by_q = np.argsort(positive), np.argsort(negative)
    p, q = positive[by_p], negative[by_q]
    v10, v01 = np.empty(p.size), np.empty(q.size)
    less, less_or_equal = counts_below(p, q)
    v10[by_p] = (less + less_or_equal) / (2 * q.size)
    less, less_or_equal = counts_below(q, p)
    v01[by_q] = 1 - (less + less_or_equal) / (2 * p.size)
    return v10, v01


def areas(positive: Flags, scores: Floats) -> tuple[Floats, Floats]:
    """Return the areas of k scores on the same cases and their (k, k) covariance.

    Parameters
    ----------
    positive
        (n,) true class.
    scores
        (n, k).
    """
    components = [placements(score[positive], score[~positive]) for score in scores.T]
    v10 = np.column_stack([v for v, _ in components])
    v01 = np.column_stack([v for _, v in components])
    if len(v10) < 2 or len(v01) < 2:
        return v10.mean(axis=0), np.full((scores.shape[1], scores.shape[1]), np.nan)
    covariance = np.cov(v10, rowvar=False, ddof=1) / len(v10) + np.cov(v01, rowvar=False, ddof=1) / len(v01)
    return v10.mean(axis=0), np.atleast_2d(covariance)


def hanley_mcneil_se(auc: float, n_positive: int, n_negative: int) -> float:
    """Return the standard error of an area under the exponential model.

    References
    ----------
    Hanley JA, McNeil BJ. Radiology 1982;143:29-36. doi:10.1148/radiology.143.1.7063747.
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    return float(np.sqrt((auc * (1 - auc) + spread) / (n_positive * n_negative)))


def normal_interval(auc: float, se: float, level: float) -> tuple[float, float]:
    """Return AUC -/+ z SE, truncated to [0, 1]."""
    z = stats.norm.isf((1 - level) / 2)
    return max(auc - z * se, 0.0), min(auc + z * se, 1.0)


def logit_interval(auc: float, se: float, level: float) -> tuple[float, float]:
    """Return the interval that is symmetric in logit(AUC), for areas near 1 and small samples."""
    half = stats.norm.isf((1 - level) / 2) * se / (auc * (1 - auc))
    logit = special.logit(auc)
    return float(special.expit(logit - half)), float(special.expit(logit + half))


def wilcoxon_p(positive: Floats, negative: Floats) -> float:
    """Return the two-sided p of area = 1/2: normal approximation with ties, no continuity correction."""
    return float(stats.mannwhitneyu(positive, negative, method="asymptotic", use_continuity=False).pvalue)


@statistic(
    "roc_auc",
    values=[
        "n_pos",
        "n_neg",
        "auc",
        "delong_var",
        "delong_se",
        "delong_ci_low",
        "delong_ci_high",
        "logit_ci_low",
        "logit_ci_high",
        "hanley_mcneil_se",
        "wilcoxon_p_vs_half",
    ],
)
def roc_auc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate one area from ``truth`` and ``score`` (columns, counts or lists)."""
    cases = scored_cases(tables, inputs, ["score"])
    positive, negative = cases.classes()
    level = confidence(inputs)
    found = area(positive, negative)
    se = float(np.sqrt(found.variance))
    values: dict[str, object] = {
        "n_pos": found.n_positive,
        "n_neg": found.n_negative,
        "auc": found.auc,
        "delong_var": found.variance,
        "delong_se": se,
        "hanley_mcneil_se": hanley_mcneil_se(found.auc, found.n_positive, found.n_negative),
        "wilcoxon_p_vs_half": wilcoxon_p(positive, negative),
    }
    if np.isnan(se):
        few: object = Undefined("a class has one case: its spread is unknown")
        values |= dict.fromkeys(("delong_var", "delong_se"), few)
    elif se == 0:
        few = Undefined(NO_SPREAD)
    else:
        few = None
    names = ("delong_ci_low", "delong_ci_high", "logit_ci_low", "logit_ci_high")
    if few is None:
        bounds = (*normal_interval(found.auc, se, level), *logit_interval(found.auc, se, level))
        values |= dict(zip(names, bounds, strict=True))
    else:
        values |= dict.fromkeys(names, few)
    if np.unique(cases.scores).size == 1:
        values["wilcoxon_p_vs_half"] = Undefined("all scores are tied")
    return values, cases.notes


@statistic(
    "auc_comparison_paired",
    values=["auc1", "auc2", "difference", "covariance", "se_difference", "z", "p", "ci_low", "ci_high"],
)
def auc_comparison_paired(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare the areas of ``score1`` and ``score2`` on the same cases; difference is 1 - 2."""
    cases = scored_cases(tables, inputs, ["score1", "score2"])
    require_both_classes(cases.positive)
    (auc1, auc2), covariance = areas(cases.positive, cases.scores)
    difference = float(auc1 - auc2)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    values: dict[str, object] = {
        "auc1": auc1,
        "auc2": auc2,
        "difference": difference,
        "covariance": covariance[0, 1],
    }
    names = ("se_difference", "z", "p", "ci_low", "ci_high")
    if not variance > np.finfo(float).eps:
        reason = Undefined(
            "the variance of the difference is 0 or unknown (same ranks, or one case in a class)"
        )
        return values | dict.fromkeys(names, reason), cases.notes
    se = float(np.sqrt(variance))
    z = difference / se
    half = stats.norm.isf((1 - confidence(inputs)) / 2) * se
    found = (se, z, 2 * stats.norm.sf(abs(z)), difference - half, difference + half)
    return values | dict(zip(names, found, strict=True)), cases.notes


@statistic("auc_comparison_unpaired", values=("auc1", "auc2", "D", "df", "p"))
def auc_comparison_unpaired(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare the area of ``score`` between ``group1`` and ``group2`` of the column ``group``.

    The statistic has Student's distribution with Satterthwaite's degrees of freedom over a group's cases.
    """
    group = parameter(inputs, "group")
    cases = scored_cases(tables, inputs, ["score"], also=[group])
    labels = cases.frame[group]
    chosen = [parameter(inputs, name) for name in ("group1", "group2")]
    found = []
    for label in chosen:
        inside = (labels == label).to_numpy()
        positive = cases.positive[inside]
        try:
            require_both_classes(positive)
        except Undefined as undefined:
            raise Undefined(f"in group {label!r} {undefined.reason}") from undefined
        score = cases.scores[inside, 0]
        found.append(area(score[positive], score[~positive]))
    first, second = found
    variances = [first.variance, second.variance]
    total = sum(variances)
    values: dict[str, object] = {"auc1": first.auc, "auc2": second.auc}
    if not total > 0:
        return values | dict.fromkeys(("D", "df", "p"), Undefined(NO_SPREAD)), cases.notes
    sizes = [one.n_positive + one.n_negative for one in found]
    degrees = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
    statistic_d = (first.auc - second.auc) / np.sqrt(total)
    p = 2 * stats.t.sf(abs(statistic_d), degrees)
    return values | {"D": statistic_d, "df": degrees, "p": p}, cases.notes


@statistic("auc_comparison_global", values=("chi2", "df", "p"))
def auc_comparison_global(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Test that the areas of all ``scores`` on the same cases are equal.

    The contrasts against the last score are tested by their covariance; scores that are linearly dependent in
    their components lower the degrees of freedom, as in a generalised inverse.
    """
    names = list(parameter(inputs, "scores"))
    if len(names) < 2:
        raise StatisticError(f"A comparison needs two scores or more; given is {names}.")
    cases = scored_cases(tables, inputs, names)
    require_both_classes(cases.positive)
    aucs, covariance = areas(cases.positive, cases.scores)
    if np.isnan(covariance).any():
        raise Undefined("a class has one case: its spread is unknown")
    contrasts = np.hstack([np.eye(len(names) - 1), -np.ones((len(names) - 1, 1))])
    spread = contrasts @ covariance @ contrasts.T
    rank = int(np.linalg.matrix_rank(spread, tol=1e-12, hermitian=True))
    if rank == 0:
        raise Undefined("the areas differ by nothing that varies (same ranks in every score)")
    difference = contrasts @ aucs
    chi2 = float(difference @ np.linalg.pinv(spread, rcond=1e-10, hermitian=True) @ difference)
    values: dict[str, object] = {"aucs": aucs, "chi2": chi2, "df": rank, "p": stats.chi2.sf(chi2, rank)}
    return values, cases.notes
