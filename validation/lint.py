"""Warn where a report uses a number in a way that misleads.

A row of a report is a plain mapping; ``id`` and ``metric`` are needed, other keys sharpen the check:

=========================  ==========================================================================
``n``, ``ci``, ``sd``      units behind the number, its interval (low, high), its spread
``group``                  what rows are judged together by (endpoint, label, subgroup); default: all
``aggregate``              "mean" or "median" when the number averages several cases
``n_undefined``            cases whose value does not exist and is not in the average
``n_empty``, ``empty_as``  cases with both masks empty, and what they count as (1, 0 or None: left out)
``unit``                   unit of analysis: "patient", "image", "lesion"
``clusters``               patients behind the units, when there are fewer than units
``clustered_ci``           whether the interval accounts for that
``prevalence``             share of positives in the data
``intended_prevalence``    share of positives where the device will be used
``structure_voxels``       typical size of the segmented structure
``spacing_mm``             voxel spacing that a volume or distance was computed with
=========================  ==========================================================================

The rules are the pitfalls of Reinke A et al. Nat Methods 2024;21:182-194, doi:10.1038/s41592-023-02150-0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rule = Callable[[Sequence[Row]], Iterator["Misuse"]]

OVERLAP = ("dice", "jaccard", "f1_lesion")
DISTANCES = ("hd", "hd95", "assd", "masd", "nsd", "surface_distance")
PHYSICAL = (*DISTANCES, "volume", "relative_volume_error", "diameter")
TINY_VOXELS = 100
BALANCED = (0.2, 0.8)
SAME_PREVALENCE = 1.25
"""Prevalences within this ratio of each other count as the same."""


@dataclass(frozen=True, kw_only=True)
class Misuse:
    """One warning: the stable name of the rule, the row, and what to print instead."""

    rule: str
    row: str
    message: str


def check(rows: Iterable[Row]) -> list[Misuse]:
    """Return the warnings for the rows of a report, rule by rule in the order of the rows."""
    listed = list(rows)
    return [misuse for rule in RULES for misuse in rule(listed)]


def _is(row: Row, *families: str) -> bool:
    """Whether the metric is one of the families: "hd95_surfel" is hd95, "hd" is not."""
    metric = str(row["metric"]).lower()
    return any(metric == family or metric.startswith(f"{family}_") for family in families)


def _warn(rule: str, row: Row, message: str) -> Misuse:
    return Misuse(rule=rule, row=str(row["id"]), message=message)


def _groups(rows: Sequence[Row]) -> dict[object, list[Row]]:
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get("group"), []).append(row)
    return groups


def number_without_n(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag a number that does not say how many units are behind it."""
    for row in rows:
        if row.get("n") is None:
            yield _warn("number_without_n", row, "Say how many units are behind the number.")


