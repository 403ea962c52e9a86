"""Resample patients with named random streams, and read percentile and BCa intervals from the replicates.

A stream belongs to a seed and to names (case, metric, ...): whoever computes which number first, in how many
processes, the replicates of one number are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    confidence,
    parameter,
)

BLOCK = 1 << 22
"""Indices drawn at once: 32 MB, whatever the number of cases."""


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the random generator that belongs to a seed and a path of names.

    The names spawn a child of the seed's ``SeedSequence`` by their SHA-256, so the stream does not depend on
    how many others were spawned before.
    """
    digest = hashlib.sha256("\x1f".join(names).encode()).digest()
    key = np.frombuffer(digest, dtype=">u4").astype(np.uint32)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in key)))


def index_blocks(n: int, resamples: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield resamples of ``n`` cases with replacement as (rows, n) indices, in blocks of bounded memory."""
    rows = max(1, BLOCK // max(n, 1))
    for start in range(0, resamples, rows):
        yield generator.integers(n, size=(min(rows, resamples - start), n))


def replicate(
    estimate: Callable[[NDArray[np.int64]], float],
    n: int,
    resamples: int,
    generator: np.random.Generator,
) -> Floats:
    """Return the estimates of resampled cases; ``estimate`` takes the indices of one resample."""
    return np.array(
        [estimate(index) for block in index_blocks(n, resamples, generator) for index in block], dtype=float
    )


def percentile_interval(replicates: Floats, conf: float) -> tuple[object, object]:
    """Return the percentile interval, or why it does not exist."""
    return _quantiles(replicates, (1 - conf) / 2, (1 + conf) / 2)


def bca_interval(estimate: float, replicates: Floats, left_out: Floats, conf: float) -> tuple[object, object]:
    """Return the bias-corrected and accelerated interval, or why it does not exist.

    Parameters
    ----------
    left_out
        Estimates with each case (or cluster) left out in turn: their skewness is the acceleration.

    References
    ----------
    Efron B. J Am Stat Assoc 1987;82:171-185. doi:10.1080/01621459.1987.10478410.
    """
    below = float(np.mean(replicates < estimate) + np.mean(replicates == estimate) / 2)
    if not 0 < below < 1 or not np.isfinite(replicates).all():
        missing = Undefined("all replicates lie on one side of the estimate")
        return missing, missing
    bias = float(special.ndtri(below))
    deviation = left_out.mean() - left_out
    squares = float(deviation @ deviation)
    if not np.isfinite(squares):
        missing = Undefined("leaving a case out leaves no estimate")
        return missing, missing
    if squares == 0:
        missing = Undefined("leaving a case out does not change the estimate")
        return missing, missing
    acceleration = float(np.sum(deviation**3)) / (6 * squares**1.5)
    levels = []
    for z in special.ndtri([(1 - conf) / 2, (1 + conf) / 2]):
        shifted = bias + z
        levels.append(float(special.ndtr(bias + shifted / (1 - acceleration * shifted))))
    return _quantiles(replicates, levels[0], levels[1])


def _quantiles(replicates: Floats, low: float, high: float) -> tuple[object, object]:
    lost = int(np.count_nonzero(~np.isfinite(replicates)))
    if lost:
        missing = Undefined(f"{lost} of {replicates.size} resamples have no estimate")
        return missing, missing
    if np.ptp(replicates) == 0:
        missing = Undefined("all resamples give the same estimate")
        return missing, missing
    bounds = np.quantile(replicates, [low, high], method="weibull")
    return float(bounds[0]), float(bounds[1])


@statistic("bootstrap_bca", values=("n", "estimate", "bca_low", "bca_high", "perc_low", "perc_high"))
def bootstrap_bca(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return percentile and BCa intervals of a mean, or of a ratio of means.

    Inputs: ``numerator``, ``denominator`` (columns of ``wide``; without a denominator the mean of the
    numerator), ``cluster`` (column: patients of whom several rows are resampled together), ``resamples``
    (default 20,000), ``seed`` (default 0), ``conf``. The result depends on the seed alone.
    """
    names = [str(parameter(inputs, "numerator"))]
    names += [str(inputs["denominator"])] if "denominator" in inputs else []
    rows = complete(tables, "wide", names + ([str(inputs["cluster"])] if "cluster" in inputs else []))
    sums = rows.matrix(names)
    if len(names) == 1:
        sums = np.column_stack([sums, np.ones(len(sums))])
    if "cluster" in inputs:
        _, cluster = np.unique(rows.labels(str(inputs["cluster"])), return_inverse=True)
        sums = np.column_stack([np.bincount(cluster, column) for column in sums.T])
    resamples = int(inputs.get("resamples", 20_000))
    if resamples < 100:
        raise StatisticError(f"resamples is {resamples}; an interval needs at least 100.")
    n = len(sums)
    if n < 2:
        raise Undefined(f"{n} independent units: at least two are needed")
    total = sums.sum(axis=0)
    if total[1] == 0:
        raise Undefined("the denominator is zero")
    generator = stream(int(inputs.get("seed", 0)), "bootstrap_bca", *names)
    drawn = np.concatenate([sums[block].sum(axis=1) for block in index_blocks(n, resamples, generator)])
    estimate = float(total[0] / total[1])
    replicates = np.asarray(drawn[:, 0] / drawn[:, 1])
    left_out = (total[0] - sums[:, 0]) / (total[1] - sums[:, 1])
    conf = confidence(inputs)
    bca_low, bca_high = bca_interval(estimate, replicates, left_out, conf)
    perc_low, perc_high = percentile_interval(replicates, conf)
    return {
        "n": n,
        "estimate": estimate,
        "bca_low": bca_low,
        "bca_high": bca_high,
        "perc_low": perc_low,
        "perc_high": perc_high,
    }, rows.notes
