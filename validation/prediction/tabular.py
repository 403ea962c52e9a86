"""Validate a tabular model honestly: nested cross-validation, and a leak test on permuted outcomes.

Features are screened, standardised and their penalty is chosen by an inner cross-validation within each outer
training fold. On permuted outcomes the truth is chance; a procedure that finds more leaks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from voxtrial.validation.accuracy.scored_cases import binary
from voxtrial.validation.bootstrap import stream
from voxtrial.validation.prediction.nested_model import Outcome, Procedure, cross_validated
from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.tables import Inputs, StatisticError, Tables, complete, parameter

RATIOS = {"ridge": 0.0, "lasso": 1.0}
DEFAULT_SEED = 20260101


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
