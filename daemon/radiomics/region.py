"""From volume and mask to the region that features are counted on: interpolated, re-segmented, in bins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.resample import array_to_grid, isotropic_grid, mask_to_grid
from voxtrial.daemon.radiomics.configuration import Configuration, Interpolation
from voxtrial.daemon.radiomics.discretise import fixed_bin_number, fixed_bin_size, lower_end
from voxtrial.daemon.radiomics.local_intensity import SPHERE_RADIUS_MM
from voxtrial.daemon.radiomics.resegment import resegment
from voxtrial.daemon.radiomics.zones import Zones, find_zones
from voxtrial.daemon.volume import Grid, Mask, Spacing, Volume

MAXIMUM_LEVELS = 1024
"""More grey levels than this make co-occurrence matrices of gigabytes, and no sense as texture."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region of interest with its surroundings, ready for features.

    Parameters
    ----------
    image
        (z, y, x) intensities after interpolation, with a margin of at least `SPHERE_RADIUS_MM` about the
        region where the image reaches that far.
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


def prepare(volume: Volume, mask: Mask, configuration: Configuration) -> Region:
    """Return the region of ``mask`` in ``volume`` as ``configuration`` asks for it.

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
    image, morphology, grid = _on_grid(volume, mask, configuration.interpolation)
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
    levels = np.zeros(image.shape, np.int32)
    levels[intensity] = _grey_levels(image[intensity], configuration)
    if levels.max() > MAXIMUM_LEVELS:
        message = f"The bins give {levels.max()} grey levels; at most {MAXIMUM_LEVELS} make sense as texture."
        raise Refused(message, rule="too_many_grey_levels")
    return Region(image=image, morphology=morphology, intensity=intensity, levels=levels, grid=grid)


def _on_grid(
    volume: Volume, mask: Mask, settings: Interpolation
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Grid]:
    """Return image, mask and grid, interpolated and cropped to the region with its margin."""
    if settings.spacing_mm is None:
        box = _box(mask.array, volume.spacing_mm)
        return volume.array[box].astype(float), mask.array[box], _cropped(volume.grid, box)
    whole = isotropic_grid(volume.grid, settings.spacing_mm)
    # Interpolate the mask near the region only; the image needs its surroundings for spline coefficients.
    near = _cropped(whole, _box_on(whole, mask))
    inside = mask_to_grid(mask, near, settings.partial_volume).array
    if not inside.any():
        message = f"The mask is empty after interpolation to {settings.spacing_mm} mm."
        raise Refused(message, rule="empty_mask")
    image = array_to_grid(volume.array.astype(float), volume.grid, near, interpolator=settings.method).astype(
        float
    )
    if settings.round_intensities:
        image = np.round(image)
    return image, inside, near


def _box(mask: NDArray[np.bool_], spacing_mm: Spacing) -> tuple[slice, slice, slice]:
    """Bounding box of the mask with the margin, cut to the array."""
    return _widened(*_extent(mask), spacing_mm, mask.shape)


def _box_on(grid: Grid, mask: Mask) -> tuple[slice, slice, slice]:
    """Bounding box on ``grid`` of a mask that stands on another grid with parallel axes, with the margin."""
    first, last = _extent(mask.array)
    corners = grid.index(mask.grid.world(np.array([first - 1.0, last + 1.0])))
    return _widened(np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)), grid.spacing_mm, grid.shape)


def _extent(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    used = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return np.array([u[0] for u in used], float), np.array([u[-1] for u in used], float)


def _widened(
    first: NDArray[np.float64], last: NDArray[np.float64], spacing_mm: Spacing, shape: tuple[int, ...]
) -> tuple[slice, slice, slice]:
    margin = np.floor(SPHERE_RADIUS_MM / np.array(spacing_mm)) + 1
    begin = np.maximum(first - margin, 0).astype(int)
    end = np.minimum(last + margin + 1, shape).astype(int)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(begin, end, strict=True))
    return z, y, x


def _cropped(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.world(np.array([s.start for s in box], float))
    z, y, x = (s.stop - s.start for s in box)
    return Grid(shape=(z, y, x), affine=affine)


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
            intensities, bins.fixed_bin_size, lower_end(intensities, configuration.resegmentation.range)
        )
    levels = intensities.astype(np.int32)
    if (levels != intensities).any() or levels.min() < 1:
        message = "Without bins the intensities must be whole numbers from 1; set [discretisation]."
        raise Refused(message, rule="not_discrete")
    return levels


def _shape(grid: Grid) -> str:
    return " x ".join(map(str, grid.shape))
