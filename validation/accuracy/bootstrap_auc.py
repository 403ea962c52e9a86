"""Resample cases to get an interval for an area under the ROC curve, thousands of times a second.

A resample is drawn as counts on the sorted cases, so that nothing is sorted twice. Each resample has its own
seed: the areas are the same whatever the number of threads or processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.accuracy.rank_kernels import bootstrap_areas, counted_area, counts_below
from voxtrial.validation.accuracy.scored_cases import scored_cases
from voxtrial.validation.bootstrap import stream
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Flags, Floats, Inputs, StatisticError, Tables, comparable, confidence

DEFAULT_RESAMPLES = 2000
DEFAULT_SEED = 20260101


def resampled_areas(
    positive: Floats,
    negative: Floats,
    resamples: int,
    generator: np.random.Generator,
    *,
    stratified: bool = True,
    threads: int | None = None,
) -> Floats:
    """Return the area under the ROC curve of each resample.

    Parameters
    ----------
    positive, negative
        Scores of both classes, at least one each.
    resamples
        Number of resamples.
    generator
        Gives each resample its seed.
    stratified
        Keep the class sizes; else resample over all cases, and a resample with one class only is NaN.
    threads
        Number of threads; by default the number of processors. The areas do not depend on it.
    """
    p, q = np.sort(positive), np.sort(negative)
    less, less_or_equal = counts_below(p, q)
    seeds = generator.integers(0, 2**64, resamples, dtype=np.uint64)
    threads = threads or os.cpu_count() or 1
    parts = np.array_split(seeds, min(threads, max(resamples, 1)))
    with ThreadPoolExecutor(threads) as pool:
        areas = pool.map(lambda part: bootstrap_areas(part, less, less_or_equal, q.size, stratified), parts)
        return np.concatenate(list(areas))


def resampled_areas_of_clusters(
    positive: Flags, score: Floats, cluster: NDArray[np.intp], resamples: int, generator: np.random.Generator
) -> Floats:
    """Return the area of each resample of whole clusters, NaN where it holds one class only.

    Parameters
    ----------
    positive, score
        (n,) class and score of each unit.
    cluster
        (n,) cluster as 0, 1, ...: all units of a patient come or stay away together.
    resamples, generator
        As for units.
    """
    order = np.lexsort((score, ~positive))
    n_positive = int(positive.sum())
    ranked = score[order]
    less, less_or_equal = counts_below(ranked[:n_positive], ranked[n_positive:])
    owner = cluster[order]
    clusters = int(cluster.max()) + 1
    running = np.empty(positive.size - n_positive + 1, dtype=np.int64)
    areas = np.empty(resamples)
    for b in range(resamples):
        drawn = np.bincount(generator.integers(0, clusters, clusters), minlength=clusters)
        areas[b] = counted_area(drawn.astype(np.uint16)[owner], less, less_or_equal, running)
    return areas


@statistic("bootstrap_auc", values=("auc", "ci_low", "ci_high", "se", "n_resamples"))
def bootstrap_auc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Give the area of ``score`` a percentile interval; ``resamples``, ``seed``, ``stratified`` by class.

    With ``cluster`` whole patients are resampled, which cannot keep the class sizes.
    """
    cluster = inputs.get("cluster")
    cases = scored_cases(tables, inputs, ["score"], also=[cluster] if cluster else [])
    positive, negative = cases.classes()
    resamples = int(inputs.get("resamples", DEFAULT_RESAMPLES))
    if resamples < 1:
        raise StatisticError(f"The number of resamples is {resamples}; it must be at least 1.")
    seed = int(inputs.get("seed", DEFAULT_SEED))
    stratified = bool(inputs.get("stratified", True))
    generator = stream(seed, "bootstrap_auc", str(inputs.get("score", "score")))
    if cluster:
        _, owner = np.unique(comparable(cases.frame[cluster].to_numpy()), return_inverse=True)
        areas = resampled_areas_of_clusters(cases.positive, cases.scores[:, 0], owner, resamples, generator)
    else:
        areas = resampled_areas(positive, negative, resamples, generator, stratified=stratified)
    unit = f"of whole {cluster}s" if cluster else "by class" if stratified else "over all cases"
    notes = [*cases.notes, f"{resamples} resamples, seed {seed}, {unit}"]
    kept = areas[np.isfinite(areas)]
    if kept.size < areas.size:
        notes.append(f"{areas.size - kept.size} resamples hold one class only and are left out")
    less, less_or_equal = counts_below(np.sort(positive), np.sort(negative))
    auc = float((less.sum() + less_or_equal.sum()) / (2 * positive.size * negative.size))
    values: dict[str, object] = {"auc": auc, "n_resamples": kept.size}
    if kept.size == 0 or kept.min() == kept.max():
        reason = Undefined("every resample has the same area: the interval would have no width")
        return values | dict.fromkeys(("ci_low", "ci_high", "se"), reason), notes
    tail = (1 - confidence(inputs)) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return values | {"ci_low": low, "ci_high": high, "se": kept.std(ddof=1)}, notes
