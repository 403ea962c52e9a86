"""Plan how many patients an endpoint needs, and say what power the planned number has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.proportions import wilson
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Inputs, StatisticError, Tables, confidence, parameter


def binormal_variance(auc: float, kappa: float) -> float:
    """Return the variance of an area times the number of cases, in the binormal model.

    Parameters
    ----------
    auc
        Area, less than 1.
    kappa
        Controls per case.

    References
    ----------
    Obuchowski NA, Lieber ML, Wians FH. ROC curves in clinical chemistry. Clin Chem 2004;50:1118-1125 (its
    1.414 and 0.0099 are kept). doi:10.1373/clinchem.2004.031823.
    """
    a = stats.norm.ppf(auc) * 1.414
    return float(0.0099 * np.exp(-(a**2) / 2) * ((5 * a**2 + 8) + (a**2 + 8) / kappa))


def power_against_chance(auc: float, cases: float, kappa: float, alpha: float) -> float:
    """Return the power of a two-sided test that an area exceeds one half."""
    z = stats.norm.isf(alpha / 2)
    distance = np.sqrt(cases) * (auc - 0.5) - z * np.sqrt(binormal_variance(0.5, kappa))
    return float(stats.norm.cdf(distance / np.sqrt(binormal_variance(auc, kappa))))


def cases_against_chance(auc: float, power: float, kappa: float, alpha: float) -> float:
    """Return the number of cases (not rounded) that a two-sided test of area = 1/2 needs."""
    spread = stats.norm.isf(alpha / 2) * np.sqrt(binormal_variance(0.5, kappa))
    spread += stats.norm.ppf(power) * np.sqrt(binormal_variance(auc, kappa))
    return float((spread / (auc - 0.5)) ** 2)


def _between(inputs: Inputs, name: str, low: float, high: float, default: float | None = None) -> float:
    value = float(parameter(inputs, name) if default is None else inputs.get(name, default))
    if not low < value < high:
        raise StatisticError(f"The input {name!r} is {value}; it must lie between {low} and {high}.")
    return value


@statistic("power_auc_one", values=("power", "ncases", "ncontrols", "ncases_2", "ncontrols_2"))
def power_auc_one(tables: Tables, inputs: Inputs) -> Values:
    """Power of ``ncases`` and ``ncontrols`` for ``auc``; and the numbers that give ``power`` at ``kappa``.

    ``design2`` holds a second plan: its names end in ``_2``. Two-sided ``alpha``.
    """
    values: dict[str, object] = {}
    for plan, suffix in ((inputs, ""), (inputs.get("design2"), "_2")):
        if plan is None:
            continue
        auc = _between(plan, "auc", 0, 1)
        alpha = _between(plan, "alpha", 0, 1, 0.05)
        if auc <= 0.5:
            reason = Undefined("the area does not exceed one half: no number of patients shows it")
            values |= dict.fromkeys((f"power{suffix}", f"ncases{suffix}", f"ncontrols{suffix}"), reason)
        elif "ncases" in plan:
            cases, controls = float(plan["ncases"]), float(parameter(plan, "ncontrols"))
            if min(cases, controls) <= 0:
                raise StatisticError("Both numbers of patients must be positive.")
            values[f"power{suffix}"] = power_against_chance(auc, cases, controls / cases, alpha)
        else:
            kappa = float(plan.get("kappa", 1.0))
            cases = cases_against_chance(auc, _between(plan, "power", 0, 1), kappa, alpha)
            values |= {f"ncases{suffix}": cases, f"ncontrols{suffix}": cases * kappa}
    return values


@statistic("sample_size_proportion", values=("n_precision", "n_goal", "power"))
def sample_size_proportion(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Plan the number of patients for a proportion expected to be ``p``.

    ``half_width``: the smallest n whose Wilson interval at ``p`` has at most this half width.
    ``goal`` with ``power`` (0.8): the smallest n from which on the lower Clopper-Pearson limit exceeds the
    goal with that probability; exact power saws, so every larger n is looked at too.
    """
    p = _between(inputs, "p", 0, 1)
    level = confidence(inputs)
    values: dict[str, object] = {}
    if "half_width" in inputs:
        wanted = _between(inputs, "half_width", 0, 0.5)
        n = 1
        while np.subtract(*wilson(p * n, n, level)[::-1]) / 2 > wanted:
            n = max(n + 1, int(n * 1.001))
        values["n_precision"] = n
    if "goal" in inputs:
        goal, power = _between(inputs, "goal", 0, 1), _between(inputs, "power", 0, 1, 0.8)
        if goal >= p:
            reason = Undefined("the expected proportion does not exceed the goal")
            return values | dict.fromkeys(("n_goal", "power"), reason), ()
        n = smallest_for_goal(p, goal, power, level)
        values |= {"n_goal": n, "power": float(exact_power(p, goal, np.array([n]), level)[0])}
    if not values:
        raise StatisticError("Give 'half_width' for precision or 'goal' for a test.")
    return values, ()


def exact_power(p: float, goal: float, n: np.ndarray, level: float) -> np.ndarray:
    """Return the probability that the lower Clopper-Pearson limit exceeds the goal, for each n."""
    needed = stats.binom.isf((1 - level) / 2, n, goal) + 1
    return np.asarray(stats.binom.sf(needed - 1, n, p))


def smallest_for_goal(p: float, goal: float, power: float, level: float) -> int:
    """Return the smallest n from which on the exact power stays at or above the wanted one."""
    z = stats.norm.isf((1 - level) / 2) * np.sqrt(goal * (1 - goal))
    z += stats.norm.ppf(power) * np.sqrt(p * (1 - p))
    largest = int(4 * (max(z, 1.0) / (p - goal)) ** 2) + 100
    sizes = np.arange(1, largest + 1)
    short = np.flatnonzero(exact_power(p, goal, sizes, level) < power)
    return int(sizes[short[-1]]) + 1 if short.size else 1
