"""ComBat: remove the shift and the spread that a scanner adds to features, keep what the patients add.

A feature y of patient j at batch (scanner, site) i is modelled as

    y = alpha + X beta + gamma_i + delta_i * noise

with covariates X (age, diagnosis, ...) that are protected: what they explain stays. :func:`fit` estimates the
parameters on one cohort, :func:`apply` uses them unchanged on the same or on new patients of the same
batches.

The estimates of a batch are drawn towards their mean over all features (empirical Bayes), because a batch
of few patients alone says little about its own shift. Everything follows from the mean and the sum of
squares of each batch, so the cost is a few passes over the table.

References
----------
Johnson, Li, Rabinovic (2007), doi:10.1093/biostatistics/kxj037; Fortin et al. (2018),
doi:10.1016/j.neuroimage.2017.11.024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.agreement.combat_shrinkage import SHRINKAGES, Shrinkage, shrunk
from voxtrial.validation.registry import Values, statistic
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, parameter, table


@dataclass(frozen=True, kw_only=True)
class ComBat:
    """Fitted parameters, to be stored beside the model that was trained on harmonized features.

    Arrays run over batches (b), covariates (p) and features (f), in the order of the names.
    """

    features: tuple[str, ...]
    covariates: tuple[str, ...]
    batches: tuple[str, ...]
    counts: tuple[int, ...]
    """Patients of each batch in the fit."""
    reference: str | None
    """Batch that the others are brought to and that is returned bit by bit; None for the pooled mean."""
    alpha: Floats
    """(f) grand mean at X = 0, or that of the reference batch."""
    beta: Floats
    """(p, f)"""
    sigma: Floats
    """(f) pooled standard deviation; gamma is in units of it."""
    gamma: Floats
    """(b, f)"""
    delta: Floats
    """(b, f) variance of the batch in units of sigma²."""
    unchanged: tuple[str, ...]
    """Features that do not vary within some batch: returned as they are."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; :meth:`from_json` restores the same bits."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ComBat:
        """Return the parameters that :meth:`as_json` wrote."""
        values: dict[str, Any] = dict(document)
        for name in ("features", "covariates", "batches", "counts", "unchanged"):
            values[name] = tuple(document[name])
        for name in ("alpha", "beta", "sigma", "gamma", "delta"):
            values[name] = np.asarray(document[name], float)
        values["beta"] = values["beta"].reshape(len(values["covariates"]), len(values["features"]))
        return cls(**values)


def fit(
    values: Floats,
    batch: Sequence[object],
    covariates: Floats | None = None,
    *,
    features: Sequence[str] | None = None,
    covariate_names: Sequence[str] | None = None,
    reference: object | None = None,
    shrinkage: Shrinkage = "parametric",
    mean_only: bool = False,
) -> ComBat:
    """Estimate the effect of each batch.

    Parameters
    ----------
    values
        (n, f) features; nothing missing.
    batch
        (n) scanner or site of each patient.
    covariates
        (n, p) numbers whose effect is kept; code categories as 0/1 columns.
    reference
        Batch that the others are brought to.
    shrinkage
        ``parametric`` or ``nonparametric`` empirical Bayes; ``none`` takes each batch at its word: its
        means and variances are then equal to the pooled ones exactly.
    mean_only
        Correct the shift and leave the spread.

    Raises
    ------
    StatisticError
        One batch only, a batch of one patient (unless ``mean_only``), covariates that a batch or each other
        determine, or a single feature with empirical Bayes.
    """
    y = np.ascontiguousarray(values, float)
    n, f = y.shape
    x = np.empty((n, 0)) if covariates is None else np.asarray(covariates, float)
    names, member = np.unique(np.asarray([str(b) for b in batch]), return_inverse=True)
    counts = np.bincount(member)
    _check(y, x, names, counts, reference, shrinkage, mean_only)
    rows = [np.flatnonzero(member == i) for i in range(len(names))]
    beta = _slopes(y, x, rows)
    means = np.empty((len(names), f))
    squares = np.empty((len(names), f))
    for i, inside in enumerate(rows):
        z = y[inside] - x[inside] @ beta
        means[i] = z.mean(axis=0)
        z -= means[i]
        squares[i] = np.einsum("nf,nf->f", z, z)
    at = None if reference is None else int(np.flatnonzero(names == str(reference))[0])
    if at is None:
        alpha, variance = counts @ means / n, squares.sum(axis=0) / n
    else:
        alpha, variance = means[at], squares[at] / counts[at]
    # A batch of one patient has no spread, and needs none where only the mean is corrected.
    spreads = squares.sum(axis=0, keepdims=True) if mean_only else squares
    still = np.asarray((spreads <= 1e-24 * np.maximum(n * means**2, 1e-300)).any(axis=0))
    sigma = np.sqrt(np.where(still, 1.0, variance))
    gamma_hat = (means - alpha) / sigma
    spread = np.where(still, 1.0, squares / sigma**2)
    gamma, delta = shrunk(gamma_hat, spread, counts, ~still, shrinkage, mean_only, at)
    labels = tuple(features) if features is not None else tuple(f"feature {k + 1}" for k in range(f))
    return ComBat(
        features=labels,
        covariates=tuple(covariate_names or (f"covariate {k + 1}" for k in range(x.shape[1]))),
        batches=tuple(str(name) for name in names),
        counts=tuple(int(c) for c in counts),
        reference=None if reference is None else str(reference),
        alpha=alpha,
        beta=beta,
        sigma=sigma,
        gamma=gamma,
        delta=delta,
        unchanged=tuple(label for label, s in zip(labels, still, strict=True) if s),
    )


