"""First-order statistics of the intensities as they are, without bins (IBSI UHIW)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.radiomics.aggregation import Values
from voxtrial.daemon.radiomics.first_order import summarise


def features(intensities: NDArray[np.float64]) -> Values:
    """Return the 18 intensity-based statistics of (n,) intensities of the intensity mask."""
    summary = summarise(intensities)
    energy = float((intensities**2).sum())
    return {
        ("Mean intensity", "Q4LE"): summary.mean,
        ("Intensity variance", "ECT3"): summary.variance,
        ("Intensity skewness", "KE2A"): summary.skewness,
        ("(Excess) intensity kurtosis", "IPH6"): summary.excess_kurtosis,
        ("Median intensity", "Y12H"): summary.median,
        ("Minimum intensity", "1GSF"): summary.minimum,
        ("10th intensity percentile", "QG58"): summary.percentile_10,
        ("90th intensity percentile", "8DWT"): summary.percentile_90,
        ("Maximum intensity", "84IY"): summary.maximum,
        ("Intensity interquartile range", "SALO"): summary.interquartile_range,
        ("Intensity range", "2OJQ"): summary.range,
        ("Intensity-based mean absolute deviation", "4FUA"): summary.mean_absolute_deviation,
        ("Intensity-based robust mean absolute deviation", "1128"): summary.robust_mean_absolute_deviation,
        ("Intensity-based median absolute deviation", "N72L"): summary.median_absolute_deviation,
        ("Intensity-based coefficient of variation", "7TET"): summary.coefficient_of_variation,
        (
            "Intensity-based quartile coefficient of dispersion",
            "9S40",
        ): summary.quartile_coefficient_of_dispersion,
        ("Intensity-based energy", "N8CA"): energy,
        ("Root mean square intensity", "5ZWQ"): float(np.sqrt(energy / intensities.size)),
    }
