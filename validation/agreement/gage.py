"""Crossed measurement studies: parts measured by every operator, subjects by every scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from voxtrial.validation.agreement.repeatability import RC_FACTOR, chi_square_interval
from voxtrial.validation.agreement.variance_components import Combination
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Floats, Inputs, Tables, complete, confidence, parameter


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Mean squares of a balanced crossed design of p objects, o conditions and t trials."""

    p: int
    o: int
    t: int
    ms_object: float
    ms_condition: float
    ms_interaction: float
    ms_error: float
    """NaN with a single trial: the interaction cannot be told from error."""

    @property
    def degrees_interaction(self) -> int:
        """Degrees of freedom of the interaction."""
        return (self.p - 1) * (self.o - 1)

    @property
    def degrees_error(self) -> int:
        """Degrees of freedom of repetition within a cell."""
        return self.p * self.o * (self.t - 1)

    @property
    def ms_pooled(self) -> float:
        """Interaction and error pooled."""
        squares = self.ms_interaction * self.degrees_interaction
        if self.t > 1:
            squares += self.ms_error * self.degrees_error
        return squares / self.degrees_pooled

    @property
    def degrees_pooled(self) -> int:
        """Degrees of freedom of interaction and error together."""
        return self.degrees_interaction + self.degrees_error


def crossed_anova(cube: Floats) -> Crossed:
    """Return the mean squares of (objects, conditions, trials) measurements."""
    p, o, t = cube.shape
    grand = cube.mean()
    by_object, by_condition, cells = cube.mean(axis=(1, 2)), cube.mean(axis=(0, 2)), cube.mean(axis=2)
    residual = cells - by_object[:, None] - by_condition + grand
    return Crossed(
        p=p,
        o=o,
        t=t,
        ms_object=float(o * t * np.sum((by_object - grand) ** 2) / (p - 1)),
        ms_condition=float(p * t * np.sum((by_condition - grand) ** 2) / (o - 1)),
        ms_interaction=float(t * np.sum(residual**2) / ((p - 1) * (o - 1))),
        ms_error=float(np.sum((cube - cells[:, :, None]) ** 2) / (p * o * (t - 1)))
        if t > 1
        else float("nan"),
    )


def _cube(tables: Tables, objects: str, conditions: str, value: str) -> tuple[Floats, Sequence[str]]:
    rows = complete(tables, "long", [objects, conditions, value])
    object_labels, object_index = np.unique(rows.labels(objects), return_inverse=True)
    condition_labels, condition_index = np.unique(rows.labels(conditions), return_inverse=True)
    p, o = object_labels.size, condition_labels.size
    if p < 2 or o < 2:
        raise Undefined(f"{p} x {o} cells of {objects} and {conditions}: at least 2 x 2 are needed")
    cell = object_index * o + condition_index
    counts = np.bincount(cell, minlength=p * o)
    if counts.min() != counts.max():
        raise Undefined("the design is not balanced; variance_components_reml takes unbalanced data")
    order = np.argsort(cell, kind="stable")
    return rows.numbers(value)[order].reshape(p, o, -1), rows.notes


