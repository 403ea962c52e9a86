"""First-order statistics of the grey levels, and the shape of their histogram (IBSI ZVCW)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from voxtrial.daemon.radiomics.aggregation import Values
from voxtrial.daemon.radiomics.first_order import summarise


def features(levels: NDArray[np.int32], n_levels: int) -> Values:
    """Return the 23 intensity histogram features.

    Parameters
    ----------
    levels
        (n,) grey levels from 1 of the intensity mask.

    Notes
    -----
    Among several modes the one nearest to the mean is taken, among several extreme gradients the first. With
    one level only there is no gradient: NaN.
    """
    summary = summarise(levels.astype(float))
    counts = np.bincount(levels, minlength=n_levels + 1)[1:].astype(float)
    p = counts / counts.sum()
    modes = np.flatnonzero(counts == counts.max()) + 1
    gradient = np.gradient(counts) if n_levels > 1 else np.array([np.nan])
    steepest_rise, steepest_fall = int(gradient.argmax()), int(gradient.argmin())
    defined = 1.0 if n_levels > 1 else float("nan")
    return {
        ("Mean discretised intensity", "X6K6"): summary.mean,
        ("Discretised intensity variance", "CH89"): summary.variance,
        ("Discretised intensity skewness", "88K1"): summary.skewness,
        ("(Excess) discretised intensity kurtosis", "C3I7"): summary.excess_kurtosis,
        ("Median discretised intensity", "WIFQ"): summary.median,
        ("Minimum discretised intensity", "1PR8"): summary.minimum,
        ("10th discretised intensity percentile", "GPMT"): summary.percentile_10,
        ("90th discretised intensity percentile", "OZ0C"): summary.percentile_90,
        ("Maximum discretised intensity", "3NCY"): summary.maximum,
        ("Intensity histogram mode", "AMMC"): float(modes[np.abs(modes - summary.mean).argmin()]),
        ("Discretised intensity interquartile range", "WR0O"): summary.interquartile_range,
        ("Discretised intensity range", "5Z3W"): summary.range,
        ("Intensity histogram mean absolute deviation", "D2ZX"): summary.mean_absolute_deviation,
        (
            "Intensity histogram robust mean absolute deviation",
            "WRZB",
        ): summary.robust_mean_absolute_deviation,
        ("Intensity histogram median absolute deviation", "4RNL"): summary.median_absolute_deviation,
        ("Intensity histogram coefficient of variation", "CWYJ"): summary.coefficient_of_variation,
        (
            "Intensity histogram quartile coefficient of dispersion",
            "SLWD",
        ): summary.quartile_coefficient_of_dispersion,
        ("Discretised intensity entropy", "TLU2"): float(-xlogy(p, p).sum() / np.log(2)),
        ("Discretised intensity uniformity", "BJ5W"): float((p**2).sum()),
        ("Maximum histogram gradient", "12CE"): float(gradient[steepest_rise]),
        ("Maximum histogram gradient intensity", "8E6O"): defined * (steepest_rise + 1),
        ("Minimum histogram gradient", "VQB3"): float(gradient[steepest_fall]),
        ("Minimum histogram gradient intensity", "RHQZ"): defined * (steepest_fall + 1),
    }
