"""How much of a region reaches an intensity, and which intensity a part of it reaches (IBSI P88C)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.radiomics.aggregation import Values
from voxtrial.daemon.radiomics.configuration import Discretisation
from voxtrial.daemon.radiomics.discretise import fixed_bin_number, fixed_bin_size, lower_end, upper_end


@dataclass(frozen=True, kw_only=True)
class Grades:
    """Intensities on the scale that the histogram is read on.

    Parameters
    ----------
    values
        (n,) one grade a voxel of the intensity mask.
    axis
        (m,) every grade of the scale in rising order, from intensity fraction 0 to 1.
    """

    values: NDArray[np.float64]
    axis: NDArray[np.float64]


def grade(
    intensities: NDArray[np.float64],
    bins: Discretisation,
    intensity_range: tuple[float, float] | None,
) -> Grades:
    """Put (n,) intensities of the intensity mask on their scale.

    Notes
    -----
    IBSI P88C knows three cases. Calibrated and discrete (no bins): the grade is the intensity, the scale has
    every whole number of the re-segmentation range, or of the range that occurs where none is set;
    intensities that are not whole numbers are a scale of their own. Calibrated and continuous (bins of a
    fixed size): the grade is the centre of the bin. Arbitrary (fixed number of bins): the grade is the number
    of the bin.
    """
    low, high = lower_end(intensities, intensity_range), upper_end(intensities, intensity_range)
    if bins.fixed_bin_number is not None:
        values = fixed_bin_number(intensities, bins.fixed_bin_number).astype(float)
        return Grades(values=values, axis=np.arange(1, values.max() + 1, dtype=float))
    if bins.fixed_bin_size is not None:
        width = bins.fixed_bin_size
        number = fixed_bin_size(intensities, width, low)
        n_bins = max(round((high - low) / width), int(number.max()))
        axis = np.asarray(low + width * (np.arange(n_bins) + 0.5), float)
        return Grades(values=axis[number - 1], axis=axis)
    if (intensities == np.round(intensities)).all():
        return Grades(values=intensities, axis=np.arange(np.ceil(low), np.floor(high) + 1))
    return Grades(values=intensities, axis=np.unique(intensities))


def features(grades: Grades) -> Values:
    """Return the intensity-volume histogram features for the fractions 10 % and 90 %.

    Notes
    -----
    The volume fraction at a grade is the part of the region at or above it. The intensity at a volume
    fraction is the smallest grade that at most that part of the region reaches, and the largest grade of the
    scale when none is reached by so few (a plateau at the top). A scale of one grade has no volume at an
    intensity fraction: NaN.
    """
    axis, ordered = grades.axis, np.sort(grades.values)
    volume_fraction = 1 - np.searchsorted(ordered, axis) / ordered.size
    volume_10, volume_90 = (_volume_at(axis, volume_fraction, x) for x in (0.1, 0.9))
    intensity_10, intensity_90 = (_intensity_at(axis, volume_fraction, x) for x in (0.1, 0.9))
    return {
        ("Volume at intensity fraction [10%]", "BC2M"): volume_10,
        ("Volume at intensity fraction [90%]", "BC2M"): volume_90,
        ("Intensity at volume fraction [10%]", "GBPN"): intensity_10,
        ("Intensity at volume fraction [90%]", "GBPN"): intensity_90,
        ("Volume fraction difference between intensity fractions", "DDTU"): volume_10 - volume_90,
        ("Intensity fraction difference between volume fractions", "CNV2"): intensity_10 - intensity_90,
    }


def _volume_at(axis: NDArray[np.float64], volume_fraction: NDArray[np.float64], fraction: float) -> float:
    """Volume fraction at the first grade whose intensity fraction is at least ``fraction``."""
    low, high = axis[0], axis[-1]
    if low == high:
        return float("nan")
    intensity_fraction = (axis - low) / (high - low)
    # 0.1 has no exact binary form: a grade at exactly one tenth belongs to the upper part.
    reached = np.flatnonzero(intensity_fraction >= fraction - 1e-12)
    return float(volume_fraction[reached[0]])


def _intensity_at(axis: NDArray[np.float64], volume_fraction: NDArray[np.float64], fraction: float) -> float:
    reached = np.flatnonzero(volume_fraction <= fraction)
    return float(axis[reached[0]] if reached.size else axis[-1])