@statistic(
    "gage_rr_crossed", values=("var_repeatability", "var_reproducibility", "var_grr", "var_part", "ndc")
)
def gage_rr_crossed(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return repeatability and reproducibility of parts crossed with operators.

    Inputs: ``part``, ``operator``, ``response`` (columns of ``long``); every cell holds equally many trials.

    Notes
    -----
    Method of moments; negative components are 0, with a note. Reproducibility is operator + interaction.
    ``pooled_*`` pools the interaction into error, which the manual does where it is not significant.
    ``ndc`` = sqrt(2) SD(part)/SD(GRR), not truncated. With one trial in each cell only ``pooled_*`` exist.

    References
    ----------
    AIAG. Measurement Systems Analysis, 4th ed. 2010.
    """
    cube, notes = _cube(tables, *(str(parameter(inputs, name)) for name in ("part", "operator", "response")))
    if np.ptp(cube) == 0:
        raise Undefined("no variance: all measurements are equal")
    a = crossed_anova(cube)
    values: dict[str, object] = {
        "ms_part": a.ms_object,
        "ms_operator": a.ms_condition,
        "ms_interaction": a.ms_interaction,
    }
    messages = list(notes)
    single = Undefined("one trial in each cell: interaction and error cannot be separated")
    separate = (
        *("ms_error", "interaction_F", "interaction_p", "var_repeatability", "var_operator"),
        *("var_interaction", "var_part", "var_reproducibility", "var_grr", "var_total"),
        *("pct_study_variation_grr", "pct_contribution_grr", "ndc"),
    )
    if a.t == 1:
        values |= dict.fromkeys(separate, single)
    else:
        values |= _with_interaction(a, messages)
    operator = max(0.0, (a.ms_condition - a.ms_pooled) / (a.p * a.t))
    part = max(0.0, (a.ms_object - a.ms_pooled) / (a.o * a.t))
    grr = a.ms_pooled + operator
    values |= {
        "pooled_ms_error": a.ms_pooled,
        "pooled_sd_repeatability": np.sqrt(a.ms_pooled),
        "pooled_sd_reproducibility": np.sqrt(operator),
        "pooled_sd_grr": np.sqrt(grr),
        "pooled_sd_part": np.sqrt(part),
        "pooled_sd_total": np.sqrt(grr + part),
        "pooled_pct_grr": 100 * np.sqrt(grr / (grr + part)),
    }
    return values, messages


def _with_interaction(a: Crossed, messages: list[str]) -> dict[str, object]:
    raw = {
        "interaction": (a.ms_interaction - a.ms_error) / a.t,
        "operator": (a.ms_condition - a.ms_interaction) / (a.p * a.t),
        "part": (a.ms_object - a.ms_interaction) / (a.o * a.t),
    }
    messages.extend(f"var_{name} estimated as {v:.6g}, set to 0" for name, v in raw.items() if v < 0)
    interaction, operator, part = (max(0.0, v) for v in raw.values())
    grr = a.ms_error + operator + interaction
    exact = Undefined("the trials of every cell are equal: F is infinite")
    f = a.ms_interaction / a.ms_error if a.ms_error else float("inf")
    return {
        "ms_error": a.ms_error,
        "interaction_F": f if a.ms_error else exact,
        "interaction_p": float(stats.f.sf(f, a.degrees_interaction, a.degrees_error))
        if a.ms_error
        else exact,
        "var_repeatability": a.ms_error,
        "var_operator": operator,
        "var_interaction": interaction,
        "var_part": part,
        "var_reproducibility": operator + interaction,
        "var_grr": grr,
        "var_total": grr + part,
        "pct_study_variation_grr": 100 * np.sqrt(grr / (grr + part)),
        "pct_contribution_grr": 100 * grr / (grr + part),
        "ndc": np.sqrt(2 * part / grr) if grr else Undefined("no measurement variation"),
    }


@statistic(
    "reproducibility",
    values=(
        "n_subjects",
        "n_conditions",
        "n_replicates",
        "wsd_reproducibility",
        "rdc",
        "rdc_ci_low",
        "rdc_ci_high",
    ),
)
def reproducibility(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the reproducibility coefficient: subjects measured on every scanner, site or software version.

    Inputs: ``subject``, ``condition``, ``value`` (columns of ``long``; equally many replicates in each cell),
    ``conf``.

    Notes
    -----
    RDC = 1.96 sqrt(2) sqrt(var condition + var interaction + var repeatability), conditions random; its
    interval is chi-square with Satterthwaite degrees of freedom. With one replicate the interaction is part
    of repeatability. Negative components are 0, with a note.

    References
    ----------
    Raunig DL et al. Stat Methods Med Res 2015;24:27-67. doi:10.1177/0962280214537344.
    """
    cube, notes = _cube(tables, *(str(parameter(inputs, name)) for name in ("subject", "condition", "value")))
    a = crossed_anova(cube)
    messages = list(notes)
    mean_squares = np.array([a.ms_condition, a.ms_interaction, a.ms_error if a.t > 1 else 0.0])
    degrees = np.array([a.o - 1, a.degrees_interaction, max(a.degrees_error, 1)], dtype=float)
    contrasts = {"condition": np.array([1, -1, 0]) / (a.p * a.t)}
    if a.t > 1:
        contrasts["interaction"] = np.array([0, 1, -1]) / a.t
        contrasts["repeatability"] = np.array([0.0, 0.0, 1.0])
    else:
        contrasts["repeatability"] = np.array([0.0, 1.0, 0.0])
    weights = np.zeros(3)
    values: dict[str, object] = {"n_subjects": a.p, "n_conditions": a.o, "n_replicates": a.t}
    for name, contrast in contrasts.items():
        estimate = float(contrast @ mean_squares)
        if estimate < 0:
            messages.append(f"var_{name} estimated as {estimate:.6g}, set to 0")
        else:
            weights += contrast
        values[f"var_{name}"] = max(0.0, estimate)
    total = Combination(weights=weights, mean_squares=mean_squares, degrees=degrees)
    sd = float(np.sqrt(total.value))
    values |= {"wsd_reproducibility": sd, "rdc": RC_FACTOR * sd}
    if sd == 0:
        missing = Undefined("all measurements of a subject are equal: no interval exists")
        return values | {"rdc_ci_low": missing, "rdc_ci_high": missing}, messages
    low, high = chi_square_interval(RC_FACTOR * sd, total.satterthwaite_degrees, confidence(inputs))
    return values | {"df": total.satterthwaite_degrees, "rdc_ci_low": low, "rdc_ci_high": high}, messages
