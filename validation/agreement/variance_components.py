"""Split the variance of a measurement over nested sources: site, day, run, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.agreement.repeatability import RC_FACTOR, chi_square_interval
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Complete, Floats, Inputs, Tables, complete, confidence, parameter


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A sum of mean squares with weights, e.g. a total variance."""

    weights: Floats
    mean_squares: Floats
    degrees: Floats

    @property
    def value(self) -> float:
        """The sum."""
        return float(self.weights @ self.mean_squares)

    @property
    def satterthwaite_degrees(self) -> float:
        """Degrees of freedom of the chi-square with the same first two moments; NaN without variance.

        References
        ----------
        Satterthwaite FE. Biometrics Bull 1946;2:110-114. doi:10.2307/3002019.
        """
        squares = float(np.sum((self.weights * self.mean_squares) ** 2 / self.degrees))
        return self.value**2 / squares if squares else float("nan")


def nested_factors(rows: Complete, factors: Sequence[str]) -> list[NDArray[np.intp]]:
    """Return for each factor the cell that a row belongs to: a run is one only within its day."""
    cells = []
    current = np.zeros(len(rows.frame), np.intp)
    for factor in factors:
        _, codes = np.unique(rows.labels(factor), return_inverse=True)
        _, current = np.unique(current * (codes.max(initial=0) + 1) + codes, return_inverse=True)
        cells.append(current)
    return cells


def _factor_names(given: object) -> list[str]:
    """Return the factors of "day/run nested" or ["day", "run"]."""
    if isinstance(given, str):
        return [name.strip() for name in given.removesuffix("nested").strip().split("/")]
    if isinstance(given, Sequence):
        return [str(name) for name in given]
    return [str(given)]


@statistic(
    "variance_components_nested",
    values=("mean", "var_total", "sd_total", "cv_pct_total", "df_total", "var_error", "sd_error", "df_error"),
)
def variance_components_nested(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the components of a balanced nested experiment, e.g. 20 days x 2 runs x 2 replicates.

    Inputs: ``response`` and ``factors``, "day/run" or a list from the outermost inwards (columns of
    ``long``), ``conf``. A component is named by its path: ``var_day``, ``var_day_run``, ``var_error``.

    Notes
    -----
    Method of moments from mean squares. A negative component is set to 0 with a note, and the total is the
    sum of what is left. ``df_total`` follows Satterthwaite; intervals of SDs are chi-square. An unbalanced
    experiment is not decided here: ``variance_components_reml`` takes it.

    References
    ----------
    CLSI EP05-A3. Searle SR, Casella G, McCulloch CE. Variance Components. 1992, ch. 3.
    """
    conf, response = confidence(inputs), str(parameter(inputs, "response"))
    factors = _factor_names(parameter(inputs, "factors"))
    rows = complete(tables, "long", [response, *factors])
    y = rows.numbers(response)
    levels = nested_factors(rows, factors)
    _require_balance(levels, y.size)
    mean_squares, degrees, sizes = _hierarchical_anova(y, levels)
    estimates = np.append((mean_squares[:-1] - mean_squares[1:]) / sizes, mean_squares[-1])
    names = ["_".join(factors[: i + 1]) for i in range(len(factors))] + ["error"]
    notes = list(rows.notes)
    weights = np.zeros(len(names))
    for i, (name, estimate) in enumerate(zip(names, estimates, strict=True)):
        if estimate < 0:
            notes.append(f"var_{name} estimated as {estimate:.6g}, set to 0")
        elif i < len(sizes):
            weights[i] += 1 / sizes[i]
            weights[i + 1] -= 1 / sizes[i]
        else:
            weights[i] += 1
    components = np.maximum(estimates, 0)
    total = Combination(weights=weights, mean_squares=mean_squares, degrees=degrees)
    mean = float(y.mean())

    def as_sd(name: str, variance: float, df: float) -> dict[str, object]:
        sd = float(np.sqrt(variance))
        interval: tuple[object, object] = (Undefined("no variance at this level"),) * 2
        if variance > 0:
            interval = chi_square_interval(sd, df, conf)
        return {
            f"var_{name}": variance,
            f"sd_{name}": sd,
            f"cv_pct_{name}": 100 * sd / mean if mean else Undefined("the mean is zero"),
            f"df_{name}": df,
        } | (
            {f"sd_{name}_ci_low": interval[0], f"sd_{name}_ci_high": interval[1]}
            if name in ("total", "error")
            else {}
        )

    values: dict[str, object] = {"mean": mean, "n": y.size}
    values |= as_sd("total", total.value, total.satterthwaite_degrees)
    for name, variance, df in zip(names, components, degrees, strict=True):
        values |= as_sd(name, float(variance), float(df))
    values["reproducibility_coefficient"] = RC_FACTOR * np.sqrt(total.value)
    values["repeatability_coefficient"] = RC_FACTOR * np.sqrt(components[-1])
    return values, notes


def _require_balance(levels: Sequence[NDArray[np.intp]], n: int) -> None:
    if not n:
        raise Undefined("no complete row")
    outer = np.zeros(n, np.intp)
    for inner in [*levels, np.arange(n)]:
        cells = np.unique(np.column_stack([outer, inner]), axis=0)
        counts = np.bincount(cells[:, 0])
        if counts.min() != counts.max():
            raise Undefined("the experiment is not balanced; variance_components_reml takes unbalanced data")
        if counts[0] < 2:
            raise Undefined(
                "a factor has one level or a cell one replicate: its variance cannot be separated"
            )
        outer = inner


def _hierarchical_anova(y: Floats, levels: Sequence[NDArray[np.intp]]) -> tuple[Floats, Floats, Floats]:
    """Return mean squares and degrees of freedom from the outermost factor to error, and rows per cell."""
    fitted = [np.full(y.size, y.mean())]
    cells = [1]
    sizes = []
    for level in levels:
        counts = np.bincount(level)
        fitted.append((np.bincount(level, y) / counts)[level])
        cells.append(counts.size)
        sizes.append(y.size / counts.size)
    fitted.append(y)
    cells.append(y.size)
    squares = np.array([np.sum((b - a) ** 2) for a, b in pairwise(fitted)])
    degrees = np.diff(cells).astype(float)
    return squares / degrees, degrees, np.array(sizes)
