"""Plan how many patients an endpoint needs, and say what power the planned number has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.accuracy.proportion_differences import restricted_proportions
from voxtrial.validation.accuracy.proportions import wilson
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


@statistic("sample_size_auc_comparison", values=("ncases", "ncontrols"))
def sample_size_auc_comparison(tables: Tables, inputs: Inputs) -> Values:
    """Plan the comparison of areas ``auc1`` and ``auc2`` of two readings of the same patients.

    Two-sided ``alpha``, ``power`` (0.8), ``kappa`` controls per case (1), and the ``correlation`` of the two
    estimated areas (0: two groups of patients). Under the null hypothesis both areas are their mean.

    References
    ----------
    Obuchowski NA, McClish DK. Stat Med 1997;16:1529-1542.
    doi:10.1002/(SICI)1097-0258(19970715)16:13<1529::AID-SIM565>3.0.CO;2-H.
    """
    first, second = _between(inputs, "auc1", 0, 1), _between(inputs, "auc2", 0, 1)
    if first == second:
        raise Undefined("the areas are equal: no number of patients shows a difference")
    kappa, shared = float(inputs.get("kappa", 1.0)), 1 - _between(inputs, "correlation", -1, 1, 0.0)
    null = 2 * shared * binormal_variance((first + second) / 2, kappa)
    variances = [binormal_variance(a, kappa) for a in (first, second)]
    alternative = sum(variances) - 2 * (1 - shared) * float(np.sqrt(np.prod(variances)))
    spread = stats.norm.isf(_between(inputs, "alpha", 0, 1, 0.05) / 2) * np.sqrt(null)
    spread += stats.norm.ppf(_between(inputs, "power", 0, 1, 0.8)) * np.sqrt(alternative)
    cases = float((spread / (first - second)) ** 2)
    return {"ncases": cases, "ncontrols": cases * kappa}


@statistic("sample_size_noninferiority", values=("n1", "n2"))
def sample_size_noninferiority(tables: Tables, inputs: Inputs) -> Values:
    """Plan to show that the proportion ``p1`` is not worse than ``p2`` by ``margin`` or more.

    One-sided ``alpha`` (0.025), ``power`` (0.8), ``ratio`` of the second group to the first (1). The null
    variance is that of the proportions restricted to the margin, as in the test of Farrington and Manning.
    """
    p1, p2 = _between(inputs, "p1", 0, 1), _between(inputs, "p2", 0, 1)
    margin, ratio = _between(inputs, "margin", 0, 1), _between(inputs, "ratio", 0, np.inf, 1.0)
    distance = p1 - p2 + margin
    if distance <= 0:
        raise Undefined("the expected difference lies at or below the margin")
    null1, null2 = restricted_proportions(p1, 1.0, p2 * ratio, ratio, -margin)
    null = null1 * (1 - null1) + null2 * (1 - null2) / ratio
    alternative = p1 * (1 - p1) + p2 * (1 - p2) / ratio
    spread = stats.norm.isf(_between(inputs, "alpha", 0, 1, 0.025)) * np.sqrt(null)
    spread += stats.norm.ppf(_between(inputs, "power", 0, 1, 0.8)) * np.sqrt(alternative)
    n1 = int(np.ceil((spread / distance) ** 2))
    return {"n1": n1, "n2": int(np.ceil(n1 * ratio))}


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
