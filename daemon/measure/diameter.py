"""Long and short axis in the acquired plane, and the greatest diameter in space.

The boundary is where the mask changes half-way between two neighbouring voxel centres: a row of n voxels of
width s is n s long. (IBSI's maximum diameter uses the same points, the vertices of its mesh.) Where a
probability is at hand, :func:`diameters_of_field` puts the boundary where it passes the level, without the
steps of the voxels.

For a mask of a smooth body the diameters are within one voxel of the truth; a corner of a box loses up to
half a voxel along each axis.

References
----------
Eisenhauer et al. (2009), RECIST 1.1, doi:10.1016/j.ejca.2008.10.026: longest diameter in the plane of
measurement; short axis, perpendicular to it. Zwanenburg et al. (2020), doi:10.1148/radiol.2020191145,
feature L0JK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.measure.boundary import Points, cropped, crossings
from voxtrial.daemon.volume import Grid, Mask

Index = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Diameters:
    """Diameters of one region, mm; end points are fractional array indices (z, y, x) on its grid."""

    long_axis_mm: float
    """Greatest distance of two boundary points of one slice, over all slices."""
    short_axis_mm: float
    """Longest chord of that slice's outline (its convex hull) at a right angle to the long axis."""
    slice_index: int
    """Slice (z) of both; the first one on a tie."""
    endpoints: tuple[Index, Index]
    """Ends of the long axis."""
    short_endpoints: tuple[Index, Index]
    maximum_3d_mm: float
    """Greatest distance of two boundary points anywhere."""
    maximum_3d_endpoints: tuple[Index, Index]


def diameters(mask: Mask) -> Diameters:
    """Return the diameters of ``mask``; see the module for where its boundary lies.

    Raises
    ------
    Refused
        ``empty_mask`` when no voxel belongs to it.
    """
    return diameters_of_field(mask.array, mask.grid)


def diameters_of_field(field: NDArray[Any], grid: Grid, level: float = 0.5) -> Diameters:
    """Return the diameters of the region where ``field`` (z, y, x) is at least ``level``.

    The boundary between two neighbours is interpolated linearly; beyond the grid the field is 0.

    Raises
    ------
    Refused
        ``empty_mask`` when the field nowhere reaches the level.
    """
    inside = field >= level
    if not inside.any():
        raise Refused("The region is empty; it has no diameter.", rule="empty_mask")
    box, origin = cropped(field, inside)
    along = [crossings(box, axis, level) for axis in range(3)]
    in_plane = np.concatenate(along[1:])
    # A rigid frame of the plane: distances in (u, v) are distances in mm, also when the axes are oblique.
    _, to_plane = np.linalg.qr(grid.affine[:3, 1:3])
    best: tuple[float, int, Points, Points] | None = None
    for z in np.unique(in_plane[:, 0]):
        outline = in_plane[in_plane[:, 0] == z]
        flat = outline[:, 1:] @ to_plane.T
        a, b, length = _farthest(flat)
        if best is None or length > best[0] * (1 + 1e-9):
            best = length, int(z), flat, np.stack([flat[a], flat[b]])
    assert best is not None
    length, z, flat, long_axis = best
    width, short_axis = _perpendicular_chord(flat, long_axis)
    from_plane = np.linalg.inv(to_plane)

    def on_grid(ends: Points) -> tuple[Index, Index]:
        index = np.column_stack([np.full(2, float(z)), ends @ from_plane.T]) + origin
        return _index(index[0]), _index(index[1])

    everywhere = np.concatenate(along)
    a, b, maximum = _farthest(grid.world(everywhere))
    return Diameters(
        long_axis_mm=length,
        short_axis_mm=width,
        slice_index=z + int(origin[0]),
        endpoints=on_grid(long_axis),
        short_endpoints=on_grid(short_axis),
        maximum_3d_mm=maximum,
        maximum_3d_endpoints=(_index(everywhere[a] + origin), _index(everywhere[b] + origin)),
    )


def _hull(points: Points) -> NDArray[np.int64]:
    """Return the indices of the vertices of the convex hull, counter-clockwise in the plane."""
    from scipy.spatial import ConvexHull

    return np.asarray(ConvexHull(points).vertices, np.int64)


def _farthest(points: Points) -> tuple[int, int, float]:
    """Return the indices of the two points farthest apart and their distance; the first pair on a tie."""
    from scipy.spatial.distance import cdist

    vertices = np.sort(_hull(points))
    outer = points[vertices]
    best = (0, 0, -1.0)
    for begin in range(0, len(outer), 1024):
        distance = cdist(outer[begin : begin + 1024], outer)
        i, j = np.unravel_index(int(np.argmax(distance)), distance.shape)
        if distance[i, j] > best[2]:
            best = (int(vertices[begin + i]), int(vertices[j]), float(distance[i, j]))
    return best


def _perpendicular_chord(points: Points, axis: Points) -> tuple[float, Points]:
    """Return the longest chord of the hull of ``points`` perpendicular to ``axis``, and its ends."""
    along = (axis[1] - axis[0]) / np.linalg.norm(axis[1] - axis[0])
    across = np.array([-along[1], along[0]])
    outline = points[_hull(points)]
    t, s = outline @ along, outline @ across
    # The width of a convex outline is concave between its vertices: the maximum stands at one of them.
    first, last = int(np.argmin(t)), int(np.argmax(t))
    ring = np.roll(np.arange(len(t)), -first)
    turn = int(np.flatnonzero(ring == last)[0])
    lower, upper = ring[: turn + 1], np.append(ring[turn:], first)[::-1]
    low, high = np.interp(t, t[lower], s[lower]), np.interp(t, t[upper], s[upper])
    k = int(np.argmax(high - low))
    ends = np.stack([t[k] * along + low[k] * across, t[k] * along + high[k] * across])
    return float(high[k] - low[k]), ends


def _index(point: Points) -> Index:
    z, y, x = (float(v) for v in point)
    return z, y, x
