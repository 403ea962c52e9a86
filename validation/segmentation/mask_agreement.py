"""Agreement of two masks: overlap, surface distances in mm, surface Dice and volume error.

What an empty mask leaves undefined is said, never averaged in: Dice of two empty masks does not exist, of one
empty mask it is 0; distances need both surfaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.validation.registry import Undefined, Values, statistic
from voxtrial.validation.segmentation.surface_distance import border_distances, surface_element_distances
from voxtrial.validation.segmentation.surface_kernels import border_voxels, overlap
from voxtrial.validation.tables import Inputs, StatisticError, Tables, parameter

Masks = NDArray[np.bool_]
Spacing = tuple[float, float, float]

DISTANCES = (
    "hd",
    "hd95_max_of_directed",
    "hd95_pooled",
    "asd_ref_to_test",
    "asd_test_to_ref",
    "assd_pooled",
    "masd_mean_of_means",
    "rms_surface_distance",
    "centroid_distance_mm",
    "hd95_surfel",
    "asd_surfel_ref_to_test",
    "asd_surfel_test_to_ref",
)


def segmentation_agreement(
    reference: Masks,
    test: Masks,
    spacing_mm: Spacing,
    tolerances_mm: Sequence[float] = (),
) -> dict[str, object]:
    """Return every measure of agreement of two masks on one grid.

    Parameters
    ----------
    reference, test
        (z, y, x) bool, the same shape.
    spacing_mm
        Distance of voxel centres along (z, y, x), mm.
    tolerances_mm
        Tolerances of the surface Dice, from the variation between observers.

    Returns
    -------
    dict
        Number, or ``Undefined`` with the reason, by name. ``volume_difference_mm3`` and
        ``relative_volume_error`` are test - reference; ``nsd_surfel_*`` (area-weighted) is the surface Dice
        to report, ``nsd_voxel_*`` counts border voxels for comparison with MONAI; ``hd95_max_of_directed``
        is the HD95 of Metrics Reloaded and MONAI, ``hd95_pooled`` of MedPy, ``hd95_surfel`` of
        surface-distance.

    References
    ----------
    Maier-Hein L, Reinke A et al. Metrics reloaded. Nat Methods 2024;21:195-212.
    doi:10.1038/s41592-023-02151-z. Taha AA, Hanbury A. BMC Med Imaging 2015;15:29.
    """
    check_pair(reference, test, spacing_mm)
    a, b = (np.ascontiguousarray(mask).view(np.uint8) for mask in (reference, test))
    counts, box, sums_a, sums_b = overlap(a, b)
    n_a, n_b, both = (int(count) for count in counts)
    values = _overlap_measures(n_a, n_b, both, float(np.prod(spacing_mm)))
    names = [f"nsd_{kind}_{tolerance:g}mm" for tolerance in tolerances_mm for kind in ("voxel", "surfel")]
    if not (n_a and n_b):
        values |= dict.fromkeys((*DISTANCES, *names), Undefined(_which_is_empty(n_a, n_b)))
        boundaries = (len(border_voxels(mask, box)) for mask in (a, b))
        return values | dict(zip(("n_boundary_ref", "n_boundary_test"), boundaries, strict=True))
    border = border_distances(a, b, box, spacing_mm)
    surfel = surface_element_distances(a, b, box, spacing_mm)
    pooled = border.pooled
    values |= {
        "n_boundary_ref": border.from_reference.size,
        "n_boundary_test": border.from_test.size,
        "hd": border.maximum,
        "hd95_max_of_directed": border.percentile_of_directed(95),
        "hd95_pooled": border.percentile_pooled(95),
        "asd_ref_to_test": border.mean_from_reference,
        "asd_test_to_ref": border.mean_from_test,
        "assd_pooled": float(pooled.mean()),
        "masd_mean_of_means": (border.mean_from_reference + border.mean_from_test) / 2,
        "rms_surface_distance": float(np.sqrt(np.mean(pooled**2))),
        "centroid_distance_mm": float(np.linalg.norm((sums_a / n_a - sums_b / n_b) * spacing_mm)),
        "hd95_surfel": surfel.percentile_by_area(95),
        "asd_surfel_ref_to_test": surfel.mean_from_reference,
        "asd_surfel_test_to_ref": surfel.mean_from_test,
    }
    for tolerance in tolerances_mm:
        values[f"nsd_voxel_{tolerance:g}mm"] = border.share_within(tolerance)
        values[f"nsd_surfel_{tolerance:g}mm"] = surfel.share_within(tolerance)
    return values


def dice(reference: Masks, test: Masks) -> float:
    """Return the Dice coefficient; NaN when both masks are empty."""
    size = int(np.count_nonzero(reference)) + int(np.count_nonzero(test))
    return 2 * int(np.count_nonzero(reference & test)) / size if size else float("nan")


def check_pair(reference: Masks, test: Masks, spacing_mm: Spacing) -> None:
    """Refuse masks that do not share a three-dimensional grid, and a spacing that is none."""
    if reference.shape != test.shape or reference.ndim != 3:
        raise StatisticError(
            f"The masks have shapes {reference.shape} and {test.shape}; both must be (z, y, x) on one grid."
        )
    if len(spacing_mm) != 3 or not all(step > 0 for step in spacing_mm):
        raise StatisticError(f"The spacing is {spacing_mm}; three positive numbers in mm are needed.")


def _which_is_empty(n_reference: int, n_test: int) -> str:
    if n_reference:
        return "the test mask is empty"
    return "the reference mask is empty" if n_test else "both masks are empty"


def _overlap_measures(n_a: int, n_b: int, both: int, voxel_mm3: float) -> dict[str, object]:
    neither = Undefined("both masks are empty")
    no_reference = Undefined(_which_is_empty(0, n_b))
    size = n_a + n_b
    return {
        "n_ref": n_a,
        "n_test": n_b,
        "n_intersection": both,
        "dice": 2 * both / size if size else neither,
        "jaccard": both / (size - both) if size else neither,
        "sensitivity": both / n_a if n_a else no_reference,
        "precision": both / n_b if n_b else Undefined(_which_is_empty(n_a, 0)),
        "volume_ref_mm3": n_a * voxel_mm3,
        "volume_test_mm3": n_b * voxel_mm3,
        "volume_difference_mm3": (n_b - n_a) * voxel_mm3,
        "relative_volume_error": (n_b - n_a) / n_a if n_a else no_reference,
        "volumetric_similarity": 1 - abs(n_a - n_b) / size if size else neither,
    }


def built_mask(shapes: Sequence[Mapping[str, Any]], shape: Sequence[int], spacing: Sequence[float]) -> Masks:
    """Build a mask from a description: boxes, spheres and ellipsoids, united or subtracted in order.

    A box takes half-open index ranges ``origin`` .. ``origin + size``; a sphere or ellipsoid holds a voxel
    whose centre, at index x spacing, satisfies its inequality with <=.
    """
    mask = np.zeros(tuple(shape), np.bool_)
    centres = np.meshgrid(
        *(np.arange(n) * step for n, step in zip(shape, spacing, strict=True)), indexing="ij", sparse=True
    )
    for part in shapes:
        kind = part["shape"]
        if kind == "empty":
            continue
        region = np.zeros_like(mask)
        if kind == "box":
            region[
                tuple(slice(o, o + size) for o, size in zip(part["origin"], part["size"], strict=True))
            ] = True
        elif kind in ("sphere", "ellipsoid"):
            region |= _within(centres, part["center_mm"], _radii(part))
        else:
            raise StatisticError(f"There is no shape {kind!r}; known are empty, box, sphere and ellipsoid.")
        mask = mask & ~region if part.get("op") == "subtract" else mask | region
    return mask


def _radii(part: Mapping[str, Any]) -> list[float]:
    """Return the radius of a sphere, or the three semi-axes of an ellipsoid, mm."""
    name = next((name for name in ("radius_mm", "radii_mm", "semi_axes_mm") if name in part), None)
    if name is None:
        raise StatisticError(f"A {part['shape']} needs radius_mm, or semi_axes_mm for three of them.")
    return [float(radius) for radius in np.broadcast_to(part[name], 3 if np.ndim(part[name]) else 1)]


def _within(centres: Sequence[NDArray[Any]], centre: Sequence[float], radii: Sequence[float]) -> Masks:
    offsets = [x - c for x, c in zip(centres, centre, strict=True)]
    if len(radii) == 1:  # compared as squares: a centre at exactly the radius is inside
        return np.asarray(sum(offset**2 for offset in offsets) <= radii[0] ** 2)
    return np.asarray(sum((offset / r) ** 2 for offset, r in zip(offsets, radii, strict=True)) <= 1)


def built_pair(inputs: Inputs) -> tuple[Masks, Masks, Spacing]:
    """Return reference, test and spacing from ``array_shape``, ``spacing_mm``, ``reference`` and ``test``."""
    shape, spacing = parameter(inputs, "array_shape"), parameter(inputs, "spacing_mm")
    reference, test = (built_mask(parameter(inputs, name), shape, spacing) for name in ("reference", "test"))
    z, y, x = (float(step) for step in spacing)
    return reference, test, (z, y, x)


@statistic("segmentation_agreement")
def agreement_of_built_masks(tables: Tables, inputs: Inputs) -> Values:
    """Compare two masks that the inputs describe.

    Inputs: ``array_shape``, ``spacing_mm``, ``reference`` and ``test`` (lists of shapes),
    ``nsd_tolerances_mm``. Masks of files are compared by ``voxtrial metrics``.
    """
    reference, test, spacing = built_pair(inputs)
    return segmentation_agreement(reference, test, spacing, inputs.get("nsd_tolerances_mm", ()))
