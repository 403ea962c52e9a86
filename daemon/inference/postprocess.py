"""From probabilities to findings on the grid of the scanner: what SEG and SR are written from.

Lesions are told apart on the grid of the model, where a millimetre is the same in every direction. Each is
then carried back by interpolating its probability at the voxel centres of the source and cutting there, so no
mask is ever resampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxtrial.daemon.inference.predict import Prediction
from voxtrial.daemon.models.manifest import Findings, OutputLabel
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.volume import Affine, Grid, Shape, Volume

if TYPE_CHECKING:
    from voxtrial.daemon.inference.classifier import Classifier

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One lesion or region.

    Parameters
    ----------
    roi
        Number within the result, from 1; the largest lesion of a label comes first.
    label
        What it is, coded.
    part
        (z, y, x) bool, the region inside ``box``, never empty; regions of one result do not overlap.
    box
        Where ``part`` lies on the source grid.
    shape
        Of the source grid.
    volume_mm3
        Volume on the grid of the model: there a millimetre is the same for every scanner, while the voxels of
        a thick-slice source round a small lesion to a few slices.
    scores
        By the names in the manifest, e.g. ``malignancy``.
    """

    roi: int
    label: OutputLabel
    part: NDArray[np.bool_]
    box: Box
    shape: Shape
    volume_mm3: float
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(z, y, x) bool on the whole source grid, made anew at each call."""
        whole = np.zeros(self.shape, bool)
        whole[self.box] = self.part
        return whole


def findings(
    prediction: Prediction, source_grid: Grid, model: StoredModel, volumes: dict[str, Volume]
) -> list[Finding]:
    """Return the findings of ``model`` on the grid that the scanner made.

    Parameters
    ----------
    prediction
        Of the same model.
    source_grid
        Grid of the series that the masks shall stand on.
    volumes
        The harmonized inputs by role, as given to ``predict``; scores are measured on the first.

    Notes
    -----
    A component that is smaller than ``minimum_volume_mm3``, that the classifier holds for no lesion, or that
    no voxel centre of the source falls into, is not a finding.
    """
    if model.manifest.findings.rule == "label":
        return _regions(prediction, source_grid, model)
    claimed = np.zeros(source_grid.shape, bool)
    found: list[Finding] = []
    image = volumes[model.manifest.inputs[0].role]
    classifier = _classifier(model)
    for label in model.manifest.outputs:
        for probability, box in components(prediction.of(label), prediction.grid, model.manifest.findings):
            scores = classifier.scores(image, probability, box) if classifier else {}
            if scores is None:
                continue
            where, mask = _carry_back(probability, box, prediction.grid, source_grid, model)
            mask &= ~claimed[where]
            if not mask.any():
                continue
            claimed[where] |= mask
            found.append(
                Finding(
                    roi=len(found) + 1,
                    label=label,
                    part=mask,
                    box=where,
                    shape=source_grid.shape,
                    volume_mm3=_cut_volume_mm3(probability, prediction.grid, model),
                    scores=scores,
                )
            )
    return found


def components(
    probability: NDArray[np.float32], grid: Grid, rule: Findings
) -> Iterator[tuple[NDArray[np.float32], Box]]:
    """Yield each component, largest first, as a probability in a box where all other components are zero."""
    rank = {6: 1, 18: 2, 26: 3}[rule.connectivity]
    labels, _ = ndimage.label(probability > rule.threshold, ndimage.generate_binary_structure(3, rank))
    sizes = np.bincount(labels.ravel())
    boxes = ndimage.find_objects(labels)
    smallest = rule.minimum_volume_mm3 / grid.voxel_volume_mm3
    order = np.argsort(-sizes[1:], kind="stable") + 1
    for component in order:
        if sizes[component] < max(smallest, 1):
            return
        box = _widened(boxes[component - 1], labels.shape, by=2)
        inside = labels[box]
        yield np.where((inside == 0) | (inside == component), probability[box], 0).astype(np.float32), box


def _cut_volume_mm3(probability: NDArray[np.float32], grid: Grid, model: StoredModel) -> float:
    return float(np.count_nonzero(probability > model.manifest.findings.threshold) * grid.voxel_volume_mm3)


def _widened(box: Sequence[slice], shape: tuple[int, ...], *, by: int) -> Box:
    z, y, x = (slice(max(s.start - by, 0), min(s.stop + by, n)) for s, n in zip(box, shape, strict=True))
    return z, y, x


def _carry_back(
    probability: NDArray[np.float32], box: Box, grid: Grid, source_grid: Grid, model: StoredModel
) -> tuple[Box, NDArray[np.bool_]]:
    """Return the part of the source grid that ``box`` covers, and the mask on it."""
    corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
    start = np.array([s.start for s in box], float)
    extent = np.array(probability.shape) - 1
    reached = source_grid.index(grid.world(start + corners * extent))
    low = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, source_grid.shape)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, 0, source_grid.shape)
    z, y, x = (slice(int(a), int(max(a, b))) for a, b in zip(low, high, strict=True))
    part = _part_of(grid, box)
    target = _part_of(source_grid, (z, y, x))
    return (z, y, x), _sampled(probability, part, target) > model.manifest.findings.threshold


def _part_of(grid: Grid, box: Box) -> Grid:
    """Return the part of ``grid`` that ``box`` cuts out."""
    z, y, x = (s.stop - s.start for s in box)
    return Grid(shape=(z, y, x), affine=_shifted(grid.affine, np.array([s.start for s in box])))


def _shifted(affine: Affine, start: NDArray[Any]) -> Affine:
    """Return the affine of the part of a grid that begins at index ``start``."""
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, :3] @ start
    return shifted


def _sampled(
    probability: NDArray[np.float32], grid: Grid, target: Grid, *, outside: float = 0.0
) -> NDArray[np.float32]:
    """Interpolate ``probability`` at the voxel centres of ``target``.

    The outermost voxels reach half a voxel beyond their centres, as everywhere; ``outside`` begins there.
    """
    padded = np.pad(probability, 1, mode="edge")
    back = np.linalg.inv(_shifted(grid.affine, np.array([-1, -1, -1]))) @ target.affine
    return np.asarray(
        ndimage.affine_transform(
            padded,
            back[:3, :3],
            offset=back[:3, 3],
            output_shape=target.shape,
            order=1,
            mode="constant",
            cval=outside,
        )
    )


def _regions(prediction: Prediction, source_grid: Grid, model: StoredModel) -> list[Finding]:
    """Return one region for each label that occurs: the most probable label at each source voxel."""
    if prediction.exclusive:
        best = _sampled(prediction.probabilities[0], prediction.grid, source_grid, outside=1.0)
    else:
        best = np.full(source_grid.shape, model.manifest.findings.threshold, np.float32)
    labels = np.zeros(source_grid.shape, np.uint8)
    for label in model.manifest.outputs:
        probability = _sampled(prediction.of(label), prediction.grid, source_grid)
        better = probability > best
        labels[better] = label.index
        np.maximum(best, probability, out=best)
    smallest = model.manifest.findings.minimum_volume_mm3 / source_grid.voxel_volume_mm3
    sizes = np.bincount(labels.ravel(), minlength=len(model.manifest.outputs) + 1)
    boxes = ndimage.find_objects(labels, max_label=len(model.manifest.outputs))
    counts = np.bincount(
        prediction.labels(model.manifest.findings.threshold).ravel(),
        minlength=len(model.manifest.outputs) + 1,
    )
    volumes_mm3 = counts * prediction.grid.voxel_volume_mm3
    kept = [label for label in model.manifest.outputs if sizes[label.index] >= max(smallest, 1)]
    return [
        Finding(
            roi=roi,
            label=label,
            part=labels[box] == label.index,
            box=_widened(box, labels.shape, by=0),
            shape=source_grid.shape,
            volume_mm3=float(volumes_mm3[label.index]),
        )
        for roi, (label, box) in enumerate(((one, boxes[one.index - 1]) for one in kept), start=1)
    ]


def _classifier(model: StoredModel) -> Classifier | None:
    """Return what judges components, where the model asks for it."""
    if not model.manifest.findings.classifier:
        return None
    from voxtrial.daemon.inference.classifier import Classifier

    return Classifier.load(model)
