"""Make and apply a penalised model; whatever looks at the outcome stays inside the training fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from voxtrial.validation.accuracy.delong import area
from voxtrial.validation.prediction.penalized import Loss, cox_loss, fit_path, largest_penalty, logistic_loss
from voxtrial.validation.registry import Undefined
from voxtrial.validation.survival.c_index import concordance
from voxtrial.validation.tables import Flags, Floats

PENALTIES = 10
SMALLEST_PENALTY = 1e-2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is predicted: a class, or a censored time.

    Parameters
    ----------
    event
        (n,) class, or whether the time ends with the event.
    time
        (n,) follow-up; None for a class.
    """

    event: Flags
    time: Floats | None

    def take(self, index: NDArray[np.intp]) -> Outcome:
        """Return the outcomes of some patients."""
        return Outcome(event=self.event[index], time=None if self.time is None else self.time[index])

    def loss(self) -> Loss:
        """Return the loss of the model that belongs to the outcome."""
        return logistic_loss(self.event) if self.time is None else cox_loss(self.time, self.event)

    def intercept(self) -> float | None:
        """Return the intercept of the model without features, None for a hazard model."""
        return None if self.time is not None else float(special.logit(self.event.mean()))

    def performance(self, predictor: Floats) -> float:
        """Return AUC or Harrell's C of a linear predictor; NaN where it does not exist."""
        if self.time is not None:
            return concordance(self.time, self.event, predictor).estimate
        if not self.event.any() or self.event.all():
            return np.nan
        return area(predictor[self.event], predictor[~self.event]).auc


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """How a model is made from training patients.

    Parameters
    ----------
    ratio
        0 ridge, 1 lasso.
    screen
        Number of features kept by their association with the outcome; None keeps all.
    inner
        Folds of the inner cross-validation.
    blocks
        (p,) block of each feature; a block of k features is scaled by 1 / sqrt(k), so that a thousand genes
        do not drown five clinical variables.
    late
        One model for each block, their predictors averaged; else one model of all blocks.
    """

    ratio: float
    screen: int | None
    inner: int
    blocks: NDArray[np.intp]
    late: bool


