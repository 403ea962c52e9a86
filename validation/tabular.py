"""Validate a tabular model honestly: everything that looks at the outcome happens inside the training fold.

Features are screened, standardised and their penalty is chosen by an inner cross-validation within each outer
training fold. A leak test runs the same procedure on permuted outcomes, where the truth is chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from voxtrial.validation.bootstrap import stream
from voxtrial.validation.c_index import concordance
from voxtrial.validation.delong import area
from voxtrial.validation.penalized import Loss, cox_loss, fit_path, largest_penalty, logistic_loss
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.scored_cases import Flags, binary
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, complete, parameter

RATIOS = {"ridge": 0.0, "lasso": 1.0}
PENALTIES = 10
SMALLEST_PENALTY = 1e-2
DEFAULT_SEED = 20260101


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


def permuted(outcome: Outcome, generator: np.random.Generator) -> Outcome:
    """Return the outcomes dealt to the patients at random."""
    return outcome.take(generator.permutation(outcome.event.size))


@statistic("nested_cross_validation", values=("performance", "performance_folds", "n", "p"))
def nested_cross_validation(tables: Tables, inputs: Inputs) -> tuple[Values, Sequence[str]]:
    """Estimate AUC (``truth``) or C (``time``, ``event``) of a ridge or lasso model out of fold.

    ``features`` lists columns, or ``blocks`` maps names to columns (``fusion`` early, late). ``model`` ridge
    or lasso, ``screen`` features kept, ``outer`` and ``inner`` folds (5), ``group`` column of patients that
    stay together, ``seed``. With ``permutations`` the leak test is run on as many permuted outcomes: nested
    performance must be near one half; the un-nested one shows what screening before splitting claims.

    References
    ----------
    Varma S, Simon R. BMC Bioinformatics 2006;7:91. doi:10.1186/1471-2105-7-91.
    Ambroise C, McLachlan GJ. Proc Natl Acad Sci USA 2002;99:6562-6566. doi:10.1073/pnas.102102699.
    """
    model, outer = str(inputs.get("model", "ridge")), int(inputs.get("outer", 5))
    inner = int(inputs.get("inner", 5))
    fusion = str(inputs.get("fusion", "early"))
    if model not in RATIOS or fusion not in ("early", "late") or min(outer, inner) < 2:
        raise StatisticError(
            "The model is ridge or lasso, the fusion early or late, and folds are at least 2."
        )
    blocks: Mapping[str, Sequence[str]] = inputs.get("blocks") or {"features": inputs.get("features", ())}
    names = [str(name) for block in blocks.values() for name in block]
    if not names:
        raise StatisticError("Give 'features' or 'blocks'.")
    needed = ("truth",) if "truth" in inputs else ("time", "event")
    outcome_names = [str(parameter(inputs, name)) for name in needed]
    group = inputs.get("group")
    rows = complete(tables, "wide", [*outcome_names, *names, *([group] if group else [])])
    n = len(rows.frame)
    event = binary(rows, outcome_names[-1], inputs.get("positive"))
    outcome = Outcome(event=event, time=rows.numbers(outcome_names[0]) if len(outcome_names) == 2 else None)
    _, groups = np.unique(rows.labels(group) if group else np.arange(n), return_inverse=True)
    few = int(min(event.sum(), (~event).sum()) if outcome.time is None else event.sum())
    if few < 2 * outer:
        raise Undefined(
            f"{few} patients in the smaller class or with an event; {outer} folds need {2 * outer}"
        )
    screen = int(inputs["screen"]) if "screen" in inputs else None
    procedure = Procedure(
        ratio=RATIOS[model],
        screen=screen,
        inner=inner,
        blocks=np.repeat(np.arange(len(blocks)), [len(block) for block in blocks.values()]),
        late=fusion == "late",
    )
    features = rows.matrix(names)
    seed = int(inputs.get("seed", DEFAULT_SEED))
    _, found = cross_validated(procedure, features, outcome, groups, outer, stream(seed, "nested"))
    measured = found[np.isfinite(found)]
    values: dict[str, object] = {
        "n": n,
        "p": len(names),
        "performance": measured.mean() if measured.size else Undefined("no fold holds a comparable pair"),
        "performance_folds": found,
    }
    permutations = int(inputs.get("permutations", 0))
    for name, nested in (("permuted_nested", True), ("permuted_unnested", False)):
        runs = []
        for k in range(permutations):
            generator = stream(seed, "leak", str(k))
            shuffled = permuted(outcome, generator)
            _, by_fold = cross_validated(
                procedure, features, shuffled, groups, outer, generator, nested=nested
            )
            runs.append(float(np.nanmean(by_fold)))
        if permutations:
            values |= {f"{name}_mean": float(np.mean(runs)), f"{name}_runs": runs}
    notes = [*rows.notes, f"{'AUC' if outcome.time is None else 'C'} as the mean over {outer} outer folds"]
    return values, [*notes, f"{model}, penalty by {inner} inner folds, seed {seed}"]
