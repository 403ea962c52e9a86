"""Weigh what a device costs against what patients gain, per trial, per set of strategies, or over a lifetime.

Effects are in any unit (QALYs, life years, detected cases); ``lambda`` is the price of one unit. The
intervention is the second arm in ascending order, the comparator the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.bootstrap import stream
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Floats,
    Inputs,
    StatisticError,
    Tables,
    complete,
    confidence,
    parameter,
    vector,
)

DEFAULT_RESAMPLES = 2000
DEFAULT_SEED = 20260101
QUADRANTS = ("north_east", "north_west", "south_west", "south_east")


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Cost and effect of every patient: comparator and intervention, (n, 2) each."""

    comparator: Floats
    intervention: Floats
    notes: tuple[str, ...]

    def increments(self) -> tuple[Floats, Floats]:
        """Return the mean differences (cost, effect) and their (2, 2) covariance."""
        delta = self.intervention.mean(axis=0) - self.comparator.mean(axis=0)
        covariance = np.zeros((2, 2))
        for arm in (self.comparator, self.intervention):
            covariance += np.cov(arm, rowvar=False, ddof=1) / len(arm)
        return delta, covariance


def read_arms(tables: Tables, inputs: Inputs) -> Arms:
    """Read ``arm``, ``cost`` and ``qaly`` of a trial with two arms and at least two patients in each."""
    names = [parameter(inputs, name) for name in ("arm", "cost", "qaly")]
    rows = complete(tables, "long" if "long" in tables else "wide", names)
    labels = np.unique(rows.labels(names[0]))
    if labels.size > 2:
        raise StatisticError(f"The trial has {labels.size} arms; compare two, or use the frontier.")
    if labels.size < 2:
        raise Undefined("there is one arm only")
    arms = [rows.matrix(names[1:])[rows.labels(names[0]) == label] for label in labels]
    if min(map(len, arms)) < 2:
        raise Undefined("an arm has one patient: its spread is unknown")
    return Arms(comparator=arms[0], intervention=arms[1], notes=rows.notes)


