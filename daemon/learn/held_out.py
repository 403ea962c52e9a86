"""Judge the built-in model on phantoms that it never saw, each imaged by all eight scanners.

The figures go through the same code as a study from a hospital: recipe, prediction, findings on the scanner's
own grid. They are printed on the model's card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from voxtrial.daemon.harmonize.resample import mask_to_grid
from voxtrial.daemon.inference.postprocess import Finding, findings
from voxtrial.daemon.inference.predict import Prediction, predict
from voxtrial.daemon.learn.phantoms import Nodule, Phantom, chest_phantom
from voxtrial.daemon.learn.scanner import SCANNERS, Scanner, SimulatedScan, image
from voxtrial.daemon.models.store import StoredModel
from voxtrial.validation.agreement.icc import intraclass_correlations

Progress = Callable[[float], None]

SINGLE_FIELD_MM = (48.0, 56.0, 56.0)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the model said about one nodule on one scanner."""

    scanner: str
    malignant: bool
    dice: float
    volume_ratio: float
    volume_mm3: float
    score: float
    """NaN where the nodule was missed."""


@dataclass(frozen=True, kw_only=True)
class ScannerFigures:
    """One line of the card."""

    scanner: Scanner
    dice: float
    dice_p10: float
    volume_bias: float
    """Median of predicted over true volume, minus one."""
    auc: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Findings in fields with vessels and wall, against the nodules that are there."""

    fields: int
    scans: int
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """Share of the findings that are nodules."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    @property
    def recall(self) -> float:
        """Share of the nodules that are found."""
        return self.true_positives / max(self.true_positives + self.false_negatives, 1)


def read_scan(model: StoredModel, scan: SimulatedScan) -> tuple[Prediction, list[Finding]]:
    """Run ``model`` over one scan the way that the pipeline does."""
    (wanted,) = model.manifest.inputs
    volume = wanted.harmonization.apply(scan.volume).volume
    prediction = predict(model, {wanted.role: volume})
    return prediction, findings(prediction, scan.grid, model, {wanted.role: volume})


def read_single_nodules(
    model: StoredModel, rng: np.random.Generator, *, phantoms: int, progress: Progress | None = None
) -> list[Reading]:
    """Return one reading for each phantom and scanner; each phantom holds one nodule, classes alternate."""
    readings = []
    for number in range(phantoms):
        phantom = chest_phantom(rng, SINGLE_FIELD_MM, classes=[number % 2 == 1])
        for scanner in SCANNERS:
            scan = image(phantom, scanner, rng)
            readings.append(_reading(model, phantom, phantom.nodules[0], scanner, scan))
        if progress:
            progress((number + 1) / phantoms)
    return readings


def _reading(
    model: StoredModel, phantom: Phantom, nodule: Nodule, scanner: Scanner, scan: SimulatedScan
) -> Reading:
    prediction, found = read_scan(model, scan)
    label = model.manifest.outputs[0]
    mask = prediction.of(label) > model.manifest.findings.threshold
    truth = mask_to_grid(phantom.mask(nodule), prediction.grid, interpolator="box").array
    volume_mm3 = float(mask.sum()) * prediction.grid.voxel_volume_mm3
    on_source = scan.truth == nodule.label
    score = next((one.scores["malignancy"] for one in found if (one.mask & on_source).any()), np.nan)
    return Reading(
        scanner=scanner.name,
        malignant=nodule.malignant,
        dice=2.0 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()),
        volume_ratio=volume_mm3 / nodule.volume_mm3,
        volume_mm3=volume_mm3,
        score=score,
    )


def figures(readings: Sequence[Reading], threshold: float) -> list[ScannerFigures]:
    """Return the line of each scanner; ``threshold`` is the frozen cut on the malignancy."""
    from sklearn.metrics import roc_auc_score

    lines = []
    for scanner in SCANNERS:
        own = [r for r in readings if r.scanner == scanner.name]
        truth = np.array([r.malignant for r in own])
        score = np.nan_to_num(np.array([r.score for r in own]), nan=0.0)
        dice = np.array([r.dice for r in own])
        lines.append(
            ScannerFigures(
                scanner=scanner,
                dice=float(dice.mean()),
                dice_p10=float(np.percentile(dice, 10)),
                volume_bias=float(np.median([r.volume_ratio for r in own]) - 1),
                auc=float(roc_auc_score(truth, score)),
                sensitivity=float((score[truth] >= threshold).mean()),
                specificity=float((score[~truth] < threshold).mean()),
            )
        )
    return lines


def volume_icc(readings: Sequence[Reading]) -> float:
    """Return ICC(A,1) of the log volume over the scanners (absolute agreement, single rating)."""
    table = np.array([[r.volume_mm3 for r in readings if r.scanner == s.name] for s in SCANNERS]).T
    return float(intraclass_correlations(np.log(np.maximum(table, 1.0)))["icc2_1"].estimate)


def detect(
    model: StoredModel,
    rng: np.random.Generator,
    *,
    fields: int = 10,
    scanners: Sequence[Scanner] = (SCANNERS[0], SCANNERS[3], SCANNERS[4], SCANNERS[7]),
    progress: Progress | None = None,
) -> Detection:
    """Count findings and nodules in fields of lung: a finding is true when it touches a nodule."""
    true = false = missed = 0
    for number in range(fields):
        phantom = chest_phantom(rng)
        for scanner in scanners:
            scan = image(phantom, scanner, rng)
            _, found = read_scan(model, scan)
            touched = [set(np.unique(scan.truth[one.mask])) - {0} for one in found]
            hit = set().union(*touched)
            true += len(hit)
            false += sum(not labels for labels in touched)
            missed += len(phantom.nodules) - len(hit)
        if progress:
            progress((number + 1) / fields)
    return Detection(
        fields=fields,
        scans=fields * len(scanners),
        true_positives=true,
        false_positives=false,
        false_negatives=missed,
    )
