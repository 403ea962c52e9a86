"""Lesion-wise detection: which lesions of the reference were found, and what was found beside them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.segmentation.mask_agreement import Masks, Spacing, built_pair, check_pair
from voxtrial.validation.segmentation.surface_kernels import Indices, overlap
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables

Labels = NDArray[np.int32]


def lesion_detection(
    reference: Masks,
    test: Masks,
    spacing_mm: Spacing,
    *,
    minimum_iou: float = 0.1,
    minimum_volume_mm3: float = 0.0,
) -> dict[str, object]:
    """Match the connected components of two masks one to one and count hits, misses and false alarms.

    Parameters
    ----------
    reference, test
        (z, y, x) bool, the same shape. Components touch by a face, an edge or a corner (26 neighbours).
    minimum_iou
        Two components may match when their intersection over union exceeds 0 and reaches this; 0 means any
        shared voxel. The matching maximises the summed intersection over union.
    minimum_volume_mm3
        Components below this volume are dropped from both masks first.

    Notes
    -----
    One component that covers two lesions finds one of them. Sensitivity needs a lesion, precision a finding.

    References
    ----------
    Maier-Hein L, Reinke A et al. Nat Methods 2024;21:195-212. doi:10.1038/s41592-023-02151-z (localisation
    criterion and assignment).
    """
    check_pair(reference, test, spacing_mm)
    voxel = float(np.prod(spacing_mm))
    box = overlap(*(np.ascontiguousarray(mask).view(np.uint8) for mask in (reference, test)))[1]
    around = tuple(slice(low, high) for low, high in box.reshape(3, 2))
    reference, test = reference[around], test[around]
    a, volume_a = _components(reference, minimum_volume_mm3 / voxel)
    b, volume_b = _components(test, minimum_volume_mm3 / voxel)
    rows, columns, shared = _shared_voxels(a, b, volume_b.size)
    iou = shared / (volume_a[rows] + volume_b[columns] - shared)
    allowed = iou >= minimum_iou
    matched = _matched(rows[allowed], columns[allowed], iou[allowed], volume_a.size, volume_b.size)
    hit = np.flatnonzero(allowed)[matched]
    rows, columns, shared = rows[hit], columns[hit], shared[hit]
    hits, lesions, findings = rows.size, volume_a.size, volume_b.size
    detected = np.zeros(lesions, dtype=int)
    detected[rows] = 1
    dice = 2 * shared / (volume_a[rows] + volume_b[columns])
    return {
        "n_lesions": lesions,
        "n_findings": findings,
        "n_detected": hits,
        "n_missed": lesions - hits,
        "n_false_alarms": findings - hits,
        "sensitivity": hits / lesions if lesions else Undefined("the reference has no lesion"),
        "precision": hits / findings if findings else Undefined("the test has no finding"),
        "f1": 2 * hits / (lesions + findings)
        if lesions + findings
        else Undefined("neither mask has a lesion"),
        "mean_dice_of_detected": float(dice.mean()) if hits else Undefined("no lesion was detected"),
        "lesion_volume_mm3": volume_a * voxel,
        "lesion_detected": detected,
        "finding_volume_mm3": volume_b * voxel,
    }


def _components(mask: Masks, minimum_voxels: float) -> tuple[Labels, Floats]:
    """Return component labels from 1, without the small ones, and the voxels of each."""
    found, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    kept = sizes >= minimum_voxels
    kept[0] = False
    renumbered = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return renumbered[found], sizes[kept].astype(float)


def _shared_voxels(a: Labels, b: Labels, n_b: int) -> tuple[Indices, Indices, Floats]:
    """Return the pairs of components that overlap, from 0, and the voxels that they share."""
    both = (a > 0) & (b > 0)
    pairs, counts = np.unique((a[both].astype(np.int64) - 1) * n_b + b[both] - 1, return_counts=True)
    return pairs // max(n_b, 1), pairs % max(n_b, 1), counts.astype(float)


def _matched(rows: Indices, columns: Indices, iou: Floats, n_a: int, n_b: int) -> NDArray[np.bool_]:
    """Return which pairs the best one-to-one matching holds.

    Components that reach each other through overlaps are matched on their own, so that thousands of stray
    components cost no more than the few that meet.
    """
    graph = coo_array((np.ones(rows.size), (rows, n_a + columns)), shape=(n_a + n_b, n_a + n_b))
    _, cluster = connected_components(graph, directed=False)
    order = np.argsort(cluster[rows], kind="stable")
    chosen = np.zeros(rows.size, np.bool_)
    for part in np.split(order, np.flatnonzero(np.diff(cluster[rows][order])) + 1):
        own_rows, r = np.unique(rows[part], return_inverse=True)
        own_columns, c = np.unique(columns[part], return_inverse=True)
        gain = np.zeros((own_rows.size, own_columns.size))
        gain[r, c] = iou[part]
        partner = dict(zip(*linear_sum_assignment(gain, maximize=True), strict=True))
        chosen[part] = [partner.get(i) == j for i, j in zip(r, c, strict=True)]
    return chosen


@statistic("lesion_detection")
def lesions_of_built_masks(tables: Tables, inputs: Inputs) -> Values:
    """Match the lesions of two masks that the inputs describe as ``segmentation_agreement`` takes them.

    Further inputs: ``minimum_iou`` (0.1), ``minimum_volume_mm3`` (0).
    """
    reference, test, spacing = built_pair(inputs)
    iou = float(inputs.get("minimum_iou", 0.1))
    if not 0 <= iou <= 1:
        raise StatisticError(f"minimum_iou is {iou}; it lies between 0 and 1.")
    return lesion_detection(
        reference,
        test,
        spacing,
        minimum_iou=iou,
        minimum_volume_mm3=float(inputs.get("minimum_volume_mm3", 0)),
    )