def number_without_interval(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag an estimate without interval, and an interval of zero width."""
    for row in rows:
        ci = row.get("ci")
        if ci is None or any(limit is None for limit in ci):
            yield _warn("number_without_interval", row, "Give a confidence interval and its method.")
        elif ci[0] == ci[1]:
            yield _warn("interval_of_zero_width", row, "Use an exact or transformed interval at 0 and 1.")


def mean_without_spread(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag an average that hides how far the cases lie apart."""
    for row in rows:
        if row.get("aggregate") == "mean" and row.get("sd") is None:
            yield _warn("mean_without_spread", row, "Give the SD, the quartiles or the plot of all cases.")


def overlap_of_tiny_structures(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag Dice where one voxel more or less decides it."""
    for row in rows:
        size = row.get("structure_voxels")
        if _is(row, *OVERLAP) and size is not None and size < TINY_VOXELS:
            message = (
                f"At {size:g} voxels one voxel moves {row['metric']} far: add surface Dice and lesion hits."
            )
            yield _warn("overlap_of_tiny_structures", row, message)


def hausdorff_without_percentile(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag a Hausdorff distance that a single stray voxel decides."""
    for group in _groups(rows).values():
        if not any(_is(row, "hd95") for row in group):
            for row in group:
                if _is(row, "hd"):
                    message = "One stray voxel decides HD: print HD95 beside it, and name its definition."
                    yield _warn("hausdorff_without_percentile", row, message)


def overlap_without_boundary(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag a segmentation judged by overlap alone."""
    for group in _groups(rows).values():
        if not any(_is(row, *DISTANCES) for row in group):
            for row in group:
                if _is(row, "dice", "jaccard"):
                    message = "Overlap does not see the shape of the boundary: add HD95 or surface Dice."
                    yield _warn("overlap_without_boundary", row, message)


def accuracy_under_imbalance(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag accuracy where calling every case the frequent class does well."""
    for row in rows:
        prevalence = row.get("prevalence")
        if not _is(row, "accuracy") or prevalence is None:
            continue
        if not BALANCED[0] <= prevalence <= BALANCED[1]:
            baseline = max(prevalence, 1 - prevalence)
            message = f"Calling every case alike reaches {baseline:.0%}: give sensitivity and specificity."
            yield _warn("accuracy_under_imbalance", row, message)


def area_without_operating_point(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag an AUC that no threshold result stands beside."""
    for group in _groups(rows).values():
        if not any(_is(row, "sensitivity", "specificity", "operating_point") for row in group):
            for row in group:
                if _is(row, "auc", "roc_auc"):
                    message = "A device works at a threshold: add sensitivity and specificity at it."
                    yield _warn("area_without_operating_point", row, message)


def predictive_value_at_another_prevalence(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag predictive values and F1 that were computed, or are compared, at unlike prevalences."""
    dependent = [row for row in rows if _is(row, "ppv", "npv", "precision", "f1")]
    for row in dependent:
        here, there = row.get("prevalence"), row.get("intended_prevalence")
        if here and there and _unlike(here, there):
            message = f"Measured at a prevalence of {here:.0%}, used at {there:.0%}: recompute for the use."
            yield _warn("predictive_value_at_another_prevalence", row, message)
    by_metric: dict[str, list[Row]] = {}
    for row in dependent:
        if row.get("prevalence"):
            by_metric.setdefault(str(row["metric"]), []).append(row)
    for same in by_metric.values():
        for row in same[1:]:
            if _unlike(row["prevalence"], same[0]["prevalence"]):
                message = f"Not comparable with {same[0]['id']}: the prevalences differ."
                yield _warn("predictive_values_compared_across_prevalences", row, message)


def _unlike(a: float, b: float) -> bool:
    return max(a, b) > SAME_PREVALENCE * min(a, b)


def average_that_drops_cases(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag an average over only those cases where the value exists."""
    for row in rows:
        if row.get("aggregate") and row.get("n_undefined"):
            message = f"{row['n_undefined']} cases have no value and are left out: print how they count."
            yield _warn("average_that_drops_cases", row, message)


def empty_counted_as_agreement(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag a mean that two empty masks lift towards 1."""
    for row in rows:
        if row.get("aggregate") and row.get("n_empty") and row.get("empty_as") == 1:
            message = f"{row['n_empty']} cases with both masks empty count as 1: report them as detection."
            yield _warn("empty_counted_as_agreement", row, message)


def clusters_taken_as_independent(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag images or lesions of one patient that are averaged as if they were patients."""
    for row in rows:
        clusters, n = row.get("clusters"), row.get("n")
        if clusters is not None and n is not None and clusters < n and not row.get("clustered_ci"):
            message = f"{n} units come from {clusters} patients: use a clustered interval."
            yield _warn("clusters_taken_as_independent", row, message)


def spacing_ignored(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag a length or volume that does not say in which spacing it was measured."""
    for row in rows:
        if _is(row, *PHYSICAL) and row.get("spacing_mm") is None:
            yield _warn("spacing_ignored", row, "State the voxel spacing that the number was computed with.")


def correlation_alone(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag an ICC, CCC or correlation without the size of the disagreement in units of the measurand."""
    absolute = ("bias", "loa", "wsd", "rc", "rdc", "wcv", "bland_altman", "repeatability")
    for group in _groups(rows).values():
        if not any(_is(row, *absolute) for row in group):
            for row in group:
                if _is(row, "icc", "icc1", "icc2", "icc3", "ccc", "lin_ccc", "pearson", "r_squared"):
                    message = "It grows with the spread of the patients: add wSD or limits of agreement."
                    yield _warn("correlation_alone", row, message)


def reclassification_without_calibration(rows: Sequence[Row]) -> Iterator[Misuse]:
    """Flag an NRI, which a badly calibrated model can improve."""
    for group in _groups(rows).values():
        if not any(_is(row, "calibration", "brier") for row in group):
            for row in group:
                if _is(row, "nri", "reclassification"):
                    message = "NRI can rise with a miscalibrated model: print calibration beside it."
                    yield _warn("reclassification_without_calibration", row, message)


RULES: tuple[Rule, ...] = (
    number_without_n,
    number_without_interval,
    mean_without_spread,
    overlap_of_tiny_structures,
    hausdorff_without_percentile,
    overlap_without_boundary,
    accuracy_under_imbalance,
    area_without_operating_point,
    predictive_value_at_another_prevalence,
    average_that_drops_cases,
    empty_counted_as_agreement,
    clusters_taken_as_independent,
    spacing_ignored,
    correlation_alone,
    reclassification_without_calibration,
)
