"""Say what a new prediction changes for patients with and without the event, never as one sum alone.

Reclassification indices can improve for a badly calibrated model: read them beside the calibration of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.accuracy.delong import area
from voxtrial.validation.accuracy.proportions import normal_quantile
from voxtrial.validation.accuracy.scored_cases import require_both_classes, scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, confidence, vector


def net_movement(change: Floats) -> tuple[float, float]:
    """Return the share moving up minus that moving down, and its variance."""
    up, down = float((change > 0).mean()), float((change < 0).mean())
    return up - down, (up + down - (up - down) ** 2) / change.size


def _tested(prefix: str, estimate: float, variance: float, z: float) -> dict[str, object]:
    names = [f"{prefix}_{end}" for end in ("se", "z", "p", "ci_low", "ci_high")]
    if not variance > 0:
        return {
            prefix: estimate,
            **dict.fromkeys(names, Undefined("all patients move alike, or a class has one")),
        }
    se = float(np.sqrt(variance))
    found = (se, estimate / se, 2 * stats.norm.sf(abs(estimate / se)), estimate - z * se, estimate + z * se)
    return {prefix: estimate, **dict(zip(names, found, strict=True))}


@statistic(
    "reclassification",
    values=("idi", "idi_se", "idi_z", "nri_continuous", "nri_continuous_se", "nri_categorical", "delta_auc"),
)
def reclassification(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Compare probabilities ``p_new`` with ``p_old`` for ``truth``; ``cuts`` give risk categories.

    A probability on a cut belongs to the higher category. Each index comes with its parts for events and
    non-events.

    References
    ----------
    Pencina MJ et al. Stat Med 2008;27:157-172. doi:10.1002/sim.2929.
    Pencina MJ, D'Agostino RB, Steyerberg EW. Stat Med 2011;30:11-21. doi:10.1002/sim.4085.
    Hilden J, Gerds TA. Stat Med 2014;33:3405-3414. doi:10.1002/sim.5804.
    """
    cases = scored_cases(tables, inputs, ["p_old", "p_new"])
    require_both_classes(cases.positive)
    old, new = cases.scores.T
    if ((cases.scores < 0) | (cases.scores > 1)).any():
        raise StatisticError("A probability lies outside [0, 1].")
    event, z = cases.positive, normal_quantile(confidence(inputs))
    change = new - old
    gain, loss = change[event], change[~event]
    spread = [part.var(ddof=1) / part.size if part.size > 1 else np.nan for part in (gain, loss)]
    values: dict[str, object] = {
        "idi_events": gain.mean(),
        "idi_nonevents": -loss.mean(),
        **_tested("idi", float(gain.mean() - loss.mean()), sum(spread), z),
    }
    movements = [("nri_continuous", change)]
    cuts = vector(inputs.get("cuts", ()), "cuts")
    if cuts.size:
        if (np.diff(cuts) <= 0).any():
            raise StatisticError(f"The cuts {cuts.tolist()} must ascend.")
        steps = np.searchsorted(cuts, new, "right") - np.searchsorted(cuts, old, "right")
        movements.append(("nri_categorical", steps.astype(float)))
    for name, moved in movements:
        up, up_variance = net_movement(moved[event])
        down, down_variance = net_movement(moved[~event])
        values |= {f"{name}_events": up, f"{name}_nonevents": -down}
        values |= _tested(name, up - down, up_variance + down_variance, z)
    values["delta_auc"] = area(new[event], new[~event]).auc - area(old[event], old[~event]).auc
    return values, [*cases.notes, "read beside the calibration of both predictions"]
