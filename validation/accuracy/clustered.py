"""Account for units that share a patient: lesions, eyes or images of one person are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.accuracy.delong import NO_SPREAD, normal_interval, placements
from voxtrial.validation.accuracy.proportions import normal_quantile, wilson
from voxtrial.validation.accuracy.scored_cases import binary, require_both_classes, scored_cases
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import (
    Flags,
    Floats,
    Inputs,
    Tables,
    comparable,
    complete,
    confidence,
    parameter,
)

ONE_CLUSTER = "there is one cluster: the spread between clusters is unknown"

SPREAD_NAMES = (
    "variance_ratio_estimator",
    "se",
    "survey_se",
    "design_effect",
    "effective_n",
    "wald_ci_low",
    "wald_ci_high",
    "wilson_effective_n_low",
    "wilson_effective_n_high",
)


def cluster_indices(labels: NDArray[np.generic]) -> tuple[NDArray[np.intp], int]:
    """Return the cluster of each unit as 0, 1, ... and the number of clusters."""
    names, index = np.unique(comparable(labels), return_inverse=True)
    return index, names.size


@dataclass(frozen=True, kw_only=True)
class ClusteredArea:
    """Area under the ROC curve with a variance that knows the clusters."""

    auc: float
    variance: float


def clustered_area(positive: Flags, score: Floats, labels: NDArray[np.generic]) -> ClusteredArea:
    """Return the area under the ROC curve of clustered units.

    Parameters
    ----------
    positive, score
        (n,) class and score of each unit; a cluster may hold both classes.
    labels
        (n,) cluster of each unit.

    References
    ----------
    Obuchowski NA. Nonparametric analysis of clustered ROC curve data. Biometrics 1997;53:567-578.
    doi:10.2307/2533958.
    """
    v10, v01 = placements(score[positive], score[~positive])
    auc = float(v10.mean())
    index, clusters = cluster_indices(labels)
    sums = [
        np.bincount(index[chosen], weights=component - auc, minlength=clusters)
        for chosen, component in ((positive, v10), (~positive, v01))
    ]
    with_class = [np.unique(index[chosen]).size for chosen in (positive, ~positive)]
    if min(with_class) < 2:
        return ClusteredArea(auc=auc, variance=np.nan)
    m, n = v10.size, v01.size
    s10 = with_class[0] / ((with_class[0] - 1) * m) * float(sums[0] @ sums[0])
    s01 = with_class[1] / ((with_class[1] - 1) * n) * float(sums[1] @ sums[1])
    s11 = clusters / (clusters - 1) * float(sums[0] @ sums[1])
    return ClusteredArea(auc=auc, variance=s10 / m + s01 / n + 2 * s11 / (m * n))


@statistic("clustered_auc", values=("auc", "variance", "se", "ci_low", "ci_high"))
def clustered_auc(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate the area of ``score`` for ``truth`` when units share a ``cluster``."""
    cluster = parameter(inputs, "cluster")
    cases = scored_cases(tables, inputs, ["score"], also=[cluster])
    require_both_classes(cases.positive)
    found = clustered_area(cases.positive, cases.scores[:, 0], cases.frame[cluster].to_numpy())
    values: dict[str, object] = {"auc": found.auc, "variance": found.variance}
    if np.isnan(found.variance):
        reason = Undefined("a class lies in one cluster: the spread between clusters is unknown")
        return values | dict.fromkeys(("variance", "se", "ci_low", "ci_high"), reason), cases.notes
    if found.variance <= 1e-20:
        return values | dict.fromkeys(("se", "ci_low", "ci_high"), Undefined(NO_SPREAD)), cases.notes
    se = float(np.sqrt(found.variance))
    low, high = normal_interval(found.auc, se, confidence(inputs))
    return values | {"se": se, "ci_low": low, "ci_high": high}, cases.notes


@dataclass(frozen=True, kw_only=True)
class ClusteredProportion:
    """Proportion of units with the variance of the ratio estimator, and how many units that is worth."""

    estimate: float
    variance: float
    n_units: int
    n_clusters: int

    @property
    def design_effect(self) -> float:
        """Variance over that of independent units."""
        return self.variance * self.n_units / (self.estimate * (1 - self.estimate))

    @property
    def effective_n(self) -> float:
        """Number of independent units with the same variance."""
        return self.n_units / self.design_effect


def clustered_share(outcome: Flags, labels: NDArray[np.generic]) -> ClusteredProportion:
    """Return the proportion of positive units; variance k/(k-1) sum (x_i - m_i p)^2 / (sum m)^2.

    References
    ----------
    Rao JNK, Scott AJ. A simple method for the analysis of clustered binary data. Biometrics 1992;48:577-585.
    doi:10.2307/2532311.
    """
    index, clusters = cluster_indices(labels)
    x = np.bincount(index, weights=outcome, minlength=clusters)
    m = np.bincount(index, minlength=clusters)
    p = float(outcome.mean())
    spread = float(((x - m * p) ** 2).sum())
    variance = clusters / (clusters - 1) * spread / outcome.size**2 if clusters > 1 else np.nan
    return ClusteredProportion(estimate=p, variance=variance, n_units=outcome.size, n_clusters=clusters)


@statistic(
    "clustered_proportion",
    values=("n_units", "n_clusters", "estimate", *SPREAD_NAMES),
)
def clustered_proportion(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate the proportion of units with ``outcome`` (0/1) when units share a ``cluster``.

    The Wilson interval uses the effective number of units, n over the design effect.
    """
    outcome, cluster = parameter(inputs, "outcome"), parameter(inputs, "cluster")
    role = next((role for role in ("long", "wide") if role in tables), "long")
    rows = complete(tables, role, [outcome, cluster])
    if rows.frame.empty:
        raise Undefined("there is no unit")
    found = clustered_share(binary(rows, outcome, inputs.get("positive")), rows.labels(cluster))
    values: dict[str, object] = {
        "n_units": found.n_units,
        "n_clusters": found.n_clusters,
        "estimate": found.estimate,
    }
    keys = SPREAD_NAMES
    if found.n_clusters < 2:
        return values | dict.fromkeys(keys, Undefined(ONE_CLUSTER)), rows.notes
    if not found.variance > 1e-20:
        reason = Undefined("every cluster has the same proportion: the variance of 0 is not certainty")
        return values | {"variance_ratio_estimator": 0.0} | dict.fromkeys(keys[1:], reason), rows.notes
    level = confidence(inputs)
    se = float(np.sqrt(found.variance))
    half = normal_quantile(level) * se
    worth = found.effective_n
    bounds = (found.estimate - half, found.estimate + half, *wilson(found.estimate * worth, worth, level))
    numbers = (found.variance, se, se, found.design_effect, worth, *bounds)
    return values | dict(zip(keys, numbers, strict=True)), rows.notes
