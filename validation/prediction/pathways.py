"""Turn gene expression into pathway scores: averaging many noisy genes trades variance for a little bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, parameter

METHODS = ("mean_z", "ssgsea")


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Read gene sets: a line a set, name, description and genes separated by tabs.

    Raises
    ------
    StatisticError
        When a line has no gene, or a name stands twice.
    """
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.rstrip("\n").split("\t")
        genes = list(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not genes or name in sets:
            raise StatisticError(f"Line {number} of {path.name}: {name!r} has no gene or stands twice.")
        sets[name] = genes
    return sets


def mean_z(expression: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Return the mean standardised expression of a set.

    Parameters
    ----------
    expression
        (n, k) the set's genes.
    mean, deviation
        (k,) from the training patients, never from the test ones; a gene without spread there is left out.
    """
    varies = deviation > 1e-12 * (1 + np.abs(mean))
    if not varies.any():
        return np.full(len(expression), np.nan)
    return np.asarray(((expression[:, varies] - mean[varies]) / deviation[varies]).mean(axis=1))


def single_sample_enrichment(expression: Floats, inside: Sequence[int], weight: float = 0.25) -> Floats:
    """Return the single-sample enrichment score of a set, from each patient alone.

    Parameters
    ----------
    expression
        (n, genes) all measured genes.
    inside
        Columns of the set: some, but not all.
    weight
        Power of the rank.

    Notes
    -----
    Genes are ranked from the highest expression down (tied genes in column order); the score is the sum over
    positions of the weighted share of set genes met so far minus the share of other genes.

    References
    ----------
    Barbie DA et al. Nature 2009;462:108-112. doi:10.1038/nature08460.
    """
    n, genes = expression.shape
    member = np.zeros(genes, dtype=bool)
    member[list(inside)] = True
    order = np.argsort(-expression, axis=1, kind="stable")
    hit = member[order]
    rank = np.arange(genes, 0, -1, dtype=float) ** weight
    gained = np.where(hit, rank, 0.0)
    met = np.cumsum(gained, axis=1) / gained.sum(axis=1, keepdims=True)
    missed = np.cumsum(~hit, axis=1) / (genes - member.sum())
    return np.asarray((met - missed).sum(axis=1).reshape(n))


@statistic("pathway_scores")
def pathway_scores(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Score every set of ``sets`` (name to genes) from the gene columns of ``wide``.

    ``method`` is mean_z or ssgsea. ``training`` names a 0/1 column: mean_z takes mean and spread from those
    rows. Genes that are not measured are counted in a note; a set with none has no score. ``ignore`` lists
    numeric columns that are no genes.
    """
    sets: Mapping[str, Sequence[str]] = parameter(inputs, "sets")
    method = str(inputs.get("method", METHODS[0]))
    if method not in METHODS:
        raise StatisticError(f"The method is {method!r}; known are {', '.join(METHODS)}.")
    training = inputs.get("training")
    frame = tables.get("wide")
    if frame is None:
        raise StatisticError("The table 'wide' is missing.")
    skipped = {training, *inputs.get("ignore", ())}
    genes = [str(c) for c in frame.columns if c not in skipped and frame[c].dtype.kind in "fiu"]
    rows = complete(tables, "wide", [*genes, *([training] if training else [])])
    if rows.frame.empty:
        raise Undefined("there is no complete row")
    expression = rows.matrix(genes)
    fitted = rows.numbers(training) == 1 if training else np.ones(len(expression), dtype=bool)
    if fitted.sum() < 2:
        raise Undefined("fewer than two training rows")
    mean, deviation = expression[fitted].mean(axis=0), expression[fitted].std(axis=0, ddof=1)
    notes = [*rows.notes]
    values: dict[str, object] = {}
    for name, members in sets.items():
        inside = [genes.index(g) for g in dict.fromkeys(members) if g in genes]
        if len(inside) < len(set(members)):
            notes.append(f"{name}: {len(inside)} of {len(set(members))} genes are measured")
        if not inside or (method == "ssgsea" and len(inside) == len(genes)):
            values[name] = Undefined("no gene of the set is measured, or every measured gene is in it")
        elif method == "ssgsea":
            values[name] = single_sample_enrichment(expression, inside)
        else:
            values[name] = mean_z(expression[:, inside], mean[inside], deviation[inside])
    return values, notes
