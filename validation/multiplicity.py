"""Keep the family-wise error when a protocol tests several hypotheses: adjusted p-values and gatekeeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, parameter, vector


def bonferroni(p: Floats) -> Floats:
    """Return p-values adjusted by Bonferroni."""
    return np.minimum(1.0, p * p.size)


def holm(p: Floats) -> Floats:
    """Return p-values adjusted by Holm's step-down procedure.

    References
    ----------
    Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    return _restored(stepped, order)


def hochberg(p: Floats) -> Floats:
    """Return p-values adjusted by Hochberg's step-up procedure; valid for positively dependent tests.

    References
    ----------
    Hochberg Y. A sharper Bonferroni procedure. Biometrika 1988;75:800-802. doi:10.1093/biomet/75.4.800.
    """
    order = np.argsort(-p, kind="stable")
    stepped = np.minimum.accumulate(p[order] * np.arange(1, p.size + 1))
    return _restored(stepped, order)


def benjamini_hochberg(p: Floats) -> Floats:
    """Return p-values adjusted for the false discovery rate.

    References
    ----------
    Benjamini Y, Hochberg Y. J R Stat Soc B 1995;57:289-300. doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    order = np.argsort(-p, kind="stable")
    stepped = np.minimum.accumulate(p[order] * p.size / np.arange(p.size, 0, -1))
    return _restored(stepped, order)


def _restored(stepped: Floats, order: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> Floats:
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def serial_gatekeeping(families: Sequence[Floats]) -> list[Floats]:
    """Return adjusted p-values of ordered families, each the gate of the next.

    Within a family Holm's procedure holds the level; a family is opened only when every hypothesis of the
    families before it is rejected, so its adjusted p-values are at least the largest before them. With one
    hypothesis in each family this is the fixed-sequence (hierarchical) procedure.

    References
    ----------
    Dmitrienko A, Tamhane AC, Bretz F. Multiple Testing Problems in Pharmaceutical Statistics. 2009, ch. 5.
    """
    gate = 0.0
    adjusted = []
    for family in families:
        adjusted.append(np.maximum(holm(family), gate))
        gate = float(adjusted[-1].max(initial=gate))
    return adjusted


def _checked(values: Sequence[object], name: str) -> Floats:
    p = vector(values, name)
    if p.size == 0:
        raise Undefined(f"{name} holds no p-value")
    if not np.all((p >= 0) & (p <= 1)):
        raise StatisticError(f"{name} holds {p.tolist()}; a p-value lies between 0 and 1.")
    return p


@statistic("multiplicity", values=("bonferroni", "holm", "hochberg", "BH"))
def multiplicity(tables: Tables, inputs: Inputs) -> Values:
    """Adjust the p-values ``p`` in their given order."""
    p = _checked(parameter(inputs, "p"), "p")
    return {
        "bonferroni": bonferroni(p),
        "holm": holm(p),
        "hochberg": hochberg(p),
        "BH": benjamini_hochberg(p),
    }


@statistic("gatekeeping", values=("adjusted", "rejected"))
def gatekeeping(tables: Tables, inputs: Inputs) -> Mapping[str, object]:
    """Adjust ordered ``families`` (lists of p-values); ``alpha`` 0.05 decides what is rejected."""
    families = [_checked(p, f"families[{i}]") for i, p in enumerate(parameter(inputs, "families"))]
    adjusted = serial_gatekeeping(families)
    alpha = float(inputs.get("alpha", 0.05))
    return {
        "adjusted": [p.tolist() for p in adjusted],
        "rejected": [[int(value <= alpha) for value in p] for p in adjusted],
    }
