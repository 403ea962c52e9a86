"""Put a volume on another grid, and keep the exact map back.

A grid is exact arithmetic: the way from source to isotropic grid and back moves no voxel centre. Grids
whose axes are parallel, whatever their order and direction, are interpolated axis by axis in one fused
pass; any other pair of affines (oblique, sheared) by gathering. Points outside the outermost voxel centres
take the nearest value.

Interpolation makes grids equal; it creates no information (:func:`finer_than_source`).

References
----------
Zwanenburg et al. (2020), The Image Biomarker Standardization Initiative, doi:10.1148/radiol.2020191145,
chapter "Interpolation": align by centre, round the size up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.harmonize.bands import (
    INTERPOLATORS,
    KIND,
    Band,
    Interpolator,
    blur_sigma,
    coverage_band,
    interpolation_band,
    poles,
)
from voxtrial.daemon.harmonize.grids import (
    conformed_grid,
    directions,
    finer_than_source,
    index_map,
    isotropic_grid,
    orientation,
    reoriented,
)
from voxtrial.daemon.volume import Grid, Mask, Shape, Volume

Array = NDArray[Any]

__all__ = [
    "array_to_grid",
    "conformed_grid",
    "directions",
    "finer_than_source",
    "gaussian_blurred",
    "isotropic_grid",
    "labels_to_grid",
    "mask_to_grid",
    "orientation",
    "reoriented",
    "to_grid",
]


def to_grid(
    volume: Volume,
    grid: Grid,
    interpolator: Interpolator = "linear",
    *,
    anti_alias: bool = False,
    fill: float | None = None,
    threads: int = 1,
) -> Volume:
    """Return ``volume`` on ``grid``; see :func:`array_to_grid`."""
    array = array_to_grid(
        volume.array,
        volume.grid,
        grid,
        interpolator=interpolator,
        anti_alias=anti_alias,
        fill=fill,
        threads=threads,
    )
    return volume.with_array(array, affine=grid.affine)


def array_to_grid(
    array: Array,
    from_grid: Grid,
    to_grid: Grid,
    *,
    interpolator: Interpolator = "linear",
    anti_alias: bool = False,
    fill: float | None = None,
    threads: int = 1,
) -> Array:
    """Return the samples of ``array`` at the voxel centres of another grid.

    Parameters
    ----------
    array
        (z, y, x) on ``from_grid``, any real dtype.
    interpolator
        ``nearest`` keeps the dtype; the others give float64 for float64, int32 and int64 input, else float32.
        ``box`` averages over the new voxel and needs parallel axes.
    anti_alias
        Blur along every axis that gets coarser, so that what the new grid cannot carry does not fold back.
        Plain interpolation (and IBSI) is without.
    fill
        Value of points more than half a voxel outside the outermost voxel centres; None takes the nearest
        value everywhere.
    threads
        Most threads to use.

    Raises
    ------
    Misconfigured
        Unknown interpolator, or ``box`` between oblique grids.
    """
    if interpolator not in INTERPOLATORS:
        raise Misconfigured(f'interpolator is "{interpolator}"; choose one of {", ".join(INTERPOLATORS)}.')
    if array.shape != from_grid.shape:
        raise ValueError(f"array has shape {array.shape}, its grid {from_grid.shape}")
    matrix = index_map(to_grid, from_grid)
    if 0 in (*from_grid.shape, *to_grid.shape) or not np.isfinite(matrix).all():
        raise ValueError(f"grids {from_grid} and {to_grid} have no voxels or no place")
    axes = _parallel_axes(matrix, to_grid.shape)
    if axes is None:
        if interpolator == "box":
            raise Misconfigured(
                'interpolator "box" averages over parallel voxels; use "linear" between oblique grids.'
            )
        return _gathered(array, matrix, to_grid.shape, interpolator, anti_alias, fill, threads)
    return _separable(array, matrix, axes, to_grid.shape, interpolator, anti_alias, fill, threads)


def labels_to_grid(
    labels: Array, from_grid: Grid, to_grid: Grid, *, smooth: bool = False, fill: int = 0, threads: int = 1
) -> Array:
    """Return integer ``labels`` on another grid; no label is invented.

    Parameters
    ----------
    smooth
        False takes the nearest voxel's label. True takes the label with the largest share of the linear
        interpolation (the smaller number on a tie), which keeps surfaces smooth when the grid gets finer.
    fill
        Label of points outside ``from_grid``.
    """
    if not smooth:
        return array_to_grid(labels, from_grid, to_grid, interpolator="nearest", fill=fill, threads=threads)
    out = np.full(to_grid.shape, fill, labels.dtype)
    best = np.zeros(to_grid.shape, np.float32)
    for label in np.unique(labels):
        share = array_to_grid(labels == label, from_grid, to_grid, fill=float(label == fill), threads=threads)
        wins = share > best + 1e-6
        out[wins], best[wins] = label, share[wins]
    return out


def mask_to_grid(
    mask: Mask,
    grid: Grid,
    threshold: float = 0.5,
    *,
    interpolator: Interpolator = "linear",
    threads: int = 1,
) -> Mask:
    """Return ``mask`` on another grid: a voxel belongs to it from a partial volume of ``threshold`` on.

    ``linear`` is IBSI's partial volume; ``box`` is the true share of the voxel that lies inside the mask.
    """
    share = array_to_grid(mask.array, mask.grid, grid, interpolator=interpolator, fill=0.0, threads=threads)
    # A share of exactly one half belongs to the mask, also when arithmetic says 0.49999997.
    inside = share >= threshold - 1e-6
    return Mask(array=inside, affine=grid.affine, label=mask.label, source=mask.source)


def _parallel_axes(matrix: NDArray[np.float64], shape: Shape) -> tuple[int, int, int] | None:
    """Which source axis each new axis runs along; None when the grids are oblique to each other.

    Parallel means that no voxel centre moves by more than a millionth of a voxel.
    """
    reach = np.abs(matrix[:, :3]) * (np.array(shape) - 1)
    order = np.argmax(np.abs(matrix[:, :3]), axis=0)
    if sorted(order) != [0, 1, 2]:
        return None
    for column, row in enumerate(order):
        reach[row, column] = 0
    return (int(order[0]), int(order[1]), int(order[2])) if reach.max() < 1e-6 else None


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One axis of a separable map: where the new samples lie among the old ones."""

    coordinates: NDArray[np.float64]
    step: float
    n: int

    def band(self, interpolator: Interpolator, *, anti_alias: bool) -> Band:
        if interpolator == "box":
            return coverage_band(self.coordinates, self.n, self.step)
        sigma = blur_sigma(self.step) if anti_alias and self.n > 1 else 0.0
        return interpolation_band(self.coordinates, self.n, interpolator, sigma=sigma)

    @property
    def outside(self) -> NDArray[np.bool_]:
        return (self.coordinates < -0.5 - 1e-6) | (self.coordinates > self.n - 0.5 + 1e-6)


