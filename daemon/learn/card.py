"""What is written about the built-in model: its manifest, and the card with the measured figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.learn.held_out import Detection, ScannerFigures
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.models.toml import lines as toml_lines

VERSION = "1.1.0"
SCREENING_SENSITIVITY = 0.95
RECIPE: tuple[dict[str, Any], ...] = (
    {"step": "resample", "spacing_mm": [1.0, 1.0, 1.0], "interpolator": "linear", "anti_alias": True},
    {"step": "window", "low": -1000.0, "high": 400.0, "to": [0.0, 1.0]},
)

ENVELOPE: tuple[dict[str, Any], ...] = (
    {"fact": "unit", "among": ["[hnsf'U]"]},
    {"fact": "pixel_spacing_mm", "minimum": 0.5, "maximum": 1.2, "action": "flag"},
    {"fact": "tilt_degrees", "maximum": 0.1},
)
"""The simulated scanners have 0.6 to 1 mm pixels: what lies a little beyond is flagged, not refused."""
TILE = 224
"""Edge of the largest window, halo included: about 1.4 GiB of activations."""
MINIMUM_VOLUME_MM3 = 60.0
"""A third of the smallest nodule that is judged."""
EVEN_CHANCE = 0.5
"""Components below are rejected as pieces of vessels."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A frozen cut on the malignancy."""

    name: str
    threshold: float
    rule: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the weights came about."""

    phantoms: int
    scans_each: int
    steps: int
    settled: int
    measured: int
    lesions: int
    others: int
    seed: int

    def as_json(self) -> dict[str, int]:
        """Return plain values."""
        return asdict(self)


def operating_points(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> list[Cut]:
    """Return the balanced cut (Youden 1950) and one for screening, from cross-validated scores."""
    cuts = np.unique(score)
    sensitivity = np.array([(score[truth] >= cut).mean() for cut in cuts])
    specificity = np.array([(score[~truth] < cut).mean() for cut in cuts])
    balanced = float(cuts[np.argmax(sensitivity + specificity)])
    screening = float(cuts[sensitivity >= SCREENING_SENSITIVITY].max())
    basis = f"five-fold cross-validated scores of {len(truth)} training-domain nodules"
    return [
        Cut(name="balanced", threshold=round(balanced, 4), rule=f"largest Youden index on {basis}"),
        Cut(
            name="screening",
            threshold=round(screening, 4),
            rule=f"largest cut with sensitivity of at least {SCREENING_SENSITIVITY} on {basis}",
        ),
    ]


def manifest(cut: float, points: Sequence[Cut], *, rejects: bool, receptive_radius: int, weights: str) -> str:
    """Return ``model.toml``; with ``rejects`` the classifier decides what is a finding."""
    halo = -(-receptive_radius // 8) * 8
    seen = 2 * receptive_radius + 1
    frozen = "\n".join(
        f"""
[[operating_points]]
name = "{point.name}"
score = "malignancy"
threshold = {point.threshold}
rule = "{point.rule}\""""
        for point in points
    )
    return f"""# Written by voxtrial.daemon.learn.nodule; the card beside it holds the measured figures.

[identity]
name = "nodule-phantom"
version = "{VERSION}"
description = "Lung nodule segmentation and malignancy, phantoms"
intended_use = "Demonstration and acceptance tests on phantoms. Trained on phantoms, not for clinical use."
licence = "Apache-2.0"
manufacturer = "Voxtrial"
family = ["123110", "DCM", "Artificial Intelligence"]

[[inputs]]
role = "ct"
selector = {{ modality = "CT", minimum_slices = 3, maximum_slice_spacing_mm = 5.5, prefer = "thinnest" }}
recipe = [
{toml_lines(RECIPE)}
]
envelope = [
{toml_lines(ENVELOPE)}
]

[engine]
architecture = "unet3d"
activation = "sigmoid"
precision = "float32"
weights = "{weights}"
parameters = {{ channels = [8, 16, 32, 64] }}

[tiling]
mode = "exact"
tile = [{TILE}, {TILE}, {TILE}]
halo = [{halo}, {halo}, {halo}]

[[outputs]]
index = 1
name = "nodule"
label = "Lung nodule"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["27925004", "SCT", "Nodule"]
site = ["39607008", "SCT", "Lung"]
rgb = [230, 80, 60]

[findings]
rule = "component"
threshold = {cut}
connectivity = 26
minimum_volume_mm3 = {MINIMUM_VOLUME_MM3}
classifier = "shape_and_rim"
minimum_lesion_probability = {EVEN_CHANCE if rejects else 0.0}

[[scores]]
name = "malignancy"
concept = ["111047", "DCM", "Probability of cancer"]
unit = "1"
{frozen}

[explain]
method = "gradcam"
layer = "down.3"
output = 1

[training]
data = "Phantoms with known nodules, imaged by random simulated CT scanners of 1 to 5 mm slices"
spacing_mm = [1.0, 1.0, 1.0]
receptive_field = [{seen}, {seen}, {seen}]
"""


