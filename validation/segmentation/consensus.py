"""One reference from several readers, and how well the readers agree: the ceiling of any algorithm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.segmentation.mask_agreement import Masks, built_mask, dice
from voxtrial.validation.tables import Floats, Inputs, StatisticError, Tables, parameter

MAXIMUM_READERS = 16


@dataclass(frozen=True, kw_only=True)
class Staple:
    """Consensus of several masks with the estimated performance of each reader.

    Parameters
    ----------
    probability
        Probability of foreground for each voxel, the shape of the masks.
    sensitivity, specificity
        Per reader, against the hidden truth.
    """

    probability: Floats
    sensitivity: Floats
    specificity: Floats


def majority(masks: Sequence[Masks]) -> Masks:
    """Return the voxels that more than half of the readers mark; a tie is background."""
    votes = np.sum(np.stack(masks), axis=0, dtype=np.int16)
    return np.asarray(2 * votes > len(masks))


def staple(masks: Sequence[Masks], *, tolerance: float = 1e-9, most_iterations: int = 1000) -> Staple:
    """Estimate the hidden truth and each reader's performance by expectation maximisation.

    Voxels that all readers marked alike share one pattern, so an iteration costs 2^readers, not voxels. The
    prior is the mean share of foreground over readers, readers start at 0.99999.

    References
    ----------
    Warfield SK, Zou KH, Wells WM. IEEE Trans Med Imaging 2004;23:903-921. doi:10.1109/TMI.2004.828354.
    """
    readers = len(masks)
    if not 2 <= readers <= MAXIMUM_READERS:
        raise StatisticError(f"{readers} readers; the consensus takes 2 to {MAXIMUM_READERS}.")
    # A product depends on the order of its factors in the last digit, which a saddle of the likelihood
    # magnifies: the readers are taken in an order that follows from their masks alone.
    order = sorted(range(readers), key=lambda i: hashlib.sha256(np.packbits(masks[i]).tobytes()).digest())
    pattern = np.zeros(masks[0].shape, np.uint16)
    for bit, reader in enumerate(order):
        pattern |= masks[reader].astype(np.uint16) << bit
    voxels = np.bincount(pattern.ravel(), minlength=1 << readers).astype(float)
    marked = (np.arange(1 << readers)[:, None] >> np.arange(readers) & 1).astype(float)
    prior = float(voxels @ marked.mean(axis=1)) / voxels.sum()
    sensitivity, specificity = np.full(readers, 0.99999), np.full(readers, 0.99999)
    weight = np.zeros(voxels.size)
    for _ in range(most_iterations):
        inside = prior * np.prod(np.where(marked, sensitivity, 1 - sensitivity), axis=1)
        outside = (1 - prior) * np.prod(np.where(marked, 1 - specificity, specificity), axis=1)
        with np.errstate(invalid="ignore"):
            weight = np.nan_to_num(inside / (inside + outside))
        foreground, background = voxels * weight, voxels * (1 - weight)
        before = np.concatenate([sensitivity, specificity])
        with np.errstate(invalid="ignore"):
            sensitivity = foreground @ marked / foreground.sum()
            specificity = background @ (1 - marked) / background.sum()
        if not np.abs(np.concatenate([sensitivity, specificity]) - before).max() > tolerance:
            break
    as_given = np.argsort(order)
    return Staple(
        probability=weight[pattern], sensitivity=sensitivity[as_given], specificity=specificity[as_given]
    )


def inter_reader_ceiling(readers: Sequence[Masks], test: Masks | None = None) -> dict[str, object]:
    """Return the Dice of every pair of readers, of each with the majority of the others, and of a test.

    An algorithm cannot be asked to agree with readers better than they agree with one another; where
    ``test_minus_ceiling`` is not below zero it agrees with them as a reader does. Pairs of empty masks have
    no Dice: they are counted in ``n_undefined_pairs`` and leave the mean undefined.
    """
    if len(readers) < 2:
        raise Undefined("one reader: a ceiling needs at least two")
    pairs = [_dice(a, b) for a, b in combinations(readers, 2)]
    others = [_dice(mask, majority([*readers[:i], *readers[i + 1 :]])) for i, mask in enumerate(readers)]
    values: dict[str, object] = {
        "n_readers": len(readers),
        "pairwise_dice": pairs,
        "pairwise_dice_mean": _mean(pairs),
        "pairwise_dice_min": min(_defined(pairs), default=Undefined("all masks are empty")),
        "reader_vs_others_dice": others,
        "n_undefined_pairs": len(pairs) - len(_defined(pairs)),
    }
    if all(mask.any() for mask in readers):
        estimate = staple(readers)
        values |= {
            "staple_sensitivity": estimate.sensitivity,
            "staple_specificity": estimate.specificity,
            "staple_volume_voxels": int(np.count_nonzero(estimate.probability >= 0.5)),
        }
    if test is not None:
        against = [_dice(mask, test) for mask in readers]
        ceiling, reached = _mean(pairs), _mean(against)
        values |= {
            "test_vs_readers_dice": against,
            "test_vs_readers_dice_mean": reached,
            "test_minus_ceiling": reached - ceiling
            if isinstance(reached, float) and isinstance(ceiling, float)
            else Undefined("a pair of masks is empty"),
        }
    return values


def _dice(a: Masks, b: Masks) -> float | Undefined:
    value = dice(a, b)
    return Undefined("both masks are empty") if np.isnan(value) else value


def _defined(values: Sequence[float | Undefined]) -> list[float]:
    return [value for value in values if isinstance(value, float)]


def _mean(values: Sequence[float | Undefined]) -> float | Undefined:
    defined = _defined(values)
    return float(np.mean(defined)) if len(defined) == len(values) else Undefined("a pair of masks is empty")


@statistic("inter_reader_ceiling", values=("n_readers", "pairwise_dice", "pairwise_dice_mean"))
def ceiling_of_built_masks(tables: Tables, inputs: Inputs) -> Values:
    """Compare readers whose masks the inputs describe: ``readers`` (a list of lists of shapes), ``test``.

    ``array_shape`` and ``spacing_mm`` as for ``segmentation_agreement``.
    """
    shape, spacing = parameter(inputs, "array_shape"), parameter(inputs, "spacing_mm")
    readers = [built_mask(shapes, shape, spacing) for shapes in parameter(inputs, "readers")]
    test = built_mask(inputs["test"], shape, spacing) if "test" in inputs else None
    return inter_reader_ceiling(readers, test)
