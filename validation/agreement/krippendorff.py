"""Krippendorff's alpha: agreement of many raters, with ratings missing, at any level of measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from voxtrial.validation.bootstrap import percentile_interval, stream
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, columns, confidence, parameter

MEASUREMENT_LEVELS = ("nominal", "ordinal", "interval", "ratio")


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Ratings as counts of each value in each unit that was rated at least twice.

    Parameters
    ----------
    counts
        (units, values).
    values
        The values as numbers, ascending; positions 0, 1, ... when they are not numbers.
    numeric
        Whether the values are numbers: only then do interval and ratio have a meaning.
    """

    counts: Floats
    values: Floats
    numeric: bool

    def coincidences(self, times: Floats | None = None) -> Floats:
        """Return how often each pair of values meets within units, (values, values).

        ``times`` counts a unit more than once, or not at all: a resample.
        """
        shares = self.counts / (self.counts.sum(axis=1) - 1)[:, None]
        if times is not None:
            shares = shares * times[:, None]
        return np.asarray(shares.T @ self.counts - np.diag(shares.sum(axis=0)))


def reliability(frame: pd.DataFrame, levels: Sequence[object] | None = None) -> Reliability:
    """Return the ratings of a (units, raters) table; missing cells are allowed.

    ``levels`` orders labels that are not numbers, which ordinal alpha needs.
    """
    codes, labels = pd.factorize(frame.to_numpy().ravel(), sort=True)
    if not len(labels):
        raise Undefined("no rating is given")
    if levels is not None:
        order = {label: i for i, label in enumerate(levels)}
        if unknown := [label for label in labels if label not in order]:
            raise StatisticError(f"The rating {unknown[0]!r} is not among the levels {list(levels)}.")
        positions = np.array([order[label] for label in labels])
        rank = np.argsort(np.argsort(positions))
        codes, labels = np.where(codes >= 0, rank[codes], -1), labels[np.argsort(positions)]
    codes = codes.reshape(frame.shape)
    counts = np.stack([(codes == c).sum(axis=1) for c in range(len(labels))], axis=1).astype(float)
    numeric = bool(np.issubdtype(np.asarray(labels).dtype, np.number))
    values = np.asarray(labels, dtype=float) if numeric else np.arange(len(labels), dtype=float)
    return Reliability(counts=counts[counts.sum(axis=1) >= 2], values=values, numeric=numeric)


def squared_differences(values: Floats, marginals: Floats, level: str) -> Floats:
    """Return the difference function between values, (values, values), of a level of measurement."""
    a, b = values[:, None], values[None, :]
    if level == "nominal":
        return np.asarray(a != b, dtype=float)
    if level == "interval":
        return np.asarray((a - b) ** 2)
    if level == "ratio":
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nan_to_num(((a - b) / (a + b)) ** 2))
    middle = np.cumsum(marginals) - marginals / 2
    return np.asarray((middle[:, None] - middle[None, :]) ** 2)


def alpha(coincidences: Floats, values: Floats, level: str) -> float:
    """Return alpha from a (values, values) coincidence table; NaN when only one value occurs.

    References
    ----------
    Krippendorff K. Computing Krippendorff's Alpha-Reliability. 2011. Hayes AF, Krippendorff K. Commun Methods
    Meas 2007;1:77-89. doi:10.1080/19312450709336664.
    """
    marginals = coincidences.sum(axis=1)
    total = marginals.sum()
    difference = squared_differences(values, marginals, level)
    expected = float(marginals @ difference @ marginals)
    if expected == 0:
        return float("nan")
    return 1 - float((total - 1) * np.sum(coincidences * difference) / expected)


@statistic("krippendorff_alpha", values=("n_units", "n_pairable", *MEASUREMENT_LEVELS))
def krippendorff_alpha(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return alpha at the nominal, ordinal, interval and ratio level.

    Inputs: ``raters`` (columns of ``wide``, one row for each unit; empty cells allowed), ``levels`` (order of
    labels that are not numbers), ``resamples`` (0: no interval) and ``seed`` of a bootstrap over units, which
    adds ``LEVEL_ci_low`` and ``LEVEL_ci_high``.

    Notes
    -----
    Units with fewer than two ratings do not count. Not defined when only one value occurs. Interval and ratio
    need numbers, ratio none below zero.
    """
    raters = [str(name) for name in parameter(inputs, "raters")]
    if len(raters) < 2:
        raise Undefined("one rater: agreement needs at least two")
    frame = columns(tables, "wide", raters)
    data = reliability(frame, inputs.get("levels"))
    notes = []
    if len(data.counts) < len(frame):
        notes.append(
            f"{len(frame) - len(data.counts)} of {len(frame)} units left out: fewer than two ratings"
        )
    if not len(data.counts):
        raise Undefined("no unit was rated twice")
    values: dict[str, object] = {"n_units": len(data.counts), "n_pairable": int(data.counts.sum())}
    resamples = int(inputs.get("resamples", 0))
    for level in MEASUREMENT_LEVELS:
        if reason := _without_meaning(data, level):
            values[level] = Undefined(reason)
            continue
        estimate = alpha(data.coincidences(), data.values, level)
        values[level] = Undefined("only one value occurs") if np.isnan(estimate) else estimate
        if resamples:
            low, high = _interval(data, level, inputs, resamples)
            values |= {f"{level}_ci_low": low, f"{level}_ci_high": high}
    return values, notes


def _without_meaning(data: Reliability, level: str) -> str:
    if level in ("interval", "ratio") and not data.numeric:
        return "the ratings are not numbers"
    if level == "ratio" and (data.values < 0).any():
        return "a rating is negative: ratios have no meaning"
    return ""


def _interval(data: Reliability, level: str, inputs: Inputs, resamples: int) -> tuple[object, object]:
    generator = stream(int(inputs.get("seed", 0)), "krippendorff_alpha", level)
    n = len(data.counts)
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    replicates = [alpha(data.coincidences(times), data.values, level) for times in drawn]
    return percentile_interval(np.array(replicates), confidence(inputs))