def _working(array: Array) -> Array:
    """Return ``array`` in a dtype that the kernels are compiled for: int16, float32 or float64."""
    if array.dtype in (np.int16, np.float32, np.float64):
        return np.ascontiguousarray(array)
    exact = array.dtype == bool or array.dtype in (np.int8, np.uint8, np.uint16, np.float16)
    return np.ascontiguousarray(array, np.float32 if exact else np.float64)


def _separable(
    array: Array,
    matrix: NDArray[np.float64],
    axes: tuple[int, int, int],
    shape: Shape,
    interpolator: Interpolator,
    anti_alias: bool,
    fill: float | None,
    threads: int,
) -> Array:
    lines = []
    for column, row in enumerate(axes):
        step, start = matrix[row, column], matrix[row, 3]
        coordinates = start + step * np.arange(shape[column])
        whole = np.round(coordinates)
        coordinates = np.where(np.abs(coordinates - whole) < 1e-9, whole, coordinates)
        lines.append(_Axis(coordinates=coordinates, step=abs(step), n=array.shape[row]))
    turned = array.transpose(axes)
    if interpolator == "nearest" and not anti_alias:
        z, y, x = (a.band("nearest", anti_alias=False).first for a in lines)
        out = np.ascontiguousarray(turned[z].take(y, axis=1).take(x, axis=2))
    else:
        out = _banded(_working(turned), lines, interpolator, anti_alias, threads)
    if fill is not None:
        for dimension, axis in enumerate(lines):
            if axis.outside.any():
                np.moveaxis(out, dimension, 0)[axis.outside] = fill
    return out


