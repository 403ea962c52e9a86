"""Lin's concordance correlation: how far pairs fall from the line of identity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Inputs, Tables, complete, confidence, parameter

VALUES = ("n", "ccc", "ci_low", "ci_high", "pearson", "scale_shift", "location_shift", "bias_correction")


@statistic("lin_ccc", values=VALUES)
def lin_ccc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return the concordance correlation coefficient with its z-transformed interval.

    Inputs: ``x``, ``y`` (columns of ``wide``), ``conf``. Variances divide by n, as Lin does;
    ``scale_shift`` is SD(y)/SD(x) and ``location_shift`` (mean y - mean x)/sqrt(SD(x) SD(y)).

    Notes
    -----
    Not defined when a method does not vary. Exact agreement gives 1 without an interval.

    References
    ----------
    Lin LI. Biometrics 1989;45:255-268. doi:10.2307/2532051; corrections Biometrics 2000;56:324-325.
    """
    x_name, y_name = (str(parameter(inputs, name)) for name in ("x", "y"))
    rows = complete(tables, "wide", [x_name, y_name])
    x, y = rows.numbers(x_name), rows.numbers(y_name)
    n = x.size
    if n < 3:
        raise Undefined(f"{n} complete pairs: at least 3 are needed")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise Undefined("one of the methods does not vary")
    var_x, var_y = float(x.var()), float(y.var())
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    gap = float(y.mean() - x.mean())
    r = covariance / np.sqrt(var_x * var_y)
    ccc = 2 * covariance / (var_x + var_y + gap**2)
    u = gap / (var_x * var_y) ** 0.25
    values: dict[str, object] = {
        "n": n,
        "ccc": ccc,
        "pearson": r,
        "scale_shift": np.sqrt(var_y / var_x),
        "location_shift": u,
        "bias_correction": ccc / r if r else Undefined("the methods are not correlated"),
    }
    if 1 - ccc < 1e-14 or r == 0:
        reason = "the pairs agree exactly" if r else "the methods are not correlated"
        missing = Undefined(f"{reason}: the interval does not exist")
        return values | {"ci_low": missing, "ci_high": missing}, rows.notes
    variance = (
        (1 - r**2) * ccc**2 * (1 - ccc**2) / r**2
        + 2 * ccc**3 * (1 - ccc) * u**2 / r
        - ccc**4 * u**4 / (2 * r**2)
    ) / (n - 2)
    half = stats.norm.ppf((1 + confidence(inputs)) / 2) * np.sqrt(variance) / (1 - ccc**2)
    centre = np.arctanh(ccc)
    return values | {"ci_low": np.tanh(centre - half), "ci_high": np.tanh(centre + half)}, rows.notes
