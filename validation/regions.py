"""Regions at rest: finding numbers on a grid, as a result or a reader left them for the statistics."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RegionChangedError(ValueError):
    """The stored bytes are not the ones that were recorded."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A region on the grid of its source series.

    Parameters
    ----------
    array
        (z, y, x) bool.
    affine
        4 x 4, array index (z, y, x, 1) to patient coordinates (LPS) in mm.
    """

    array: NDArray[np.bool_]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along (z, y, x), mm."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def volume_mm3(self) -> float:
        """Voxel count times voxel volume."""
        return float(np.count_nonzero(self.array) * abs(np.linalg.det(self.affine[:3, :3])))


def write(path: Path, labels: NDArray[Any], affine: NDArray[np.float64]) -> str:
    """Store finding numbers (z, y, x; 0 is background) and return the SHA-256 of the file.

    The file is on disk, whole, before it has its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, labels=labels, affine=affine)
        stream.flush()
        os.fsync(stream.fileno())
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    part.replace(path)
    return digest


def read(path: Path, sha256: str) -> Region:
    """Read the union of all findings.

    Raises
    ------
    RegionChangedError
        The file's digest is not ``sha256``.
    """
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise RegionChangedError(f"{path} has changed since it was recorded; restore it from a backup.")
    with np.load(path) as stored:
        return Region(array=stored["labels"] > 0, affine=stored["affine"])
