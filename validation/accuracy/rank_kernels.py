"""Count pairs of ranked values in one pass: placements, bootstrap areas, concordance.

All kernels are compiled, keep no pair matrix, release the interpreter lock and take sorted or ranked arrays,
so that the statistics above them stay in numpy. A result never depends on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.compiled import compiled
from voxtrial.validation.tables import Floats

Integers = NDArray[np.int64]


@compiled
def counts_below(values: Floats, others: Floats) -> tuple[Integers, Integers]:
    """Count for each ascending value the ascending others that are less, and that are less or equal."""
    less = np.empty(values.size, np.int64)
    less_or_equal = np.empty(values.size, np.int64)
    i = 0
    j = 0
    for k in range(values.size):
        while i < others.size and others[i] < values[k]:
            i += 1
        j = max(i, j)
        while j < others.size and others[j] <= values[k]:
            j += 1
        less[k] = i
        less_or_equal[k] = j
    return less, less_or_equal


@compiled
def placement_sums(values: Floats, others: Floats) -> tuple[float, float]:
    """Return sum and sum of squares of the doubled placements of ``values`` among ``others``, both ascending.

    The doubled placement is the number of others that are less plus the number that are less or equal: a
    whole number, so that both sums are exact up to 2**53 and do not depend on the order of the cases.
    """
    total = 0.0
    squares = 0.0
    i = 0
    j = 0
    for k in range(values.size):
        while i < others.size and others[i] < values[k]:
            i += 1
        j = max(i, j)
        while j < others.size and others[j] <= values[k]:
            j += 1
        doubled = float(i + j)
        total += doubled
        squares += doubled * doubled
    return total, squares


@compiled
def bootstrap_areas(
    seeds: NDArray[np.uint64], less: Integers, less_or_equal: Integers, n_negative: int, stratified: bool
) -> Floats:
    """Return one area under the ROC curve for each seed, NaN where a resample holds one class only.

    Parameters
    ----------
    seeds
        State of the SplitMix64 generator of each resample.
    less, less_or_equal
        For each positive case in ascending order, the number of negative cases below it and up to it.
    n_negative
        Number of negative cases.
    stratified
        Resample within the classes, else over all cases.

    Notes
    -----
    A resample is kept as one counter for each case in score order: drawing is n increments, the area one
    running sum. Two 32-bit draws come from one state; Lemire's rejection keeps them exactly uniform.

    References
    ----------
    Steele GL, Lea D, Flood CH. Fast splittable pseudorandom number generators. OOPSLA 2014.
    doi:10.1145/2660193.2660195.
    Lemire D. Fast random integer generation in an interval. ACM TOMACS 2019;29:3. doi:10.1145/3230636.
    """
    n_positive = less.size
    n_cases = n_positive + n_negative
    areas = np.empty(seeds.size, np.float64)
    counter = np.empty(n_cases, np.uint16)
    running = np.empty(n_negative + 1, np.int64)
    for b in range(seeds.size):
        state = seeds[b]
        counter[:] = 0
        for part in range(2 if stratified else 1):
            offset = n_positive * part
            size = np.uint64(n_cases)
            if stratified:
                size = np.uint64(n_negative) if part == 1 else np.uint64(n_positive)
            biased = (np.uint64(1) << np.uint64(32)) % size
            remaining = int(size)
            while remaining > 0:
                state += np.uint64(0x9E3779B97F4A7C15)
                z = state
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z ^= z >> np.uint64(31)
                low = (z & np.uint64(0xFFFFFFFF)) * size
                if (low & np.uint64(0xFFFFFFFF)) >= biased:
                    counter[offset + int(low >> np.uint64(32))] += np.uint16(1)
                    remaining -= 1
                high = (z >> np.uint64(32)) * size
                if remaining > 0 and (high & np.uint64(0xFFFFFFFF)) >= biased:
                    counter[offset + int(high >> np.uint64(32))] += np.uint16(1)
                    remaining -= 1
        areas[b] = counted_area(counter, less, less_or_equal, running)
    return areas


@compiled
def counted_area(
    counter: NDArray[np.uint16], less: Integers, less_or_equal: Integers, running: Integers
) -> float:
    """Return the area of cases that count several times or not at all, NaN when a class is empty.

    Parameters
    ----------
    counter
        How often each case counts: the positive cases ascending, then the negative ones ascending.
    less, less_or_equal
        For each positive case the number of negative cases below it and up to it.
    running
        Scratch, one longer than the negative cases.
    """
    total = np.int64(0)
    for j in range(running.size - 1):
        running[j] = total
        total += counter[less.size + j]
    running[running.size - 1] = total
    positives = np.int64(0)
    doubled = np.int64(0)
    for i in range(less.size):
        weight = np.int64(counter[i])
        positives += weight
        doubled += weight * (running[less[i]] + running[less_or_equal[i]])
    pairs = 2.0 * positives * total
    return doubled / pairs if pairs > 0 else np.nan


@compiled
def concordance_counts(
    last: Integers, case_weight: Floats, at_risk: NDArray[np.bool_], score: Integers, n_scores: int
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Count comparable pairs (i, j) of a case i and a partner j that stands later in the order.

    Parameters
    ----------
    last
        Position behind the last one that is not a partner: partners of case i are the positions
        ``last[i]`` and later, as far as ``at_risk``.
    case_weight
        Weight of the case; 0 for positions that are no case (censored, or past the horizon).
    at_risk
        Positions that may be a partner.
    score
        Rank of the risk score, 0 to ``n_scores`` - 1; a higher rank predicts an earlier event.

    Returns
    -------
    tuple
        For each position as a case: number of partners with a lower, an equal and a higher score; for each
        position as a partner: weight of its cases with a higher, an equal and a lower score.
    """
    n = last.size
    below, equal, above = np.zeros(n), np.zeros(n), np.zeros(n)
    higher, same, lower = np.zeros(n), np.zeros(n), np.zeros(n)
    tree = np.zeros(n_scores + 1)
    count = np.zeros(n_scores)
    entered = n
    for i in range(n - 1, -1, -1):
        while entered > last[i]:
            entered -= 1
            if at_risk[entered]:
                count[score[entered]] += 1.0
                _add(tree, score[entered], 1.0)
        if case_weight[i] > 0:
            under = _sum_below(tree, score[i])
            below[i] = under
            equal[i] = count[score[i]]
            above[i] = _sum_below(tree, n_scores) - under - count[score[i]]
    tree[:] = 0.0
    count[:] = 0.0
    entered = 0
    for j in range(n):
        while entered < n and last[entered] <= j:
            if case_weight[entered] > 0:
                count[score[entered]] += case_weight[entered]
                _add(tree, score[entered], case_weight[entered])
            entered += 1
        if at_risk[j]:
            under = _sum_below(tree, score[j])
            lower[j] = under
            same[j] = count[score[j]]
            higher[j] = _sum_below(tree, n_scores) - under - count[score[j]]
    return below, equal, above, higher, same, lower


@compiled
def _add(tree: Floats, position: int, weight: float) -> None:
    """Add a weight to a Fenwick tree."""
    k = position + 1
    while k < tree.size:
        tree[k] += weight
        k += k & -k


@compiled
def _sum_below(tree: Floats, position: int) -> float:
    """Return the sum of the weights at positions less than ``position``."""
    total = 0.0
    k = position
    while k > 0:
        total += tree[k]
        k -= k & -k
    return total