def folds(
    event: Flags, groups: NDArray[np.intp], count: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Return the fold of every patient; groups stay together, groups with an event are spread evenly."""
    names = np.unique(groups)
    with_event = np.array([event[groups == name].any() for name in names])
    fold_of = np.empty(names.size, dtype=np.intp)
    dealt = 0
    for stratum in (True, False):
        members = generator.permutation(np.flatnonzero(with_event == stratum))
        fold_of[members] = (np.arange(members.size) + dealt) % count
        dealt += members.size
    return np.asarray(fold_of[np.searchsorted(names, groups)])


def screened(features: Floats, event: Flags, keep: int | None) -> NDArray[np.intp]:
    """Return the features with the largest absolute correlation with the event, in their order."""
    if keep is None or keep >= features.shape[1]:
        return np.arange(features.shape[1])
    centred = features - features.mean(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        association = np.abs(centred.T @ (event - event.mean())) / scale
    return np.sort(np.argsort(-np.nan_to_num(association), kind="stable")[:keep])


def predict(
    procedure: Procedure,
    training: tuple[Floats, Outcome, NDArray[np.intp]],
    test: Floats,
    generator: np.random.Generator,
) -> Floats:
    """Return the linear predictor of test patients from a model of the training patients.

    Parameters
    ----------
    procedure
        How the model is made.
    training
        Features (n, p), outcome and group of the training patients.
    test
        (m, p) features of the test patients.
    generator
        Deals the inner folds.
    """
    features, outcome, groups = training
    if procedure.late:
        parts = []
        for block in np.unique(procedure.blocks):
            own = procedure.blocks == block
            single = Procedure(
                ratio=procedure.ratio,
                screen=procedure.screen,
                inner=procedure.inner,
                blocks=procedure.blocks[own],
                late=False,
            )
            parts.append(predict(single, (features[:, own], outcome, groups), test[:, own], generator))
        return np.asarray(np.mean(parts, axis=0))
    fold = folds(outcome.event, groups, procedure.inner, generator)
    prepared, applied = _prepared(procedure, features, outcome, test)
    grid = _grid(procedure, prepared, outcome)
    deviance = np.zeros(len(grid))
    for k in range(procedure.inner):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if outside.size == 0 or not outcome.event[inside].any() or outcome.event[inside].all():
            continue
        part = outcome.take(inside)
        train, held_out = _prepared(procedure, features[inside], part, features[outside])
        fits = fit_path(train, part.loss(), grid, procedure.ratio, intercept=part.intercept())
        deviance += _held_out_deviance(
            outcome, inside, outside, [(f.predictor(train), f.predictor(held_out)) for f in fits]
        )
    best = int(np.argmin(deviance))
    fits = fit_path(
        prepared, outcome.loss(), grid[: best + 1], procedure.ratio, intercept=outcome.intercept()
    )
    return fits[-1].predictor(applied)


def _held_out_deviance(
    outcome: Outcome,
    inside: NDArray[np.intp],
    outside: NDArray[np.intp],
    predictors: Sequence[tuple[Floats, Floats]],
) -> Floats:
    """Return the held-out loss of each penalty; of a hazard model the loss of all minus that of training."""
    if outcome.time is None:
        loss = outcome.take(outside).loss()
        return np.array([loss(test)[0] * outside.size for _, test in predictors])
    both = np.concatenate([inside, outside])
    whole, part = outcome.take(both).loss(), outcome.take(inside).loss()
    return np.array(
        [whole(np.concatenate([a, b]))[0] * both.size - part(a)[0] * inside.size for a, b in predictors]
    )


def _prepared(
    procedure: Procedure, features: Floats, outcome: Outcome, test: Floats
) -> tuple[Floats, Floats]:
    """Return screened and standardised training and test features; every number comes from the training."""
    kept = screened(features, outcome.event, procedure.screen)
    mean, deviation = features[:, kept].mean(axis=0), features[:, kept].std(axis=0)
    blocks = procedure.blocks[kept]
    size = np.bincount(blocks)[blocks]
    scale = np.where(deviation > 0, deviation, np.inf) * (
        np.sqrt(size) if np.unique(blocks).size > 1 else 1.0
    )
    return (features[:, kept] - mean) / scale, (test[:, kept] - mean) / scale


def _grid(procedure: Procedure, features: Floats, outcome: Outcome) -> list[float]:
    top = largest_penalty(features, outcome.loss(), procedure.ratio, outcome.intercept() or 0.0)
    return [float(v) for v in np.geomspace(1.0, SMALLEST_PENALTY, PENALTIES) * max(top, 1e-8)]


def cross_validated(
    procedure: Procedure,
    features: Floats,
    outcome: Outcome,
    groups: NDArray[np.intp],
    outer: int,
    generator: np.random.Generator,
    *,
    nested: bool = True,
) -> tuple[Floats, Floats]:
    """Return the out-of-fold predictor of every patient and the performance of each outer fold.

    ``nested=False`` screens the features on all patients first: the mistake whose optimism a leak test shows.
    """
    if not nested:
        kept = screened(features, outcome.event, procedure.screen)
        features = features[:, kept]
        procedure = Procedure(
            ratio=procedure.ratio,
            screen=None,
            inner=procedure.inner,
            blocks=procedure.blocks[kept],
            late=procedure.late,
        )
    fold = folds(outcome.event, groups, outer, generator)
    predictor, found = np.full(outcome.event.size, np.nan), []
    for k in range(outer):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        part = outcome.take(inside)
        if outside.size == 0 or not part.event.any() or (part.time is None and part.event.all()):
            raise Undefined("a fold has no patient, or its training part one class only: use fewer folds")
        predictor[outside] = predict(
            procedure, (features[inside], part, groups[inside]), features[outside], generator
        )
        found.append(outcome.take(outside).performance(predictor[outside]))
    return predictor, np.array(found)