def apply(model: ComBat, values: Floats, batch: Sequence[object], covariates: Floats | None = None) -> Floats:
    """Return ``values`` (n, f) without the effect of their batch.

    Raises
    ------
    StatisticError
        A batch that was not in the fit: its effect is not known.
    """
    y = np.ascontiguousarray(values, float)
    x = np.empty((len(y), 0)) if covariates is None else np.asarray(covariates, float)
    if y.shape[1] != len(model.features) or x.shape[1] != len(model.covariates):
        raise StatisticError(
            f"The parameters are of {len(model.features)} features and {len(model.covariates)} covariates; "
            f"given are {y.shape[1]} and {x.shape[1]}."
        )
    member = np.asarray([str(b) for b in batch])
    unknown = sorted(set(member.tolist()) - set(model.batches))
    if unknown:
        raise StatisticError(
            f"The batch {unknown[0]!r} was not in the fit, which knows {', '.join(model.batches)}: its "
            "effect has to be estimated first."
        )
    out = y.copy()
    frozen = np.array([name in model.unchanged for name in model.features], bool)
    for i, name in enumerate(model.batches):
        inside = np.flatnonzero(member == name)
        if name == model.reference or not inside.size:
            continue
        kept = x[inside] @ model.beta
        z = y[inside] - kept
        z -= model.alpha + model.sigma * model.gamma[i]
        z /= np.sqrt(model.delta[i])
        z += model.alpha
        z += kept
        z[:, frozen] = y[np.ix_(inside, frozen)]
        out[inside] = z
    return out


def _check(
    y: Floats,
    x: Floats,
    names: NDArray[Any],
    counts: NDArray[np.intp],
    reference: object | None,
    shrinkage: str,
    mean_only: bool,
) -> None:
    if len(names) < 2:
        raise StatisticError("ComBat compares batches; the table has one.")
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise StatisticError("A feature or covariate is missing; leave its patient out before the fit.")
    if counts.min() < 2 and not mean_only:
        raise StatisticError(
            f"The batch {str(names[counts.argmin()])!r} has one patient and no spread; join batches or use "
            "mean_only."
        )
    if reference is not None and str(reference) not in names:
        raise StatisticError(f"The reference batch {str(reference)!r} is not in the table.")
    if shrinkage not in SHRINKAGES:
        raise StatisticError(f"shrinkage is {shrinkage!r}; choose one of {', '.join(SHRINKAGES)}.")
    if shrinkage != "none" and y.shape[1] < 2:
        raise StatisticError('Empirical Bayes learns from many features; with one use shrinkage "none".')


def _slopes(y: Floats, x: Floats, rows: list[NDArray[np.intp]]) -> Floats:
    """Least squares slopes (p, f) of the covariates within batches (Frisch-Waugh-Lovell)."""
    centred = x.copy()
    for inside in rows:
        centred[inside] -= centred[inside].mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    if (scale == 0).any() or np.linalg.matrix_rank(centred / np.where(scale > 0, scale, 1)) < x.shape[1]:
        raise StatisticError(
            "A covariate is determined by the batch or by the others; it cannot be protected."
        )
    # Centring one side is enough: the other's batch means are orthogonal to it.
    return np.asarray(np.linalg.solve(centred.T @ centred, centred.T @ y))


@statistic("combat_harmonization", values=("n", "mean_first_feature", "sd_first_feature"))
def combat_harmonization(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Return harmonized features as ``harmonized_NAME``, and mean and SD (n - 1) of the first one.

    Inputs: ``batch`` (column of ``input``), ``covariates`` (columns), ``features`` (default: every other
    column but ``id``), ``parametric``, ``empirical_bayes``, ``mean_only``, ``reference``.
    """
    batch = str(parameter(inputs, "batch"))
    protected = [str(name) for name in inputs.get("covariates", ())]
    others = {batch, "id", *protected}
    listed = inputs.get("features") or [c for c in table(tables, "input").columns if c not in others]
    features = [str(name) for name in listed]
    rows = complete(tables, "input", [batch, *protected, *features])
    shrinkage: Shrinkage = "parametric" if inputs.get("parametric", True) else "nonparametric"
    values, covariates, member = rows.matrix(features), rows.matrix(protected), rows.labels(batch).tolist()
    model = fit(
        values,
        member,
        covariates,
        features=features,
        covariate_names=protected,
        reference=inputs.get("reference"),
        shrinkage=shrinkage if inputs.get("empirical_bayes", True) else "none",
        mean_only=bool(inputs.get("mean_only", False)),
    )
    harmonized = apply(model, values, member, covariates)
    notes = [*rows.notes]
    if model.unchanged:
        notes.append(f"returned unchanged, because constant within a batch: {', '.join(model.unchanged)}")
    columns = {f"harmonized_{name}": harmonized[:, k].tolist() for k, name in enumerate(features)}
    return {
        "n": len(harmonized),
        "mean_first_feature": harmonized[:, 0].mean(),
        "sd_first_feature": harmonized[:, 0].std(ddof=1),
        **columns,
    }, notes
