"""Harmonize the features of one patient with ComBat parameters that were fitted on a cohort and stored.

The raw value stays beside the harmonized one, in reports as in DICOM: this is a correction of the scanner's
effect, not another measurement. The method, its fit and its references are in
:mod:`voxtrial.validation.agreement.combat`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.validation.agreement.combat import ComBat, apply


def save(model: ComBat, path: Path) -> None:
    """Write the parameters as JSON; the same parameters give the same bytes."""
    text = json.dumps(model.as_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> ComBat:
    """Return the parameters that :func:`save` wrote.

    Raises
    ------
    Misconfigured
        The file does not hold them.
    """
    try:
        return ComBat.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise Misconfigured(f"{path} holds no ComBat parameters: {error!r}") from error


def harmonized(
    model: ComBat, features: Mapping[str, float], batch: str, covariates: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the harmonized value of every feature of ``model`` for one patient.

    Parameters
    ----------
    features
        Measured value by name; further names are ignored.
    batch
        Scanner or site, as in the fit.
    covariates
        Value of every covariate that the fit protected.

    Raises
    ------
    Refused
        ``unknown_batch``, ``missing_covariate`` or ``missing_feature``: nothing is guessed.
    """
    if batch not in model.batches:
        raise Refused(
            f"ComBat has no parameters of the scanner {batch!r} (it knows {', '.join(model.batches)}).",
            rule="unknown_batch",
        )
    known = covariates or {}
    for rule, names, given in (
        ("missing_covariate", model.covariates, known),
        ("missing_feature", model.features, features),
    ):
        for name in names:
            if name not in given or not np.isfinite(given[name]):
                what = rule.removeprefix("missing_")
                raise Refused(f"ComBat needs the {what} {name!r}; it has no value.", rule=rule)
    values = np.array([[features[name] for name in model.features]])
    protected = np.array([[known[name] for name in model.covariates]]).reshape(1, -1)
    return dict(zip(model.features, apply(model, values, [batch], protected)[0].tolist(), strict=True))
