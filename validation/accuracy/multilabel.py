"""Agreement of sets of labels: one patient may have several findings, or none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, parameter

VALUES = (
    *("n", "jaccard_per_label", "jaccard_macro", "jaccard_micro", "jaccard_samples_empty_as_1"),
    *("jaccard_samples_empty_as_0", "jaccard_samples_non_empty", "n_empty_samples", "hamming_loss"),
    *("exact_match", "f1_per_label", "f1_micro", "f1_macro"),
)


@statistic("multilabel_jaccard", values=VALUES)
def multilabel_jaccard(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return Jaccard and F1 by label, pooled and averaged, Hamming loss and exact match.

    Inputs: ``true`` and ``pred`` (columns of ``wide`` with 0 and 1, in the same order of labels).

    Notes
    -----
    A label that is never true nor predicted has no Jaccard, and then there is no macro average either: it is
    not averaged over the rest. A sample without true and predicted label counts as 1 or as 0, both are given,
    and ``jaccard_samples_non_empty`` leaves such samples out; a report names the one it prints.
    """
    true_names, pred_names = ([str(name) for name in parameter(inputs, key)] for key in ("true", "pred"))
    if len(true_names) != len(pred_names) or not true_names:
        raise StatisticError(f"{len(true_names)} true and {len(pred_names)} predicted labels do not pair.")
    rows = complete(tables, "wide", true_names + pred_names)
    true, pred = _binary(rows.matrix(true_names)), _binary(rows.matrix(pred_names))
    n = len(true)
    if not n:
        raise Undefined("no complete row")
    both, either = true & pred, true | pred
    absent = Undefined("the label is never true nor predicted")
    somewhere = Undefined("a label is never true nor predicted")
    inside, around = both.sum(axis=0), either.sum(axis=0)
    jaccard, f1 = inside / around, 2 * inside / (around + inside)
    all_there = bool(around.all())
    intersections, unions = both.sum(axis=1), either.sum(axis=1)
    empty = unions == 0
    by_sample = intersections[~empty] / unions[~empty]
    total_both, total_either = int(both.sum()), int(either.sum())
    nothing = Undefined("no label is true or predicted anywhere")
    return {
        "n": n,
        "jaccard_per_label": [j if u else absent for j, u in zip(jaccard, around, strict=True)],
        "jaccard_macro": jaccard.mean() if all_there else somewhere,
        "jaccard_micro": total_both / total_either if total_either else nothing,
        "jaccard_samples_empty_as_1": (by_sample.sum() + empty.sum()) / n,
        "jaccard_samples_empty_as_0": by_sample.sum() / n,
        "jaccard_samples_non_empty": by_sample.mean() if by_sample.size else nothing,
        "n_empty_samples": int(empty.sum()),
        "hamming_loss": np.mean(true != pred),
        "exact_match": np.mean((true == pred).all(axis=1)),
        "f1_per_label": [f if u else absent for f, u in zip(f1, around, strict=True)],
        "f1_micro": 2 * total_both / (total_either + total_both) if total_either else nothing,
        "f1_macro": f1.mean() if all_there else somewhere,
    }, rows.notes


def _binary(labels: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    if not np.isin(labels, (0, 1)).all():
        raise StatisticError("A label holds something other than 0 and 1.")
    return np.asarray(labels == 1)