def text(
    model: StoredModel,
    how: Training,
    lines: Sequence[ScannerFigures],
    detection: Detection,
    *,
    volume_icc: float,
    judged: int,
    parameters: int,
    receptive_field: int,
) -> str:
    """Return the card."""
    point = model.manifest.operating_points[0]
    rows = "\n".join(
        f"| {line.scanner.name} | {line.scanner.pixel_mm:g} x {line.scanner.slice_mm:g}"
        f" | {line.scanner.kernel.lower()} | {line.dice:.3f} ({line.dice_p10:.3f}) | {line.volume_bias:+.1%}"
        f" | {line.auc:.2f} | {line.sensitivity:.2f} / {line.specificity:.2f} |"
        for line in lines
    )
    return f"""# nodule-phantom {model.manifest.identity.version}

**Trained on phantoms, not for clinical use.** It shows what Voxtrial does with a model, and it is the
subject of the demonstration and of the acceptance tests.

- Task: lung nodules as separate lesions (SEG), volume, and a malignancy between 0 and 1 for each.
- Network: 3-D U-Net 8-16-32-64, {parameters:,} parameters, batch norm with fixed statistics; receptive
  field {receptive_field} voxels of 1 mm.
- Lesion or vessel, and malignancy: two logistic regressions over sixteen measured features of shape and
  rim; no deep head.
- Input: CT, resampled to 1 mm isotropic, window -1000 to 400 HU.
- Training: {how.phantoms} phantoms, each imaged by {how.scans_each} random scanners, {how.steps} steps
  and {how.settled} under fixed statistics, Dice + cross entropy; cut, regressions and operating points from
  {how.measured} further phantoms, in which the network marked {how.lesions} lesions and {how.others} pieces
  of vessels; seed {how.seed}.
- Made by `python -m voxtrial.daemon.learn.nodule --out DIR`; anyone can run it again.
- Model digest {model.digest}

## Held-out phantoms

{judged} phantoms with one nodule, half of them malignant, each imaged by all eight simulated scanners. Dice
(mean and 10th percentile) and median volume bias at 1 mm against the exact truth; sensitivity and specificity
at the frozen cut {point.threshold} ({point.name}).

| scanner | pixel x slice, mm | kernel | Dice (p10) | volume bias | AUC | sensitivity / specificity |
|---|---|---|---|---|---|---|
{rows}

ICC(A,1) of the log volume over the eight scanners: {volume_icc:.4f}.

Detection in {detection.fields} fields of 96 x 96 x 72 mm with vessels and chest wall ({detection.scans}
scans): precision {detection.precision:.3f}, recall {detection.recall:.3f}
({detection.true_positives} found, {detection.false_positives} false, {detection.false_negatives} missed).

## Limits

Real lungs hold structures that no phantom has. Nodules that touch vessels or pleura, part-solid and
ground-glass nodules, and nodules below 6 mm in diameter were not in the training set. The malignancy only
knows lobulation and spicules.
"""
