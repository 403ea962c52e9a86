"""Area of the surface inside a cube of eight voxel centres, for each of its 256 patterns.

The surface is the marching-cubes surface of the binary mask at one half: its vertices are the midpoints of
the cube edges that change sign. Three rules make it unique:

1. A pattern and its complement have the same surface: the corners in the minority (at most four) are inside.
2. On a cube face whose diagonal corners are inside, the two corners are cut off separately.
3. A loop of more than four vertices is not flat; of its triangulations the one of largest area on the unit
   cube is taken (all that attain the maximum have the same area at every voxel spacing).

These are the surface elements of the surface-distance library (Nikolov et al. 2018, arXiv:1809.04430), whose
numbers the area-weighted measures reproduce; the table is derived here from the rules, not taken over.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product

import numpy as np

from voxtrial.validation.tables import Floats

Point = tuple[float, float, float]
Triangle = tuple[Point, Point, Point]

CORNERS: tuple[Point, ...] = tuple((z, y, x) for z, y, x in product((0.0, 1.0), repeat=3))
"""Corners (z, y, x) in the order of the bits of a pattern, the most significant bit first."""


def surface_element_areas(spacing_mm: tuple[float, float, float]) -> Floats:
    """Return the area in mm², (256,) by pattern, at a voxel spacing along (z, y, x)."""
    triangles, pattern = _unit_triangles()
    points = triangles * np.asarray(spacing_mm)
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    areas = 0.5 * np.linalg.norm(normals, axis=1)
    return np.bincount(pattern, areas, minlength=256).astype(np.float64)


@cache
def _unit_triangles() -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Return all triangles on the unit cube, (n, 3, 3), and the pattern that each belongs to, (n,)."""
    triangles: list[Triangle] = []
    patterns: list[int] = []
    for pattern in range(1, 255):
        minority = pattern if pattern.bit_count() <= 4 else 255 - pattern
        inside = {corner for bit, corner in enumerate(CORNERS) if minority >> (7 - bit) & 1}
        for loop in _loops(inside):
            chosen = max(_triangulations(loop), key=_area)
            triangles.extend(chosen)
            patterns.extend([pattern] * len(chosen))
    return np.array(triangles), np.array(patterns)


def _faces() -> Iterator[list[Point]]:
    """Yield the four corners of each cube face in the order of its outline."""
    for axis, side in product(range(3), (0.0, 1.0)):
        outline = []
        for around in ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)):
            corner = list(around)
            corner.insert(axis, side)
            outline.append((corner[0], corner[1], corner[2]))
        yield outline


def _midpoint(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2


def _loops(inside: set[Point]) -> list[list[Point]]:
    """Return the closed outlines of the surface: on each face, the runs of inside corners are cut off."""
    neighbours: dict[Point, list[Point]] = {}
    for face in _faces():
        enters = [i for i in range(4) if face[i] in inside and face[i - 1] not in inside]
        for start in enters:
            end = start
            while face[(end + 1) % 4] in inside:
                end += 1
            first = _midpoint(face[start - 1], face[start])
            last = _midpoint(face[end % 4], face[(end + 1) % 4])
            neighbours.setdefault(first, []).append(last)
            neighbours.setdefault(last, []).append(first)
    loops = []
    waiting = set(neighbours)
    while waiting:
        loop = [min(waiting)]
        waiting.remove(loop[0])
        while following := [point for point in neighbours[loop[-1]] if point in waiting]:
            loop.append(following[0])
            waiting.remove(following[0])
        loops.append(loop)
    return loops


def _triangulations(loop: list[Point]) -> Iterator[list[Triangle]]:
    """Yield every way to cut a polygon into triangles between its own vertices."""
    if len(loop) < 3:
        yield []
        return
    for apex in range(1, len(loop) - 1):
        for left in _triangulations(loop[: apex + 1]):
            for right in _triangulations(loop[apex:]):
                yield [(loop[0], loop[apex], loop[-1]), *left, *right]


def _area(triangles: list[Triangle]) -> float:
    corners = np.array(triangles)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.round(0.5 * np.linalg.norm(normals, axis=1).sum(), 9))
