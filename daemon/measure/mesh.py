"""A closed surface from a probability or signed distance, its volume and area, and STL for the printer.

Never from the label: the area of a binary mask's surface is 8 to 9 % too large at every resolution, because
its steps do not vanish. A field that passes its level smoothly carries the surface between the voxels.

Triangles face outwards, vertices are LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Triangles in patient space.

    Parameters
    ----------
    vertices
        (n, 3) LPS mm.
    triangles
        (m, 3) indices of vertices, counter-clockwise seen from outside.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]

    @property
    def area_mm2(self) -> float:
        """Sum of the triangles' areas."""
        return float(np.linalg.norm(self._crosses(), axis=1).sum() / 2)

    @property
    def volume_mm3(self) -> float:
        """Enclosed volume by the divergence theorem, about the middle of the vertices."""
        a, b, c = (self.vertices[self.triangles[:, k]] - self.vertices.mean(axis=0) for k in range(3))
        return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)

    @property
    def is_watertight(self) -> bool:
        """Whether every edge joins two triangles, once in each direction."""
        edges, n = self._edges(), len(self.vertices)
        forward, backward = edges @ (n, 1), edges @ (1, n)
        return len(np.unique(forward)) == len(forward) and bool(np.isin(backward, forward).all())

    @property
    def euler_number(self) -> int:
        """Vertices - edges + triangles: 2 for each closed surface without a tunnel."""
        edges = np.sort(self._edges())
        used = len(np.unique(self.triangles))
        return used - len(np.unique(edges, axis=0)) + len(self.triangles)

    def _edges(self) -> NDArray[np.int64]:
        return np.concatenate([self.triangles[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])

    def _crosses(self) -> NDArray[np.float64]:
        a, b, c = (self.vertices[self.triangles[:, k]] for k in range(3))
        return np.asarray(np.cross(b - a, c - a))


def surface(field: NDArray[Any], grid: Grid, level: float = 0.5, *, outside: float | None = None) -> Mesh:
    """Return the surface on which ``field`` (z, y, x) passes ``level``; inside is above it.

    Parameters
    ----------
    field
        A probability (level 0.5), or a signed distance that is positive inside (level 0).
    outside
        Value beyond the grid, which closes a body that reaches the border; None takes the least of the field.

    Raises
    ------
    Refused
        ``binary_field``: the field has two values only, which is a label; ``empty_mask``: it never passes the
        level.

    References
    ----------
    Lewiner et al. (2003), doi:10.1080/10867651.2003.10487582.
    """
    from skimage.measure import marching_cubes

    values = np.asarray(field, np.float64)
    low, high = float(values.min()), float(values.max())
    if not low < level <= high:
        raise Refused(f"The field never passes {level:g} ({low:g} to {high:g}).", rule="empty_mask")
    if np.isin(values, (low, high)).all():
        raise Refused(
            "The field has two values, as a label has; mesh the probability or the signed distance instead.",
            rule="binary_field",
        )
    beyond = low if outside is None else outside
    padded = np.pad(values, 1, constant_values=min(beyond, level - 1e-3 * (high - low)))
    # A sample exactly on the level makes triangles without area; it is moved inside by next to nothing.
    padded[padded == level] += 1e-9 * (high - low)
    index, triangles, _, _ = marching_cubes(padded, level, allow_degenerate=False)
    mesh = Mesh(vertices=grid.world(index.astype(np.float64) - 1), triangles=triangles.astype(np.int64))
    return mesh if mesh.volume_mm3 > 0 else Mesh(vertices=mesh.vertices, triangles=mesh.triangles[:, ::-1])


def write_stl(mesh: Mesh, path: Path, *, header: str = "Voxtrial, LPS mm") -> None:
    """Write binary STL: little-endian, 50 bytes a triangle, coordinates in LPS mm.

    Raises
    ------
    ValueError
        The header begins with "solid", which readers take for the text form.
    """
    if header.startswith("solid"):
        raise ValueError('a binary STL must not begin with "solid"')
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    triangles = np.zeros(len(mesh.triangles), record)
    corners = mesh.vertices[mesh.triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    triangles["normal"] = normal / np.where(length > 0, length, 1)
    triangles["corners"] = corners
    count = np.uint32(len(triangles)).astype("<u4")
    path.write_bytes(header.encode("ascii", "replace")[:80].ljust(80) + count.tobytes() + triangles.tobytes())
