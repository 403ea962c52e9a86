"""Choose a threshold on a tuning set, freeze it, and report what it does on the test set.

Candidates are the midpoints between adjacent distinct scores, and -inf and +inf; positive is at or above.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxtrial.validation.accuracy.proportions import clopper_pearson
from voxtrial.validation.accuracy.roc import roc_points
from voxtrial.validation.accuracy.scored_cases import require_both_classes, scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, confidence, parameter

METHODS = ("youden", "sensitivity", "specificity", "cost")


def choose(
    positive: Floats,
    negative: Floats,
    method: str = "youden",
    *,
    target: float = 0.95,
    prevalence: float | None = None,
    cost_ratio: float = 1.0,
) -> float:
    """Return the threshold that a rule picks.

    Parameters
    ----------
    positive, negative
        Scores of both classes of the tuning set.
    method
        ``youden``: largest sensitivity + specificity. ``sensitivity``: the most specific threshold with at
        least ``target`` sensitivity. ``specificity``: the most sensitive one with at least ``target``
        specificity. ``cost``: least expected cost at ``prevalence``, a false negative costing ``cost_ratio``
        times a false positive.
    target
        The fixed sensitivity or specificity.
    prevalence
        Prevalence of the intended use; by default that of the tuning set.
    cost_ratio
        Cost of a false negative over that of a false positive.

    Notes
    -----
    Among equally good thresholds the highest is taken: the most specific one.
    """
    curve = roc_points(positive, negative)
    specificity = 1 - curve.false_positive_rate
    scores = curve.thresholds
    cuts = np.concatenate([[np.inf], (scores[1:-1] + scores[2:]) / 2, [-np.inf]])
    rounding = 1e-12
    if method == "youden":
        merit = curve.sensitivity + specificity
    elif method == "sensitivity":
        merit = np.where(curve.sensitivity >= target - rounding, specificity, -np.inf)
    elif method == "specificity":
        merit = np.where(specificity >= target - rounding, curve.sensitivity, -np.inf)
    else:
        p = positive.size / (positive.size + negative.size) if prevalence is None else prevalence
        merit = -(cost_ratio * p * (1 - curve.sensitivity) + (1 - p) * curve.false_positive_rate)
    return float(cuts[int(np.argmax(merit > merit.max() - rounding))])


@statistic(
    "operating_point",
    values=["threshold", "sensitivity", "specificity", "ppv", "npv", "tp", "fp", "tn", "fn"],
)
def operating_point(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Choose a threshold of ``score`` and report its counts, fractions and exact intervals.

    ``method`` (youden, sensitivity, specificity, cost) with ``target``, ``prevalence``, ``cost_ratio``; or a
    ``threshold`` that is already frozen. With ``split``, a column that holds ``tuning`` and ``test`` (or the
    values named by ``tuning`` and ``test``), the threshold comes from the tuning rows alone and the report
    from the test rows alone; without it both come from the same rows, and a note says so.
    """
    method = str(inputs.get("method", "youden"))
    if method not in METHODS:
        raise StatisticError(f"The method is {method!r}; known are {', '.join(METHODS)}.")
    split = inputs.get("split")
    cases = scored_cases(tables, inputs, ["score"], also=[split] if split else [])
    everyone = np.ones(cases.positive.size, dtype=bool)
    tuning = test = everyone
    notes = list(cases.notes)
    if split:
        tuning = (cases.frame[split] == inputs.get("tuning", "tuning")).to_numpy()
        test = (cases.frame[split] == inputs.get("test", "test")).to_numpy()
        notes.append(f"threshold from {tuning.sum()} tuning cases, results from {test.sum()} test cases")
    score = cases.scores[:, 0]
    if "threshold" in inputs:
        threshold = float(parameter(inputs, "threshold"))
    else:
        require_both_classes(cases.positive[tuning])
        threshold = choose(
            score[tuning & cases.positive],
            score[tuning & ~cases.positive],
            method,
            target=float(inputs.get("target", 0.95)),
            prevalence=inputs.get("prevalence"),
            cost_ratio=float(inputs.get("cost_ratio", 1.0)),
        )
        if not split:
            notes.append("threshold chosen and evaluated on the same cases: the results are optimistic")
    called, true = score[test] >= threshold, cases.positive[test]
    tp, fp = int((called & true).sum()), int((called & ~true).sum())
    fn, tn = int((~called & true).sum()), int((~called & ~true).sum())
    values: dict[str, object] = {"threshold": threshold, "tp": tp, "fp": fp, "tn": tn, "fn": fn}
    if not np.isfinite(threshold):
        everything = "every" if threshold < 0 else "no"
        values["threshold"] = Undefined(
            f"the rule calls {everything} case positive, which no finite score does"
        )
    level = confidence(inputs)
    for name, x, n, lack in (
        ("sensitivity", tp, tp + fn, "no case is positive"),
        ("specificity", tn, tn + fp, "no case is negative"),
        ("ppv", tp, tp + fp, "no case is called positive"),
        ("npv", tn, tn + fn, "no case is called negative"),
    ):
        names = (name, f"{name}_ci_low", f"{name}_ci_high")
        if n == 0:
            values |= dict.fromkeys(names, Undefined(lack))
        else:
            values |= dict(zip(names, (x / n, *clopper_pearson(x, n, level)), strict=True))
    return values, notes