def _banded(
    source: Array,
    lines: list[_Axis],
    interpolator: Interpolator,
    anti_alias: bool,
    threads: int,
) -> Array:
    if len(poles(interpolator)):
        source = _coefficients(source, interpolator, threads)
    return _applied(source, [a.band(interpolator, anti_alias=anti_alias) for a in lines], threads)


def _applied(source: Array, bands: list[Band], threads: int) -> Array:
    """One banded operator along each of z, y and x."""
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize.banded import apply_bands
    from voxtrial.daemon.harmonize.lanes import Blocks

    precision = np.float64 if source.dtype == np.float64 else np.float32
    z, y, x = ((b.first, b.weights.astype(precision)) for b in bands)
    operators = (*z, *y, Blocks.of(*x).samples)
    depth, rows, columns = (len(b.first) for b in bands)
    out = np.empty((depth, rows * columns), precision)
    in_slabs(
        lambda begin, end: apply_bands(source, operators, columns, out, begin, end), depth, threads=threads
    )
    return out.reshape(depth, rows, columns)


def _coefficients(source: Array, interpolator: Interpolator, threads: int) -> Array:
    """B-spline coefficients of ``source`` in its working precision."""
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize import kernels

    precision = np.float64 if source.dtype == np.float64 else np.float32
    volume = source.astype(precision)
    roots = poles(interpolator)
    in_slabs(lambda a, b: kernels.filter_planes(volume, roots, a, b), volume.shape[0], threads=threads)
    if volume.shape[0] > 1:
        in_slabs(lambda a, b: kernels.filter_depth(volume, roots, a, b), volume.shape[1], threads=threads)
    return volume


def _gathered(
    array: Array,
    matrix: NDArray[np.float64],
    shape: Shape,
    interpolator: Interpolator,
    anti_alias: bool,
    fill: float | None,
    threads: int,
) -> Array:
    from voxtrial.daemon.compiled import in_slabs
    from voxtrial.daemon.harmonize import kernels

    source = _working(array)
    precision = np.float64 if source.dtype == np.float64 else np.float32
    steps = np.linalg.norm(matrix[:, :3], axis=1)
    if anti_alias and (steps > 1 + 1e-6).any():
        source = _blurred(source, [blur_sigma(float(s)) for s in steps], threads)
    if len(poles(interpolator)):
        source = _coefficients(source, interpolator, threads)
    out = np.empty(shape, precision)
    in_slabs(
        lambda begin, end: kernels.gather(
            source,
            matrix,
            KIND[interpolator],
            fill is not None,
            0.0 if fill is None else float(fill),
            out,
            begin,
            end,
        ),
        shape[0],
        threads=threads,
    )
    return out.astype(array.dtype) if interpolator == "nearest" and not anti_alias else out


def gaussian_blurred(array: Array, sigma_voxels: Sequence[float], *, threads: int = 1) -> Array:
    """Return ``array`` blurred by a Gaussian of the standard deviation ``sigma_voxels`` along (z, y, x).

    Ends repeat the outermost value. float32, or float64 for float64 input.
    """
    return _blurred(_working(array), list(sigma_voxels), threads)


def _blurred(source: Array, sigmas: list[float], threads: int) -> Array:
    bands = [
        interpolation_band(np.arange(n, dtype=float), n, "nearest", sigma=sigma if n > 1 else 0.0)
        for n, sigma in zip(source.shape, sigmas, strict=True)
    ]
    return _applied(source, bands, threads)
