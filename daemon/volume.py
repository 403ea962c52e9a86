"""An image in physical space: what every room of the daemon hands to the next.

Arrays are (z, y, x). World coordinates are DICOM patient coordinates (LPS: x to the left, y to the back,
z to the head) in mm. ``affine`` maps an array index to the world: ``affine @ (z, y, x, 1) == (X, Y, Z, 1)``,
so its first three columns are the steps along the array axes z, y and x.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A regular lattice of voxel centres in patient space.

    Parameters
    ----------
    shape
        Number of voxels along (z, y, x).
    affine
        4 x 4, array index (z, y, x, 1) to LPS mm (X, Y, Z, 1).
    """

    shape: Shape
    affine: Affine

    @property
    def spacing_mm(self) -> Spacing:
        """Distance between neighbouring voxel centres along (z, y, x), mm."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def world(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (..., 3) array indices (z, y, x) to (..., 3) LPS mm."""
        return np.asarray(index @ self.affine[:3, :3].T + self.affine[:3, 3])

    def index(self, world: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (..., 3) LPS mm to fractional (..., 3) array indices (z, y, x)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return np.asarray((world - self.affine[:3, 3]) @ inverse.T)

    def agrees_with(self, other: Grid, *, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids place every voxel centre within ``tolerance_mm`` of each other."""
        if self.shape != other.shape:
            return False
        corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
        corners *= np.array(self.shape) - 1
        return bool(np.abs(self.world(corners) - other.world(corners)).max() <= tolerance_mm)


@dataclass(frozen=True, kw_only=True)
class SourceInstance:
    """One stored object that a volume was read from, in slice order."""

    sop_instance_uid: str
    sop_class_uid: str
    sha256: str = ""
    path: str = ""
    frame: int | None = None
    """1-based frame number for multi-frame objects."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a volume came from; copied into provenance, never changed.

    ``acquisition`` holds the scanner's facts by DICOM keyword (Manufacturer, ManufacturerModelName,
    ConvolutionKernel, SliceThickness, ...): the factors that the tables of a validation report break down by.
    """

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    frame_of_reference_uid: str = ""
    modality: str = ""
    patient_id: str = ""
    instances: tuple[SourceInstance, ...] = ()
    acquisition: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Intensities on a grid.

    Parameters
    ----------
    array
        (z, y, x), any real dtype.
    affine
        See the module.
    unit
        UCUM code of the intensities: ``[hnsf'U]`` for HU, ``{SUVbw}g/ml``, ``Bq/ml``, ``1`` when arbitrary.
        A step that changes the meaning of the intensities changes the unit.
    source
        Series that the volume was read from.
    """

    array: NDArray[Any]
    affine: Affine
    unit: str = "1"
    source: Source = field(default_factory=Source)

    @property
    def grid(self) -> Grid:
        """Lattice that the intensities stand on."""
        z, y, x = self.array.shape
        return Grid(shape=(z, y, x), affine=self.affine)

    @property
    def spacing_mm(self) -> Spacing:
        """Distance between neighbouring voxel centres along (z, y, x), mm."""
        return self.grid.spacing_mm

    def with_array(
        self, array: NDArray[Any], *, affine: Affine | None = None, unit: str | None = None
    ) -> Volume:
        """Return the same source with other intensities, and another grid or unit where given."""
        return replace(
            self,
            array=array,
            affine=self.affine if affine is None else affine,
            unit=self.unit if unit is None else unit,
        )


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A region on a grid.

    Parameters
    ----------
    array
        (z, y, x) bool.
    affine
        See the module.
    label
        Name of the region, as its source gives it.
    """

    array: NDArray[np.bool_]
    affine: Affine
    label: str = ""
    source: Source = field(default_factory=Source)

    @property
    def grid(self) -> Grid:
        """Lattice that the region stands on."""
        z, y, x = self.array.shape
        return Grid(shape=(z, y, x), affine=self.affine)

    @property
    def spacing_mm(self) -> Spacing:
        """Distance between neighbouring voxel centres along (z, y, x), mm."""
        return self.grid.spacing_mm
