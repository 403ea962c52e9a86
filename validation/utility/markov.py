"""Follow a cohort through health states and discount what it costs and gains."""

from __future__ import annotations

import numpy as np

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, parameter, vector


def cohort_trace(start: Floats, transitions: list[Floats]) -> Floats:
    """Return the (cycles, states) occupancy after each cycle."""
    trace = []
    state = start
    for matrix in transitions:
        state = state @ matrix
        trace.append(state)
    return np.array(trace).reshape(len(transitions), start.size)


def slowed(transition: Floats, relative_risk: float) -> Floats:
    """Return a transition matrix whose moves to another state are multiplied; staying takes up the rest."""
    moves = transition * relative_risk
    np.fill_diagonal(moves, 0.0)
    return moves + np.diag(1 - moves.sum(axis=1))


def _discount(inputs: Inputs, name: str, default: float | None = None) -> float:
    rate = float(parameter(inputs, name) if default is None else inputs.get(name, default))
    if rate <= -1:
        raise StatisticError(f"The rate {name!r} is {rate}; it must exceed -1.")
    return rate


@statistic("discounted_sum", values=("pv_start_of_year", "pv_end_of_year"))
def discounted_sum(tables: Tables, inputs: Inputs) -> Values:
    """Discount yearly ``values`` at ``rate``, the first year undiscounted or at its end."""
    amounts, rate = vector(parameter(inputs, "values"), "values"), _discount(inputs, "rate")
    if amounts.size == 0:
        raise Undefined("there is no year")
    at_start = float(np.sum(amounts / (1 + rate) ** np.arange(amounts.size)))
    return {"pv_start_of_year": at_start, "pv_end_of_year": at_start / (1 + rate)}


@statistic("markov_cohort", values=("cost_mono", "ly_mono", "cost_combo", "ly_combo", "icer"))
def markov_cohort(tables: Tables, inputs: Inputs) -> Values:
    """Compare a treatment with the same plus an added one that slows progression for some cycles.

    ``transition`` per cycle, the last state being death; the cohort starts in the first. ``state_costs`` of
    the living states, ``cost_mono`` of the treatment, and ``cost_lamivudine`` of the added one while given:
    in the first ``rr_cycles``, with ``rr`` on every move. Costs and life years fall at the end of each cycle.

    References
    ----------
    Chancellor JV et al. Pharmacoeconomics 1997;12:54-66. doi:10.2165/00019053-199712010-00006.
    """
    transition = np.asarray(parameter(inputs, "transition"), dtype=float)
    state_costs = vector(parameter(inputs, "state_costs"), "state_costs")
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise StatisticError("The transition matrix must be square.")
    if (transition < 0).any() or np.abs(transition.sum(axis=1) - 1).max() > 1e-9:
        raise StatisticError("Each row of the transition matrix must hold probabilities that sum to 1.")
    if state_costs.size != len(transition) - 1:
        raise StatisticError("Give one cost for each state but the last, which is death.")
    cycles, added_cycles = int(parameter(inputs, "cycles")), int(parameter(inputs, "rr_cycles"))
    if cycles < 1:
        raise Undefined("there is no cycle")
    start = np.eye(len(transition))[0]
    added = slowed(transition, float(parameter(inputs, "rr")))
    cost_rate, effect_rate = _discount(inputs, "discount_cost"), _discount(inputs, "discount_effect")
    year = np.arange(1, cycles + 1)
    values: dict[str, object] = {}
    totals = []
    for name, extra in (("mono", 0), ("combo", min(added_cycles, cycles))):
        trace = cohort_trace(start, [added] * extra + [transition] * (cycles - extra))[:, :-1]
        yearly = state_costs + float(parameter(inputs, "cost_mono"))
        cost = trace @ yearly
        cost[:extra] += trace[:extra].sum(axis=1) * float(parameter(inputs, "cost_lamivudine"))
        total = float(np.sum(cost / (1 + cost_rate) ** year))
        life = float(np.sum(trace.sum(axis=1) / (1 + effect_rate) ** year))
        values |= {f"cost_{name}": total, f"ly_{name}": life}
        totals.append((total, life))
    gained = totals[1][1] - totals[0][1]
    values["icer"] = (
        (totals[1][0] - totals[0][0]) / gained if gained != 0 else Undefined("no life year is gained or lost")
    )
    return values