def fieller(delta: Floats, covariance: Floats, level: float) -> tuple[float, float] | Undefined:
    """Return the Fieller interval of cost over effect, undefined when the effect is not significant.

    References
    ----------
    Willan AR, O'Brien BJ. Health Econ 1996;5:297-305.
    doi:10.1002/(SICI)1099-1050(199607)5:4<297::AID-HEC216>3.0.CO;2-T.
    """
    z2 = normal_quantile(level) ** 2
    a = delta[1] ** 2 - z2 * covariance[1, 1]
    b = delta[0] * delta[1] - z2 * covariance[0, 1]
    c = delta[0] ** 2 - z2 * covariance[0, 0]
    if a <= 0:
        return Undefined(
            "the difference in effect is not significant: the interval is not bounded; see the quadrants"
        )
    root = np.sqrt(max(b**2 - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


@statistic(
    "cost_effectiveness",
    values=(
        "delta_cost",
        "delta_cost_se",
        "delta_qaly",
        "delta_qaly_se",
        "covariance",
        "icer",
        "fieller_low",
        "fieller_high",
        "inmb",
        "inmb_se",
        "inmb_ci_low",
        "inmb_ci_high",
        "ceac",
    ),
)
def cost_effectiveness(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate ICER and incremental net monetary benefit at each ``lambda``.

    The acceptability is the normal probability that the net benefit is positive.

    References
    ----------
    Willan AR, Briggs AH. Statistical Analysis of Cost-Effectiveness Data. Wiley 2006.
    """
    level = confidence(inputs)
    price = vector(parameter(inputs, "lambda"), "lambda")
    arms = read_arms(tables, inputs)
    delta, covariance = arms.increments()
    z = normal_quantile(level)
    interval = fieller(delta, covariance, level)
    low, high = (interval, interval) if isinstance(interval, Undefined) else interval
    benefit = price * delta[1] - delta[0]
    spread = price**2 * covariance[1, 1] + covariance[0, 0] - 2 * price * covariance[0, 1]
    flat = Undefined("costs and effects do not vary")
    known = spread > 0
    se = np.sqrt(np.maximum(spread, 0.0))

    def where_known(numbers: Floats) -> list[object]:
        return [number if ok else flat for number, ok in zip(numbers, known, strict=True)]

    quadrant = QUADRANTS[0 if delta[1] >= 0 else 1] if delta[0] >= 0 else QUADRANTS[3 if delta[1] >= 0 else 2]
    values = {
        "delta_cost": delta[0],
        "delta_cost_se": np.sqrt(covariance[0, 0]),
        "delta_qaly": delta[1],
        "delta_qaly_se": np.sqrt(covariance[1, 1]),
        "covariance": covariance[0, 1],
        "quadrant": quadrant,
        "icer": delta[0] / delta[1] if delta[1] != 0 else Undefined("the effects are equal"),
        "fieller_low": low,
        "fieller_high": high,
        "lambda": price,
        "inmb": benefit,
        "inmb_se": where_known(se),
        "inmb_ci_low": where_known(benefit - z * se),
        "inmb_ci_high": where_known(benefit + z * se),
        "ceac": where_known(stats.norm.cdf(benefit / se)),
    }
    notes = [*arms.notes]
    if quadrant in ("north_west", "south_east"):
        notes.append("one arm dominates: the sign of the ICER says nothing, the quadrant does")
    return values, notes


@statistic("cost_effectiveness_plane", values=("delta_cost", "delta_qaly", *QUADRANTS, "ceac"))
def cost_effectiveness_plane(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Resample patients within the arms: points of the plane, share of each quadrant, acceptability.

    ``resamples`` (2000) and ``seed``; a resample on an axis belongs to the quadrant counter-clockwise of it.
    """
    arms = read_arms(tables, inputs)
    resamples, seed = int(inputs.get("resamples", DEFAULT_RESAMPLES)), int(inputs.get("seed", DEFAULT_SEED))
    price = vector(parameter(inputs, "lambda"), "lambda")
    streams = [stream(seed, "cost_effectiveness_plane", arm) for arm in ("comparator", "intervention")]
    means = []
    for arm, generator in zip((arms.comparator, arms.intervention), streams, strict=True):
        weight = generator.multinomial(len(arm), np.full(len(arm), 1 / len(arm)), size=resamples)
        means.append(weight @ arm / len(arm))
    cost, effect = (means[1] - means[0]).T
    inside = (
        (cost >= 0) & (effect > 0),
        (cost > 0) & (effect <= 0),
        (cost <= 0) & (effect < 0),
        (cost < 0) & (effect >= 0),
    )
    values = {
        "delta_cost": cost,
        "delta_qaly": effect,
        **{name: float(chosen.mean()) for name, chosen in zip(QUADRANTS, inside, strict=True)},
        "lambda": price,
        "ceac": [float((p * effect - cost > 0).mean()) for p in price],
    }
    return values, [*arms.notes, f"{resamples} resamples, seed {seed}"]


def frontier(cost: Floats, effect: Floats) -> tuple[list[int], int, int]:
    """Return the strategies on the efficient frontier by rising effect, and how many are dominated.

    The second number counts strategies that another beats outright (no dearer and no worse; of equal ones the
    first stays), the third those beaten by a mix of two.
    """
    order = np.lexsort((-effect, cost))
    best = -np.inf
    candidates = []
    for i in order:
        if effect[i] > best:
            candidates.append(int(i))
            best = effect[i]
    outright = cost.size - len(candidates)
    hull: list[int] = []
    for i in candidates:
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            if (cost[b] - cost[a]) * (effect[i] - effect[b]) < (cost[i] - cost[b]) * (effect[b] - effect[a]):
                break
            hull.pop()
        hull.append(i)
    return hull, outright, len(candidates) - len(hull)


@statistic(
    "cost_effectiveness_frontier",
    values=("frontier_indices_0based", "icers", "n_dominated", "n_extended_dominated"),
)
def cost_effectiveness_frontier(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Order strategies (``strategy``, ``cost``, ``qaly``) and give the ICER of each step of the frontier."""
    names = [parameter(inputs, name) for name in ("strategy", "cost", "qaly")]
    rows = complete(tables, "wide", names)
    if rows.frame.empty:
        raise Undefined("there is no strategy")
    cost, effect = rows.matrix(names[1:]).T
    on, dominated, extended = frontier(cost, effect)
    values = {
        "frontier_indices_0based": on,
        "frontier": [str(rows.labels(names[0])[i]) for i in on],
        "icers": np.diff(cost[on]) / np.diff(effect[on]),
        "n_dominated": dominated,
        "n_extended_dominated": extended,
    }
    return values, rows.notes
