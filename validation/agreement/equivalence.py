"""Equivalence by two one-sided tests: a new version changes the measurement by less than a margin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, parameter

VALUES = ("n_x", "n_y", "estimate", "se", "df", "ci_low", "ci_high", "p_lower", "p_upper", "p", "equivalent")


@statistic("equivalence_tost", values=VALUES)
def equivalence_tost(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return both one-sided tests and the interval of 1 - 2 alpha that decides with them.

    Inputs: ``x``, ``y`` (columns of ``wide``), ``design`` "paired" (default) or "independent" (Welch),
    ``alpha`` (0.05), and the margin: ``margin`` (symmetric) or ``margin_low`` and ``margin_high``, for
    mean(x) - mean(y). With ``log`` true the measurements are compared as ratios: the margins are ratios such
    as 0.8 and 1.25, a single ``margin`` m > 1 means 1/m to m, and estimate and interval are ratios.

    Notes
    -----
    Equal differences throughout have no standard error: nothing is tested, the estimate is given.

    References
    ----------
    Schuirmann DJ. J Pharmacokinet Biopharm 1987;15:657-680. doi:10.1007/BF01068419.
    """
    names = [str(parameter(inputs, name)) for name in ("x", "y")]
    design = str(inputs.get("design", "paired"))
    if design not in ("paired", "independent"):
        raise StatisticError(f"The design {design!r} is not known; it is paired or independent.")
    if design == "paired":
        rows = complete(tables, "wide", names)
        x, y, notes = rows.numbers(names[0]), rows.numbers(names[1]), rows.notes
    else:
        x, y = (complete(tables, "wide", [name]).numbers(name) for name in names)
        notes = ()
    if min(x.size, y.size) < 2:
        raise Undefined("fewer than two measurements")
    logarithmic = bool(inputs.get("log", False))
    if logarithmic:
        if (x <= 0).any() or (y <= 0).any():
            raise Undefined("a measurement is not positive: its ratio does not exist")
        x, y = np.log(x), np.log(y)
    low, high = _margins(inputs, logarithmic)
    estimate, se, degrees = _difference(x, y, design)
    back = np.exp if logarithmic else float
    values: dict[str, object] = {"n_x": x.size, "n_y": y.size, "estimate": float(back(estimate))}
    if se == 0:
        return dict.fromkeys(
            VALUES, Undefined("the differences do not vary: nothing can be tested")
        ) | values, notes
    alpha = float(inputs.get("alpha", 0.05))
    half = stats.t.ppf(1 - alpha, degrees) * se
    p_lower = float(stats.t.sf((estimate - low) / se, degrees))
    p_upper = float(stats.t.cdf((estimate - high) / se, degrees))
    return values | {
        "se": se,
        "df": degrees,
        "ci_low": float(back(estimate - half)),
        "ci_high": float(back(estimate + half)),
        "p_lower": p_lower,
        "p_upper": p_upper,
        "p": max(p_lower, p_upper),
        "equivalent": int(max(p_lower, p_upper) <= alpha),
    }, notes


def _difference(x: Floats, y: Floats, design: str) -> tuple[float, float, float]:
    """Return mean difference, standard error and degrees of freedom."""
    if design == "paired":
        d = x - y
        se = float(d.std(ddof=1) / np.sqrt(d.size)) if np.ptp(d) > 0 else 0.0
        return float(d.mean()), se, float(d.size - 1)
    parts = np.array([v.var(ddof=1) / v.size for v in (x, y)])
    se = float(np.sqrt(parts.sum()))
    degrees = float(parts.sum() ** 2 / np.sum(parts**2 / (np.array([x.size, y.size]) - 1))) if se else 0.0
    return float(x.mean() - y.mean()), se, degrees


def _margins(inputs: Inputs, logarithmic: bool) -> tuple[float, float]:
    if "margin" in inputs:
        margin = float(inputs["margin"])
        low, high = (1 / margin, margin) if logarithmic else (-margin, margin)
    else:
        low, high = float(parameter(inputs, "margin_low")), float(parameter(inputs, "margin_high"))
    if logarithmic:
        if low <= 0:
            raise StatisticError(f"The lower margin is {low}; a ratio is positive.")
        low, high = float(np.log(low)), float(np.log(high))
    if not low < high:
        raise StatisticError(f"The margins {low} and {high} leave no room between them.")
    return low, high
