"""From volume and mask to the region that features are counted on: interpolated, re-segmented, in bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.resample import array_to_grid, isotropic_grid, mask_to_grid
from voxtrial.daemon.radiomics.aggregation import Dimension
from voxtrial.daemon.radiomics.configuration import Configuration, Interpolation
from voxtrial.daemon.radiomics.crop import Index, box, carried_over, cropped, extent
from voxtrial.daemon.radiomics.discretise import fixed_bin_number, fixed_bin_size, lower_end
from voxtrial.daemon.radiomics.local_intensity import SPHERE_RADIUS_MM
from voxtrial.daemon.radiomics.placement import Placement
from voxtrial.daemon.radiomics.resegment import resegment
from voxtrial.daemon.radiomics.zones import Zones, find_zones
from voxtrial.daemon.volume import Grid, Mask, Spacing, Volume

MAXIMUM_CELLS = 2**27
"""Cells of the co-occurrence matrices of all slices and directions: 1 GB."""

SUPPORT = 24
"""Source voxels about the region that are interpolated from. What a cubic B-spline sees further away weighs
less than 0.268 ** 24 = 2e-14."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region of interest with its surroundings, ready for features.

    Parameters
    ----------
    image
        (z, y, x) intensities after interpolation and filter, with a margin of at least `SPHERE_RADIUS_MM`
        about the region where the image reaches that far.
    morphology
        (z, y, x) mask as it was drawn.
    intensity
        (z, y, x) mask after re-segmentation.
    levels
        (z, y, x) grey levels from 1 in the intensity mask, 0 elsewhere.
    grid
        Where the arrays stand.
    """

    image: NDArray[np.float64]
    morphology: NDArray[np.bool_]
    intensity: NDArray[np.bool_]
    levels: NDArray[np.int32]
    grid: Grid

    @property
    def spacing_mm(self) -> Spacing:
        """Voxel size along (z, y, x), mm."""
        return self.grid.spacing_mm

    @cached_property
    def zones_in_slices(self) -> Zones:
        """Zones that end at their slice."""
        return find_zones(self.levels, self.n_levels, self.morphology, by_slice=True)

    @cached_property
    def zones_in_volume(self) -> Zones:
        """Zones that run through the volume."""
        return find_zones(self.levels, self.n_levels, self.morphology, by_slice=False)

    @property
    def n_levels(self) -> int:
        """Highest grey level that occurs."""
        return int(self.levels.max())

    @property
    def intensities(self) -> NDArray[np.float64]:
        """(n,) intensities of the intensity mask."""
        return np.asarray(self.image[self.intensity])

    @property
    def voxels_per_slice(self) -> NDArray[np.float64]:
        """(z,) voxels of the intensity mask."""
        return np.asarray(self.intensity.sum(axis=(1, 2)), float)


def prepare(
    volume: Volume, mask: Mask, configuration: Configuration, placement: Placement | None = None
) -> Region:
    """Return the region of ``mask`` in ``volume`` as ``configuration`` asks for it.

    Parameters
    ----------
    placement
        Moves the grid that is interpolated on, in the same single interpolation.

    Raises
    ------
    Refused
        ``mask_off_grid``: mask and image do not share their voxels. ``sheared_grid``: axes are not at right
        angles. ``empty_mask``: no voxel, before or after interpolation or re-segmentation. ``not_finite``: an
        intensity of the region is NaN or infinite. ``too_many_grey_levels``: the bins are too small.
        ``not_discrete``: no bins are configured, and the intensities are no grey levels.
    """
    if not mask.grid.agrees_with(volume.grid):
        message = (
            f"Mask of {_shape(mask.grid)} voxels does not lie on the image's grid of {_shape(volume.grid)}."
        )
        raise Refused(message, rule="mask_off_grid")
    _check_right_angles(volume.grid)
    if not mask.array.any():
        raise Refused("The mask is empty; features need at least one voxel.", rule="empty_mask")
    image, morphology, grid = _on_grid(
        volume,
        mask,
        configuration.interpolation,
        placement or Placement(),
        whole_image=configuration.filter is not None,
    )
    if not np.isfinite(image[morphology]).all():
        raise Refused("An intensity in the region is not a finite number.", rule="not_finite")
    rules = configuration.resegmentation
    intensity = resegment(image, morphology, intensity_range=rules.range, outlier_sigma=rules.outlier_sigma)
    if not intensity.any():
        message = (
            f"Re-segmentation to {rules.range} leaves none of {morphology.sum()} voxels, whose intensities "
            f"run from {image[morphology].min():g} to {image[morphology].max():g}."
        )
        raise Refused(message, rule="empty_mask")
    if configuration.filter is not None:
        response = configuration.filter.respond(image, grid.spacing_mm)
        near = box(*extent(morphology), _margin(grid), grid.shape)
        grid = cropped(grid, near)
        image, morphology, intensity = response[near], morphology[near], intensity[near]
    levels = np.zeros(image.shape, np.int32)
    levels[intensity] = _grey_levels(image[intensity], configuration)
    _check_levels(levels, configuration.texture.dimensions)
    # One memory layout is one machine code of each compiled kernel.
    return Region(
        image=np.ascontiguousarray(image),
        morphology=np.ascontiguousarray(morphology),
        intensity=np.ascontiguousarray(intensity),
        levels=levels,
        grid=grid,
    )


def _on_grid(
    volume: Volume, mask: Mask, settings: Interpolation, placement: Placement, *, whole_image: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Grid]:
    """Return image, mask and grid, interpolated and, unless the ``whole_image`` is asked for, cropped."""
    first, last = extent(mask.array)
    interpolates = settings.spacing_mm is not None or bool(placement)
    whole = volume.grid
    if interpolates:
        whole = isotropic_grid(volume.grid, settings.spacing_mm or 0)
        middle = whole.index(volume.grid.world((first + last) / 2))
        whole = placement.moved(whole, middle) if placement else whole
        # Linear interpolation spreads the mask by less than one of its voxels.
        first, last = carried_over(first - 1, last + 1, volume.grid, whole)
    near = box(first, last, np.inf if whole_image else _margin(whole), whole.shape)
    grid = cropped(whole, near)
    if not interpolates:
        image, inside = volume.array[near].astype(float), mask.array[near]
    else:
        last_index = np.array(grid.shape, float) - 1
        source = box(
            *carried_over(0 * last_index, last_index, grid, volume.grid), SUPPORT, volume.array.shape
        )
        source_grid = cropped(volume.grid, source)
        part = replace(mask, array=mask.array[source], affine=source_grid.affine)
        inside = mask_to_grid(part, grid, settings.partial_volume).array
        intensities = volume.array[source].astype(float)
        image = array_to_grid(intensities, source_grid, grid, interpolator=settings.method)
    if not inside.any():
        message = f"The mask is empty after interpolation to {grid.spacing_mm} mm."
        raise Refused(message, rule="empty_mask")
    return np.round(image) if settings.round_intensities else image, inside, grid


def _check_levels(levels: NDArray[np.int32], dimensions: Sequence[Dimension]) -> None:
    """Refuse bins so small that the matrices of a single texture family exceed `MAXIMUM_CELLS`."""
    n, slices = int(levels.max()), len(levels)
    matrices = 13 if tuple(dimensions) == ("3D",) else 4 * slices
    if matrices * n**2 > MAXIMUM_CELLS:
        most = int((MAXIMUM_CELLS / matrices) ** 0.5)
        message = f"The bins give {n} grey levels; texture of these {slices} slices has room for {most}."
        raise Refused(message, rule="too_many_grey_levels")


def _margin(grid: Grid) -> Index:
    """Voxels that the sphere of the local peak reaches out of the region."""
    return np.asarray(np.floor(SPHERE_RADIUS_MM / np.array(grid.spacing_mm)) + 1)


def _check_right_angles(grid: Grid) -> None:
    unit = grid.affine[:3, :3] / np.array(grid.spacing_mm)
    cosines = np.abs(unit.T @ unit - np.eye(3))
    if cosines.max() > 1e-3:
        message = (
            f"The image axes are not at right angles (cosine {cosines.max():.4f}); correct the tilt first."
        )
        raise Refused(message, rule="sheared_grid")


def _grey_levels(intensities: NDArray[np.float64], configuration: Configuration) -> NDArray[np.int32]:
    bins = configuration.discretisation
    if bins.fixed_bin_number is not None:
        return fixed_bin_number(intensities, bins.fixed_bin_number)
    if bins.fixed_bin_size is not None:
        return fixed_bin_size(
            intensities, bins.fixed_bin_size, lower_end(intensities, configuration.range_of_bins)
        )
    levels = intensities.astype(np.int32)
    if (levels != intensities).any() or levels.min() < 1:
        message = "Without bins the intensities must be whole numbers from 1; set [discretisation]."
        raise Refused(message, rule="not_discrete")
    return levels


def _shape(grid: Grid) -> str:
    return " x ".join(map(str, grid.shape))
