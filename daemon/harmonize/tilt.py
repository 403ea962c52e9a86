"""Straighten a stack that was acquired with a tilted gantry.

Its slices are parallel but not stacked along their normal: the affine is sheared. The correction is a step
that a recipe asks for: every slice is moved within its plane by what the tilt displaced it, so that no
slice is mixed with another one.
"""

from __future__ import annotations

import math

import numpy as np

from voxtrial.daemon.harmonize.resample import to_grid
from voxtrial.daemon.volume import Grid, Volume


def tilt_degrees(grid: Grid) -> float:
    """Return the angle between the stacking direction and the normal of the slices, degrees."""
    step, along_y, along_x = grid.affine[:3, :3].T
    normal = np.cross(along_y, along_x)
    cosine = abs(step @ normal) / (np.linalg.norm(step) * np.linalg.norm(normal))
    return math.degrees(math.acos(min(float(cosine), 1.0)))


def straight_grid(grid: Grid) -> Grid:
    """Return the orthogonal grid with the slices and the in-plane axes of ``grid`` that holds all its voxels.

    The slice distance becomes the one along the normal; rows and columns are added where the shear reaches
    out.
    """
    step, along_y, along_x = grid.affine[:3, :3].T
    normal = np.cross(along_y, along_x)
    normal /= np.linalg.norm(normal)
    upright = (step @ normal) * normal
    # What a slice is displaced by against the one below it, in pixels along y and x.
    plane = np.column_stack([along_y, along_x])
    shift = np.linalg.lstsq(plane, step - upright, rcond=None)[0]
    reach = shift * (grid.shape[0] - 1)
    before = np.floor(np.minimum(reach, 0) + 1e-9).astype(int)
    after = np.ceil(np.maximum(reach, 0) - 1e-9).astype(int)
    affine = grid.affine.astype(float)
    affine[:3, 0] = upright
    affine[:3, 3] += plane @ before
    y, x = np.array(grid.shape[1:]) + after - before
    return Grid(shape=(grid.shape[0], int(y), int(x)), affine=affine)


def straightened(volume: Volume, *, fill: float | None = None, threads: int = 1) -> Volume:
    """Return ``volume`` on its :func:`straight_grid`, interpolated linearly within the slices.

    Parameters
    ----------
    fill
        Value beside the displaced slices; None takes the least value of the volume (air).
    """
    outside = float(volume.array.min()) if fill is None else fill
    return to_grid(volume, straight_grid(volume.grid), "linear", fill=outside, threads=threads)
