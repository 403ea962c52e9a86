"""Score marks on images: FROC figures of merit with intervals, and their comparison over readers and cases.

Every figure of merit is a ratio of sums over diseased cases and, seen from the other side, a mean over
non-diseased ones; leaving a case out therefore has a closed form, and the jackknife costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from voxtrial.validation.accuracy.delong import placements
from voxtrial.validation.accuracy.obuchowski_rockette import ReaderSummary, covariance_means, inference
from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    columns,
    comparable,
    confidence,
    vector,
)

FIGURES = ("AFROC", "wAFROC", "HrAuc", "MaxLLF")

LARGEST_LESIONS = 10_000
"""Lesions of one case beyond which the table is mistaken."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one reader marked under one modality.

    Parameters
    ----------
    highest_false
        (cases,) highest rating of a mark that hits no lesion, -inf where there is none.
    lesion
        (lesions,) highest rating of a mark on each lesion, -inf where unmarked.
    """

    highest_false: Floats
    lesion: Floats


@dataclass(frozen=True, kw_only=True)
class CaseSet:
    """The truth of an FROC study.

    Parameters
    ----------
    diseased
        (cases,) whether a case holds a lesion.
    lesion_case
        (lesions,) index of the case of each lesion.
    n_lesions
        (cases,) number of lesions.
    """

    diseased: NDArray[np.bool_]
    lesion_case: NDArray[np.intp]
    n_lesions: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Merit:
    """A figure of merit and its value with each case left out: diseased cases first."""

    value: float
    without: Floats


def _share_above(ratings: Floats, weights: Floats, others: Floats) -> Floats:
    """Return for each of the others the weight of ratings above it, ties half, over all weight."""
    order = np.argsort(ratings)
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    ranked = ratings[order]
    up_to = (
        sums[np.searchsorted(ranked, others, "left")] + sums[np.searchsorted(ranked, others, "right")]
    ) / 2
    return np.asarray(1 - up_to / sums[-1])


def _summed(values: Floats, index: NDArray[np.intp], size: int) -> Floats:
    return np.asarray(np.bincount(index, weights=values, minlength=size), dtype=np.float64)


def figure_of_merit(reading: Reading, cases: CaseSet, figure: str) -> Merit:
    """Return one figure of merit of one reader.

    Parameters
    ----------
    reading
        The marks.
    cases
        The truth; at least one diseased and one non-diseased case.
    figure
        ``AFROC``: lesions against the highest false mark of non-diseased cases. ``wAFROC``: the same, the
        lesions of a case sharing a weight of 1. ``HrAuc``: ROC area of the highest rating of each case.
        ``MaxLLF``: fraction of lesions marked.

    References
    ----------
    Chakraborty DP. Observer Performance Methods for Diagnostic Imaging. CRC Press 2017, ch. 14.
    """
    false = reading.highest_false[~cases.diseased]
    row = np.cumsum(cases.diseased) - 1
    diseased = int(cases.diseased.sum())
    if figure == "HrAuc":
        lesion = np.full(cases.diseased.size, -np.inf)
        np.maximum.at(lesion, cases.lesion_case, reading.lesion)
        highest = np.maximum(lesion, reading.highest_false)
        top, negatives = placements(highest[cases.diseased], highest[~cases.diseased])
        bottom: Floats = np.ones(diseased)
    else:
        shared = cases.n_lesions[cases.lesion_case] if figure == "wAFROC" else np.ones(reading.lesion.size)
        per_lesion: Floats = 1.0 / shared
        index = row[cases.lesion_case]
        bottom = _summed(per_lesion, index, diseased)
        if figure == "MaxLLF":
            hit = np.isfinite(reading.lesion).astype(float)
            negatives = np.full(false.size, hit.sum() / bottom.sum())
        else:
            hit, _ = placements(reading.lesion, false)
            negatives = _share_above(reading.lesion, per_lesion, false)
        top = _summed(hit * per_lesion, index, diseased)
    value = float(top.sum() / bottom.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        without_diseased = (top.sum() - top) / (bottom.sum() - bottom)
        without_healthy = (false.size * value - negatives) / (false.size - 1)
    return Merit(value=value, without=np.concatenate([without_diseased, without_healthy]))


def read_study(tables: Tables, inputs: Inputs) -> tuple[CaseSet, dict[tuple[object, object], Reading]]:
    """Read the tables ``cases`` (case, diseased, n_lesions) and ``marks``.

    A mark has modality, reader, case, kind (LL on a lesion, NL elsewhere), lesion and rating; an absent mark
    counts as a rating of -infinity. Several marks on one lesion count as the highest of them.
    """
    truth = columns(tables, "cases", ["case", "diseased", "n_lesions"])
    marks = columns(tables, "marks", ["modality", "reader", "case", "kind", "lesion", "rating"])
    if truth["case"].duplicated().any():
        raise StatisticError("A case stands twice in the table of cases.")
    if not set(marks["kind"]) <= {"NL", "LL"}:
        raise StatisticError(f"The kind of a mark is LL or NL; found {sorted(map(str, set(marks['kind'])))}.")
    if not marks["case"].isin(truth["case"]).all():
        raise StatisticError("A mark lies on a case that the table of cases does not list.")
    lesions = vector(truth["n_lesions"].tolist(), "n_lesions")
    if not ((lesions >= 0) & (lesions == np.round(lesions)) & (lesions <= LARGEST_LESIONS)).all():
        raise StatisticError(f"The number of lesions of a case is whole, from 0 to {LARGEST_LESIONS}.")
    n_lesions = lesions.astype(np.intp)
    diseased = vector(truth["diseased"].tolist(), "diseased") == 1
    if ((n_lesions > 0) != diseased).any():
        raise StatisticError("A case is diseased exactly when it holds a lesion; the table says otherwise.")
    cases = CaseSet(
        diseased=diseased, lesion_case=np.repeat(np.arange(len(truth)), n_lesions), n_lesions=n_lesions
    )
    first = np.concatenate([[0], np.cumsum(n_lesions)])[:-1]
    position = pd.Series(np.arange(len(truth)), index=truth["case"])
    numbers = {name: vector(marks[name].tolist(), name) for name in ("rating", "lesion")}
    if np.isnan(numbers["rating"]).any():
        raise StatisticError("A mark has no rating; a place that was not marked is not listed.")
    labels = {name: comparable(marks[name].to_numpy()) for name in ("modality", "reader")}
    marks = marks.assign(**numbers, **labels)
    modalities = list(inputs.get("modalities") or np.unique(labels["modality"]))
    readers = list(inputs.get("readers") or np.unique(labels["reader"]))
    readings = {}
    for modality in modalities:
        for reader in readers:
            own = marks[(marks["modality"] == modality) & (marks["reader"] == reader)]
            false = np.full(len(truth), -np.inf)
            lesion = np.full(cases.lesion_case.size, -np.inf)
            elsewhere, on_lesion = own[own["kind"] == "NL"], own[own["kind"] == "LL"]
            np.maximum.at(false, position[elsewhere["case"]].to_numpy(), elsewhere["rating"].to_numpy())
            at = position[on_lesion["case"]].to_numpy()
            number = on_lesion["lesion"].to_numpy() - 1
            if not ((number >= 0) & (number < n_lesions[at])).all():
                raise StatisticError(
                    "A mark names a lesion that its case does not hold (lesions count from 1)."
                )
            np.maximum.at(lesion, first[at] + number.astype(int), on_lesion["rating"].to_numpy())
            readings[modality, reader] = Reading(highest_false=false, lesion=lesion)
    return cases, readings


@statistic("froc_jafroc", values=("rrrc_F", "rrrc_df1", "rrrc_df2", "rrrc_p", "rrrc_diff", "rrrc_diff_se"))
def froc_jafroc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Score readers and compare ``modalities`` by the jackknife and random readers, random cases.

    ``fom`` lists the figures of merit (all four); ``compare`` names the one that the test uses (wAFROC).
    Vectors are modality-major with the readers within; differences are first minus second modality.

    References
    ----------
    Chakraborty DP, Berbaum KS. Med Phys 2004;31:2313-2330. doi:10.1118/1.1769352.
    """
    figures = list(inputs.get("fom", FIGURES))
    compared = str(inputs.get("compare", "wAFROC" if "wAFROC" in figures else figures[0]))
    for figure in (*figures, compared):
        if figure not in FIGURES:
            raise StatisticError(f"There is no figure of merit {figure!r}; known are {', '.join(FIGURES)}.")
    level = confidence(inputs)
    cases, readings = read_study(tables, inputs)
    if not cases.diseased.any() or cases.diseased.all():
        raise Undefined("all cases are diseased, or none is")
    if not readings:
        raise Undefined("there is no mark of any reader")
    values: dict[str, object] = {}
    n = cases.diseased.size
    merits = {
        f: [figure_of_merit(reading, cases, f) for reading in readings.values()] for f in {*figures, compared}
    }
    z = normal_quantile(level)
    for figure in figures:
        found = np.array([merit.value for merit in merits[figure]])
        se = np.array([np.sqrt(merit.without.var(ddof=1) * (n - 1) ** 2 / n) for merit in merits[figure]])
        values |= {f"fom_{figure}": found, f"fom_{figure}_se": se}
        for end, sign in (("low", -1), ("high", 1)):
            values[f"fom_{figure}_ci_{end}"] = [
                m + sign * z * s
                if s > 1e-12
                else Undefined("the jackknife variance is 0, which is not certainty")
                for m, s in zip(found, se, strict=True)
            ]
    treatments = len({modality for modality, _ in readings})
    n_readers = len(readings) // treatments
    spread = np.cov([merit.without for merit in merits[compared]]) * (n - 1) ** 2 / n
    found = np.array([merit.value for merit in merits[compared]]).reshape(treatments, n_readers)
    means = covariance_means(np.atleast_2d(spread), treatments, n_readers)
    tested = inference(ReaderSummary(estimates=found, covariance=means), level)
    for name, source in (
        ("F", "test_f"),
        ("df1", "test_df1"),
        ("df2", "test_df2"),
        ("p", "test_p_value"),
        ("diff", "diff_estimate"),
        ("diff_se", "diff_stderr"),
        ("mean", "mean_estimate"),
        ("mean_ci", "mean_ci"),
    ):
        values[f"rrrc_{name}"] = tested[f"rrrc_{source}"]
    ends = tested["rrrc_diff_ci"]
    if isinstance(ends, list):
        half = len(ends) // 2
        low, high = (ends[0], ends[1]) if half == 1 else (ends[:half], ends[half:])
    else:
        low = high = ends
    values |= {"rrrc_ci_low": low, "rrrc_ci_high": high}
    return values, [f"modalities compared by {compared}"]
