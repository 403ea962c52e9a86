"""Grids that a volume is brought to: isotropic, conformed, reordered; exact arithmetic on affines.

References
----------
Zwanenburg et al. (2020), The Image Biomarker Standardization Initiative, doi:10.1148/radiol.2020191145,
chapter "Interpolation": align by centre, round the size up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.volume import Grid, Shape


def isotropic_grid(grid: Grid, spacing_mm: float | Sequence[float] = 1.0) -> Grid:
    """Return the grid of ``spacing_mm`` with the axes and the centre of ``grid``, its size rounded up (IBSI).

    Parameters
    ----------
    grid
        Source grid; may be oblique.
    spacing_mm
        New distance of the voxel centres, mm: one number, or (z, y, x). 0 keeps the spacing of that axis.

    Examples
    --------
    60 slices of 3 mm become 90 of 2 mm; the first centre moves by -0.5 mm.
    """
    old = np.array(grid.spacing_mm)
    wanted = np.broadcast_to(np.asarray(spacing_mm, float), (3,))
    if (wanted < 0).any():
        raise Misconfigured(
            f"spacing_mm is {list(wanted)}; a distance of voxel centres is positive, or 0 to keep it."
        )
    new = np.where(wanted == 0, old, wanted)
    n = np.array(grid.shape)
    # Rounding first: 30 voxels of 0.1 mm are 10 of 0.3 mm, whatever the last bit of the quotient says.
    m = np.array([math.ceil(round(float(v), 6)) for v in n * old / new])
    affine = grid.affine.astype(float)
    affine[:3, :3] = grid.affine[:3, :3] / old * new
    centre = grid.world((n - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((m - 1) / 2)
    return Grid(shape=(int(m[0]), int(m[1]), int(m[2])), affine=affine)


def conformed_grid(
    grid: Grid,
    shape: Shape,
    spacing_mm: float | Sequence[float],
    axes: str,
    *,
    centre: Literal["freesurfer", "volume"] = "freesurfer",
) -> Grid:
    """Return a grid along the patient's axes with the centre of ``grid``, as FreeSurfer's conform makes it.

    Parameters
    ----------
    shape
        Number of voxels along the array axes.
    spacing_mm
        Distance of the voxel centres, mm.
    axes
        Three letters: where the first, second and third array index grow to, out of L/R, P/A, S/I; an axial
        CT in (z, y, x) is ``SPL``.

    centre
        What the two grids share: the voxel of index n // 2, as FreeSurfer defines it, or the middle of the
        volume, (n - 1) / 2.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, float), (3,))
    affine = np.eye(4)
    affine[:3, :3] = directions(axes) * spacing
    have, want = np.array(grid.shape), np.array(shape)
    middle = (have // 2, want // 2) if centre == "freesurfer" else ((have - 1) / 2, (want - 1) / 2)
    affine[:3, 3] = grid.world(middle[0].astype(float)) - affine[:3, :3] @ middle[1]
    return Grid(shape=shape, affine=affine)


_LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


def directions(axes: str) -> NDArray[np.float64]:
    """Return the (3, 3) unit steps in LPS for three orientation letters, one column to an array axis."""
    found = [_LETTERS.get(letter) for letter in axes.upper()]
    if None in found or sorted(f[0] for f in found if f) != [0, 1, 2]:
        raise Misconfigured(
            f'axes is "{axes}"; write where the three array indices grow to, one letter each of L or R, '
            'P or A, S or I, e.g. "SPL" for axial slices.'
        )
    matrix = np.zeros((3, 3))
    for column, place in enumerate(found):
        assert place is not None
        matrix[place[0], column] = place[1]
    return matrix


def orientation(grid: Grid) -> str:
    """Return the three letters nearest to the array axes of ``grid``, e.g. ``SPL`` for axial slices.

    Nearest as a whole: the sum of the cosines is greatest, whichever axis is asked first.
    """
    unit = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    rows = max(permutations(range(3)), key=lambda p: sum(abs(unit[row, k]) for k, row in enumerate(p)))
    letters = {place: letter for letter, place in _LETTERS.items()}
    return "".join(letters[row, 1 if unit[row, k] >= 0 else -1] for k, row in enumerate(rows))


def reoriented(grid: Grid, axes: str) -> Grid:
    """Return ``grid`` with its axes reordered and turned to the letters ``axes``: the same voxel centres."""
    have, want = orientation(grid), axes.upper()
    directions(want)
    order = [next(i for i, h in enumerate(have) if _LETTERS[h][0] == _LETTERS[w][0]) for w in want]
    affine = grid.affine[:, [*order, 3]].astype(float)
    shape = tuple(grid.shape[i] for i in order)
    for column, (i, letter) in enumerate(zip(order, want, strict=True)):
        if have[i] != letter:
            affine[:3, 3] += affine[:3, column] * (shape[column] - 1)
            affine[:3, column] *= -1
    return Grid(shape=(shape[0], shape[1], shape[2]), affine=affine)


def finer_than_source(source: Grid, target: Grid) -> str:
    """Say in one sentence along which axes ``target`` is finer than ``source``; empty when along none.

    Details with a period below twice the source spacing are lost before any interpolation begins.
    """
    steps = np.linalg.norm(index_map(target, source)[:, :3], axis=1)
    finer = [
        f"{name} ({old:.4g} mm sampled, {step * old:.4g} mm asked)"
        for name, old, step in zip("zyx", source.spacing_mm, steps, strict=True)
        if step < 1 - 1e-3
    ]
    if not finer:
        return ""
    coarsest = max(source.spacing_mm)
    return (
        f"The new grid is finer than the acquisition along {', '.join(finer)}: interpolation creates no "
        f"information, structures closer than {2 * coarsest:.4g} mm stay unresolved."
    )


def index_map(to_grid: Grid, from_grid: Grid) -> NDArray[np.float64]:
    """Return the (3, 4) map of an index (z, y, x, 1) on ``to_grid`` to a fractional one on ``from_grid``."""
    inverse = np.linalg.inv(from_grid.affine[:3, :3])
    # Origins are subtracted before the multiplication: they are large, their difference is small.
    shift = inverse @ (to_grid.affine[:3, 3] - from_grid.affine[:3, 3])
    return np.column_stack([inverse @ to_grid.affine[:3, :3], shift])
