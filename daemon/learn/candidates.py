"""What a network marks in fresh fields of known truth, and what is learnt from it without gradients.

The cut on the probability at which volumes are right, the regression that tells lesions from pieces of
vessels, and the one for the class, all on the components that findings are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.harmonize.resample import mask_to_grid
from voxtrial.daemon.inference.classifier import LESION, Logistic, features
from voxtrial.daemon.inference.network import activated
from voxtrial.daemon.inference.postprocess import components
from voxtrial.daemon.inference.tiles import padded_shape
from voxtrial.daemon.learn import card
from voxtrial.daemon.learn.phantoms import Nodule, Phantom, chest_phantom
from voxtrial.daemon.learn.scanner import image, random_scanner
from voxtrial.daemon.models.manifest import Findings
from voxtrial.daemon.models.unet3d import UNet3d
from voxtrial.daemon.volume import Volume

CUTS = tuple(float(cut) for cut in np.round(np.arange(0.2, 0.81, 0.01), 2))
SURROUNDINGS = 4
"""Voxels around a nodule in which its volume is counted."""

Track = Callable[[Iterable[int]], Iterable[int]]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A fresh field of the training domain as the network sees it.

    Parameters
    ----------
    probability, truth
        (z, y, x) on the grid of ``image``; ``truth`` is the label of the nodule that fills half of the voxel.
    """

    image: Volume
    probability: NDArray[np.float32]
    truth: NDArray[np.uint8]
    nodules: tuple[Nodule, ...]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A component, measured; ``nodule`` is None for a piece of a vessel or of the wall."""

    values: NDArray[np.float64]
    nodule: Nodule | None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was learnt: tensors to store, operating points, and from how many components."""

    tensors: dict[str, NDArray[np.float64]]
    points: list[card.Cut]
    lesions: int
    others: int


def imaged(phantom: Phantom, rng: np.random.Generator) -> Volume:
    """Return ``phantom`` by a random scanner, harmonized by the recipe that training and use share."""
    return Recipe.from_steps(card.RECIPE).apply(image(phantom, random_scanner(rng), rng).volume).volume


def look(network: UNet3d, rng: np.random.Generator, phantoms: int, track: Track) -> list[Seen]:
    """Return what ``network`` sees in fresh fields with one or two nodules."""
    seen = []
    for _ in track(range(phantoms)):
        phantom = chest_phantom(rng)
        volume = imaged(phantom, rng)
        truth = np.zeros(volume.array.shape, np.uint8)
        for nodule in phantom.nodules:
            truth[mask_to_grid(phantom.mask(nodule), volume.grid, interpolator="box").array] = nodule.label
        probability = foreground(network, volume)
        seen.append(Seen(image=volume, probability=probability, truth=truth, nodules=phantom.nodules))
    return seen


@torch.inference_mode()
def foreground(network: UNet3d, volume: Volume) -> NDArray[np.float32]:
    """Return the probability (z, y, x) of a nodule, in one pass."""
    shape = volume.array.shape
    margin = [(0, a - b) for a, b in zip(padded_shape(shape, network.alignment), shape, strict=True)]
    padded = np.pad(volume.array.astype(np.float32), margin, mode="edge")
    logits: NDArray[np.float32] = network(torch.from_numpy(padded)[None, None])[0].numpy()
    z, y, x = shape
    return np.asarray(activated(logits, "sigmoid")[0, :z, :y, :x])


def calibrated_cut(seen: Sequence[Seen]) -> float:
    """Return the cut on the probability at which the median volume is right."""
    ratios = np.array([row for one in seen for row in _volume_ratios(one)])
    return CUTS[int(np.argmin(np.abs(np.log(np.median(ratios, axis=0)))))]


def _volume_ratios(one: Seen) -> list[list[float]]:
    """Return predicted over true volume at each of ``CUTS``, for every nodule of a field."""
    labels, _ = ndimage.label(one.probability > 0.5, np.ones((3, 3, 3)))
    voxel_mm3 = one.image.grid.voxel_volume_mm3
    ratios = []
    for nodule in one.nodules:
        body = one.truth == nodule.label
        near = ndimage.binary_dilation(body, np.ones((3, 3, 3), bool), iterations=SURROUNDINGS)
        own = near & ((labels == 0) | np.isin(labels, np.unique(labels[body])))
        probability = one.probability[own]
        counts = [np.count_nonzero(probability > cut) for cut in CUTS]
        ratios.append([float(count * voxel_mm3 / nodule.volume_mm3) for count in counts])
    return ratios


def candidates(seen: Iterable[Seen], cut: float) -> list[Candidate]:
    """Return every component that would be judged, measured, with the nodule that it mostly is."""
    rule = Findings(rule="component", threshold=cut, minimum_volume_mm3=card.MINIMUM_VOLUME_MM3)
    return [
        Candidate(
            values=features(one.image, probability, box, threshold=cut),
            nodule=_nodule(one, one.truth[box][probability > cut]),
        )
        for one in seen
        for probability, box in components(one.probability, one.image.grid, rule)
    ]


def _nodule(one: Seen, labels: NDArray[np.uint8]) -> Nodule | None:
    touched = labels[labels > 0]
    return one.nodules[int(np.bincount(touched).argmax()) - 1] if touched.size else None


def learn(marked: Sequence[Candidate]) -> Judgement:
    """Return the regressions, and operating points from five-fold cross-validated scores.

    Notes
    -----
    Where every component is a lesion there is nothing to tell apart; the tensors then hold the class only.
    """
    lesions = [one for one in marked if one.nodule]
    values = np.array([one.values for one in lesions])
    malignant = np.array([one.nodule.malignant for one in lesions if one.nodule])
    score, cross_validated = _regression(values, malignant)
    tensors = score.tensors("malignancy")
    if len(lesions) < len(marked):
        # Vessels are rarer than lesions; weighted alike, a probability of one half is the even chance.
        lesion, _ = _regression(
            np.array([one.values for one in marked]),
            np.array([one.nodule is not None for one in marked]),
            class_weight="balanced",
        )
        tensors |= lesion.tensors(LESION)
    return Judgement(
        tensors=tensors,
        points=card.operating_points(malignant, cross_validated),
        lesions=len(lesions),
        others=len(marked) - len(lesions),
    )


def _regression(
    values: NDArray[np.float64], truth: NDArray[np.bool_], *, class_weight: str | None = None
) -> tuple[Logistic, NDArray[np.float64]]:
    """Return the regression of ``truth`` on ``values``, and its five-fold cross-validated scores."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chain = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.5, max_iter=1000, class_weight=class_weight)
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    score = cross_val_predict(chain, values, truth, cv=folds, method="predict_proba")[:, 1]
    chain.fit(values, truth)
    scaler, model = chain[0], chain[1]
    fitted = Logistic(
        mean=np.asarray(scaler.mean_, float),
        scale=np.asarray(scaler.scale_, float),
        coefficients=np.asarray(model.coef_[0], float),
        intercept=np.asarray(model.intercept_, float),
    )
    return fitted, np.asarray(score, float)
