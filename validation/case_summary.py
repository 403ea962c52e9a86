"""Centre and spread of a measure over cases, with every case accounted for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.bootstrap import bca_interval, index_blocks, stream
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, Tables, columns, complete, confidence, parameter

VALUES = (
    *("n", "n_undefined", "mean", "mean_ci_low", "mean_ci_high", "sd", "median", "median_ci_low"),
    *("median_ci_high", "q25", "q75", "minimum", "maximum"),
)


def median_interval(values: Floats, conf: float) -> tuple[object, object]:
    """Return the distribution-free interval of a median: the order statistics of a fair coin.

    References
    ----------
    Conover WJ. Practical Nonparametric Statistics, 3rd ed. 1999, section 3.2.
    """
    n = values.size
    rank = int(stats.binom.ppf((1 - conf) / 2, n, 0.5))
    if rank < 1:
        missing = Undefined(f"{n} cases are too few for an interval of the median")
        return missing, missing
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[n - rank])


@statistic("case_summary", values=VALUES)
def case_summary(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return mean, SD, median, quartiles and extremes of one measure, e.g. Dice or HD95, over cases.

    Inputs: ``value`` (column of ``wide``; an empty cell is a case where the measure does not exist),
    ``cluster`` (column: patients with several cases, resampled together), ``resamples`` (default 10,000),
    ``seed`` (default 0), ``conf``.

    Notes
    -----
    Cases without a value are counted in ``n_undefined`` and named in a note: the summary is of the others,
    and a report must say how the rest count. The mean has a BCa interval, the median one of order
    statistics, which clusters do not allow. Quartiles interpolate linearly.
    """
    name = str(parameter(inputs, "value"))
    cases = len(columns(tables, "wide", [name]))
    grouped = "cluster" in inputs
    rows = complete(tables, "wide", [name, *([str(inputs["cluster"])] if grouped else [])])
    values, conf = rows.numbers(name), confidence(inputs)
    n, undefined = values.size, cases - values.size
    if not n:
        raise Undefined(f"none of {cases} cases has a value")
    notes = [f"{undefined} of {cases} cases have no value and are not in the summary"] if undefined else []
    cluster = np.arange(n)
    if grouped:
        _, cluster = np.unique(rows.labels(str(inputs["cluster"])), return_inverse=True)
    one = Undefined("one case has no spread")
    median_low, median_high = median_interval(values, conf)
    if cluster.max() + 1 < n:
        median_low = median_high = Undefined(
            "several cases of one patient: order statistics need independence"
        )
    mean_low, mean_high = _interval_of_mean(values, cluster, inputs, conf)
    quartiles = np.quantile(values, [0.25, 0.5, 0.75])
    return {
        "n": n,
        "n_undefined": undefined,
        "n_clusters": int(cluster.max()) + 1,
        "mean": values.mean(),
        "mean_ci_low": mean_low,
        "mean_ci_high": mean_high,
        "sd": values.std(ddof=1) if n > 1 else one,
        "median": quartiles[1],
        "median_ci_low": median_low,
        "median_ci_high": median_high,
        "q25": quartiles[0],
        "q75": quartiles[2],
        "minimum": values.min(),
        "maximum": values.max(),
    }, notes


def _interval_of_mean(
    values: Floats, cluster: np.ndarray[tuple[int, ...], np.dtype[np.intp]], inputs: Inputs, conf: float
) -> tuple[object, object]:
    sums = np.column_stack([np.bincount(cluster, values), np.bincount(cluster)])
    n = len(sums)
    if n < 2:
        missing = Undefined("one independent unit: no interval exists")
        return missing, missing
    generator = stream(int(inputs.get("seed", 0)), "case_summary", str(inputs["value"]))
    blocks = index_blocks(n, int(inputs.get("resamples", 10_000)), generator)
    drawn = np.concatenate([sums[block].sum(axis=1) for block in blocks])
    total = sums.sum(axis=0)
    left_out = (total - sums)[:, 0] / (total - sums)[:, 1]
    return bca_interval(float(values.mean()), np.asarray(drawn[:, 0] / drawn[:, 1]), left_out, conf)
