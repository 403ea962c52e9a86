"""Draw the empirical ROC and precision-recall curves and measure parts of them.

A case is called positive when its score is at or above the threshold; tied scores change together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from voxtrial.validation.accuracy.scored_cases import scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Flags, Floats, Inputs, StatisticError, Tables, parameter


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """Counts at every distinct score, from the highest down.

    Parameters
    ----------
    thresholds
        (k,) distinct scores, descending; +inf stands first: nothing is positive.
    true_positives, false_positives
        (k,) counts at or above each threshold, ascending.
    n_positive, n_negative
        Class sizes, at least 1.
    """

    thresholds: Floats
    true_positives: Floats
    false_positives: Floats
    n_positive: int
    n_negative: int

    @property
    def sensitivity(self) -> Floats:
        """True positive fraction at each threshold."""
        return self.true_positives / self.n_positive

    @property
    def false_positive_rate(self) -> Floats:
        """One minus specificity at each threshold."""
        return self.false_positives / self.n_negative


def roc_points(positive: Floats, negative: Floats) -> RocCurve:
    """Return the empirical ROC curve of the scores of both classes."""
    distinct = np.unique(np.concatenate([positive, negative]))[::-1]
    p, q = np.sort(positive), np.sort(negative)
    return RocCurve(
        thresholds=np.concatenate([[np.inf], distinct]),
        true_positives=np.concatenate([[0.0], p.size - np.searchsorted(p, distinct, "left")]),
        false_positives=np.concatenate([[0.0], q.size - np.searchsorted(q, distinct, "left")]),
        n_positive=p.size,
        n_negative=q.size,
    )


def _area_between(x: Floats, y: Floats, low: float, high: float) -> float:
    """Integrate the polygon y(x), x ascending with vertical steps, over [low, high]."""
    inside = (x > low) & (x < high)

    def height(at: float, side: Literal["left", "right"]) -> float:
        k = int(np.searchsorted(x, at, side=side))
        if k < x.size and x[k] == at:
            return float(y[k])
        if k > 0 and x[k - 1] == at:
            return float(y[k - 1])
        part = (at - x[k - 1]) / (x[k] - x[k - 1])
        return float(y[k - 1] + part * (y[k] - y[k - 1]))

    xs = np.concatenate([[low], x[inside], [high]])
    ys = np.concatenate([[height(low, "right")], y[inside], [height(high, "left")]])
    return float(np.trapezoid(ys, xs))


def partial_area_over_specificity(curve: RocCurve, low: float, high: float) -> float:
    """Return the area under the ROC curve between two specificities, linear between the points."""
    return _area_between(curve.false_positive_rate, curve.sensitivity, 1 - high, 1 - low)


def partial_area_over_sensitivity(curve: RocCurve, low: float, high: float) -> float:
    """Return the area of specificity over sensitivity between two sensitivities."""
    return _area_between(curve.sensitivity, 1 - curve.false_positive_rate, low, high)


def mcclish(partial: float, low: float, high: float) -> float:
    """Rescale a partial area over specificities to 0.5 (chance) ... 1 (perfect).

    References
    ----------
    McClish DK. Analyzing a portion of the ROC curve. Med Decis Making 1989;9:190-195.
    doi:10.1177/0272989X8900900307.
    """
    largest = high - low
    chance = ((1 - low) ** 2 - (1 - high) ** 2) / 2
    return 0.5 * (1 + (partial - chance) / (largest - chance))


def average_precision_of(positive: Flags, score: Floats) -> float:
    """Return the sum over thresholds of precision times the gain in recall, tied scores as one threshold."""
    curve = roc_points(score[positive], score[~positive])
    called = curve.true_positives[1:] + curve.false_positives[1:]
    return float(np.sum(np.diff(curve.sensitivity) * curve.true_positives[1:] / called))


@statistic("roc_curve", values=("threshold", "sensitivity", "specificity", "precision"))
def roc_curve(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """List the operating points of ``score`` from the highest distinct score down."""
    cases = scored_cases(tables, inputs, ["score"])
    curve = roc_points(*cases.classes())
    called = curve.true_positives[1:] + curve.false_positives[1:]
    values = {
        "threshold": curve.thresholds[1:],
        "sensitivity": curve.sensitivity[1:],
        "specificity": 1 - curve.false_positive_rate[1:],
        "precision": curve.true_positives[1:] / called,
    }
    return values, cases.notes


@statistic("partial_auc", values=("pauc_specificity", "pauc_specificity_mcclish", "pauc_sensitivity"))
def partial_auc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Measure the ROC curve of ``score`` over a ``range`` of specificity, and of sensitivity."""
    low, high = (float(bound) for bound in parameter(inputs, "range"))
    if not 0 <= low < high <= 1:
        raise StatisticError(f"The range is [{low}, {high}]; it must ascend within [0, 1].")
    cases = scored_cases(tables, inputs, ["score"])
    curve = roc_points(*cases.classes())
    partial = partial_area_over_specificity(curve, low, high)
    values: dict[str, object] = {
        "pauc_specificity": partial,
        "pauc_specificity_mcclish": mcclish(partial, low, high),
        "pauc_sensitivity": partial_area_over_sensitivity(curve, low, high),
    }
    if partial < ((1 - low) ** 2 - (1 - high) ** 2) / 2:
        values["pauc_specificity_mcclish"] = Undefined(
            "the curve lies below chance, where McClish's scale ends"
        )
    return values, cases.notes


@statistic("average_precision", values=("average_precision", "prevalence"))
def average_precision(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Summarise the precision-recall curve of ``score`` beside its chance level, the prevalence."""
    cases = scored_cases(tables, inputs, ["score"])
    cases.classes()
    values = {
        "average_precision": average_precision_of(cases.positive, cases.scores[:, 0]),
        "prevalence": cases.positive.mean(),
    }
    return values, cases.notes
