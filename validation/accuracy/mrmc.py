"""Analyse a fully crossed multi-reader multi-case study by the method of Obuchowski and Rockette.

Every reader reads every case under every treatment. One number for each treatment and reader (an area, or a
sensitivity or specificity at a threshold) and the covariance of these numbers over cases are all that is
needed; with the jackknife covariance the method is that of Dorfman, Berbaum and Metz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voxtrial.validation.accuracy.delong import placements
from voxtrial.validation.accuracy.obuchowski_rockette import ReaderSummary, covariance_means, inference
from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.accuracy.scored_cases import binary, require_both_classes
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    confidence,
    parameter,
)

METRICS = ("empirical_auc", "sensitivity", "specificity")
COVARIANCES = ("DeLong", "jackknife", "unbiased")
KERNEL_ELEMENTS = 2_000_000
"""Elements of the comparison kernel held at once: memory stays flat however many cases there are."""


@dataclass(frozen=True, kw_only=True)
class ReaderStudy:
    """A fully crossed reading study.

    Parameters
    ----------
    treatments, readers
        Labels, ascending.
    positive
        (cases,) true class.
    ratings
        (treatments, readers, cases).
    notes
        What was left out.
    """

    treatments: tuple[object, ...]
    readers: tuple[object, ...]
    positive: Flags
    ratings: Floats
    notes: tuple[str, ...]


def reader_study(tables: Tables, inputs: Inputs) -> ReaderStudy:
    """Read a long table with ``truth``, ``rating``, ``treatment``, ``reader`` and ``case``.

    Cases without a rating of every reader under every treatment are left out, and counted in a note.
    """
    names = [parameter(inputs, name) for name in ("treatment", "reader", "case", "truth", "rating")]
    rows = complete(tables, "long", names)
    if rows.frame.empty:
        raise Undefined("there is no rating")
    treatment, reader, case, truth, rating = names
    frame = rows.frame.assign(**{name: rows.labels(name) for name in (treatment, reader, case)})
    if frame.duplicated([treatment, reader, case]).any():
        raise StatisticError("A reader rated a case twice under one treatment; one rating each is needed.")
    flags = frame.assign(positive=binary(rows, truth, inputs.get("positive")))
    if (flags.groupby(case)["positive"].nunique() > 1).any():
        raise StatisticError("A case is positive in one row and negative in another.")
    rated = frame.assign(rating_=rows.numbers(rating)).pivot_table(
        index=case, columns=[treatment, reader], values="rating_", aggfunc="first"
    )
    treatments, readers = (tuple(np.unique(frame[name].to_numpy())) for name in (treatment, reader))
    full = rated.reindex(columns=[(t, r) for t in treatments for r in readers]).dropna()
    left_out = len(rated) - len(full)
    notes = [*rows.notes]
    if left_out:
        notes.append(
            f"{left_out} of {len(rated)} cases left out: not read by all readers under all treatments"
        )
    positive = flags.groupby(case)["positive"].first().reindex(full.index).to_numpy(dtype=bool)
    require_both_classes(positive)
    shape = (len(treatments), len(readers), len(full))
    return ReaderStudy(
        treatments=treatments,
        readers=readers,
        positive=positive,
        ratings=full.to_numpy(dtype=float).T.reshape(shape),
        notes=tuple(notes),
    )


def components(
    positive: Flags, ratings: Floats, metric: str, threshold: float | None
) -> tuple[Floats, Floats]:
    """Return the structural components (K, positives) and (K, negatives) of K rating columns.

    For a sensitivity the negative cases carry no spread, for a specificity the positive ones: their
    components are constant.
    """
    if metric == "empirical_auc":
        pairs = [placements(rating[positive], rating[~positive]) for rating in ratings]
        return np.array([v10 for v10, _ in pairs]), np.array([v01 for _, v01 in pairs])
    if threshold is None:
        raise StatisticError(f"The metric {metric!r} needs a 'threshold' of the rating.")
    called = ratings >= threshold
    if metric == "sensitivity":
        hits = called[:, positive].astype(float)
        return hits, np.repeat(hits.mean(axis=1, keepdims=True), (~positive).sum(), axis=1)
    rejected = (~called[:, ~positive]).astype(float)
    return np.repeat(rejected.mean(axis=1, keepdims=True), positive.sum(), axis=1), rejected


def delong_covariance(v10: Floats, v01: Floats) -> Floats:
    """Return the (K, K) covariance of the estimates from their components."""
    return np.atleast_2d(np.cov(v10) / v10.shape[1] + np.cov(v01) / v01.shape[1])


def jackknife_covariance(v10: Floats, v01: Floats) -> Floats:
    """Return the (K, K) jackknife covariance over all cases; leaving a case out has a closed form."""
    theta = v10.mean(axis=1, keepdims=True)
    m, n = v10.shape[1], v01.shape[1]
    without = np.hstack([(m * theta - v10) / (m - 1), (n * theta - v01) / (n - 1)])
    return np.asarray(np.atleast_2d(np.cov(without)) * (m + n - 1) ** 2 / (m + n))


def unbiased_covariance(positive: Flags, ratings: Floats) -> Floats:
    """Return the (K, K) unbiased covariance of areas by the moments of the comparison kernel.

    References
    ----------
    Gallas BD. One-shot estimate of MRMC variance: AUC. Acad Radiol 2006;13:353-362.
    doi:10.1016/j.acra.2005.11.030.
    """
    above, below = ratings[:, positive], ratings[:, ~positive]
    curves, m = above.shape
    n = below.shape[1]
    same_pair = np.zeros((curves, curves))
    by_positive = np.zeros((curves, curves))
    columns = np.zeros((curves, n))
    step = max(1, KERNEL_ELEMENTS // (curves * n))
    for start in range(0, m, step):
        block = above[:, start : start + step, None]
        kernel = (block > below[:, None, :]) + 0.5 * (block == below[:, None, :])
        flat = kernel.reshape(curves, -1)
        same_pair += flat @ flat.T
        rows = kernel.sum(axis=2)
        by_positive += rows @ rows.T
        columns += kernel.sum(axis=1)
    total = columns.sum(axis=1)
    by_negative = columns @ columns.T
    first = same_pair / (m * n)
    second = (by_positive - same_pair) / (m * n * (n - 1))
    third = (by_negative - same_pair) / (m * n * (m - 1))
    fourth = (np.outer(total, total) - by_positive - by_negative + same_pair) / (m * n * (m - 1) * (n - 1))
    square = first + (n - 1) * second + (m - 1) * third + (m - 1) * (n - 1) * fourth
    return np.asarray(square / (m * n) - fourth)


@statistic(
    "mrmc_obuchowski_rockette",
    values=[
        f"{target}_{name}"
        for target in ("rrrc", "rrfc", "frrc")
        for name in ("diff_estimate", "diff_ci", "diff_p_value", "mean_estimate", "mean_ci")
    ],
)
def mrmc_obuchowski_rockette(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare treatments over readers and cases; ``metric``, ``covariance``, ``threshold`` of a binary one.

    The three inference targets are RRRC (random readers, random cases), FRRC (fixed readers) and RRFC (fixed
    cases). Differences are first minus second treatment; with more than two treatments they are lists over
    the pairs in order. Interval lists hold all lower limits, then all upper ones.

    References
    ----------
    Obuchowski NA, Rockette HE. Commun Stat Simul Comput 1995;24:285-308. doi:10.1080/03610919508813243.
    Hillis SL. Stat Med 2007;26:596-619. doi:10.1002/sim.2532.
    """
    metric, method = str(inputs.get("metric", METRICS[0])), str(inputs.get("covariance", COVARIANCES[0]))
    for value, known in ((metric, METRICS), (method, COVARIANCES)):
        if value not in known:
            raise StatisticError(f"{value!r} is not known here; known are {', '.join(known)}.")
    study = reader_study(tables, inputs)
    n_treatments, n_readers, n_cases = study.ratings.shape
    ratings = study.ratings.reshape(n_treatments * n_readers, n_cases)
    v10, v01 = components(study.positive, ratings, metric, inputs.get("threshold"))
    if min(v10.shape[1], v01.shape[1]) < 2:
        raise Undefined("a class has one case: its spread is unknown")
    if method == "jackknife":
        covariance = jackknife_covariance(v10, v01)
    elif method == "unbiased" and metric == "empirical_auc":
        covariance = unbiased_covariance(study.positive, ratings)
    else:
        covariance = delong_covariance(v10, v01)
    summary = ReaderSummary(
        estimates=v10.mean(axis=1).reshape(n_treatments, n_readers),
        covariance=covariance_means(covariance, n_treatments, n_readers),
    )
    notes = [*study.notes, f"{metric}, covariance by {method}"]
    if method == "unbiased" and metric != "empirical_auc":
        notes.append("of a proportion the unbiased covariance is DeLong's")
    values = inference(summary, confidence(inputs))
    return values | _by_reader(summary.estimates, covariance, confidence(inputs)), notes


def _by_reader(estimates: Floats, covariance: Floats, level: float) -> dict[str, object]:
    """Return each reader's estimate and interval, a list for each treatment."""
    spread = np.sqrt(np.diag(covariance)).reshape(estimates.shape)
    half = normal_quantile(level) * spread
    flat = Undefined("the reader separates the cases, or rates all alike: no spread")
    values: dict[str, object] = {"reader_estimates": estimates.tolist()}
    for end, bounds in (("low", estimates - half), ("high", estimates + half)):
        clipped = np.clip(bounds, 0.0, 1.0)
        values[f"reader_ci_{end}"] = [
            [bound if s > 1e-12 else flat for bound, s in zip(row, own, strict=True)]
            for row, own in zip(clipped, spread, strict=True)
        ]
    return values
