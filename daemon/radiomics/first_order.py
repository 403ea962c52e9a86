"""Moments, percentiles and deviations that intensity statistics and the intensity histogram share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """Summary of the values of a region, in their unit; dimensionless where the name says so."""

    mean: float
    variance: float
    skewness: float
    excess_kurtosis: float
    median: float
    minimum: float
    percentile_10: float
    percentile_90: float
    maximum: float
    interquartile_range: float
    range: float
    mean_absolute_deviation: float
    robust_mean_absolute_deviation: float
    median_absolute_deviation: float
    coefficient_of_variation: float
    quartile_coefficient_of_dispersion: float


def summarise(values: NDArray[np.float64]) -> FirstOrder:
    """Summarise (n,) values.

    Notes
    -----
    Variance has the divisor n; percentiles interpolate linearly between order statistics. A quotient whose
    denominator is zero is undefined: NaN. The robust deviation looks at the values from the 10th to the 90th
    percentile, both included.
    """
    mean = values.mean()
    deviation = values - mean
    squared = deviation**2
    variance = squared.mean()
    p10, p25, median, p75, p90 = np.percentile(values, [10, 25, 50, 75, 90])
    robust = values[(values >= p10) & (values <= p90)]
    minimum, maximum = values.min(), values.max()
    constant = minimum == maximum
    return FirstOrder(
        mean=float(mean),
        variance=float(variance),
        skewness=_quotient((squared * deviation).mean(), 0 if constant else variance**1.5),
        excess_kurtosis=_quotient((squared**2).mean(), 0 if constant else variance**2) - 3,
        median=float(median),
        minimum=float(minimum),
        percentile_10=float(p10),
        percentile_90=float(p90),
        maximum=float(maximum),
        interquartile_range=float(p75 - p25),
        range=float(maximum - minimum),
        mean_absolute_deviation=float(np.abs(deviation).mean()),
        robust_mean_absolute_deviation=float(np.abs(robust - robust.mean()).mean()),
        median_absolute_deviation=float(np.abs(values - median).mean()),
        coefficient_of_variation=_quotient(np.sqrt(variance), mean),
        quartile_coefficient_of_dispersion=_quotient(p75 - p25, p75 + p25),
    )


def _quotient(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
