"""Read and write NIfTI: axes (x, y, z) and RAS there, (z, y, x) and LPS here.

NIfTI carries no identity and no unit of intensity: both stay empty on reading and are lost on writing.

References
----------
https://nifti.nimh.nih.gov/nifti-1 (sform and qform map voxel indices to RAS mm).
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Affine, Mask, Source, SourceInstance, Volume

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED_AXES = [2, 1, 0, 3]
_FAILURES = (
    ImageFileError,
    HeaderDataError,
    AttributeError,
    EOFError,
    KeyError,
    ValueError,
    gzip.BadGzipFile,
    zlib.error,
)


def is_nifti(path: Path) -> bool:
    """Whether the name of ``path`` ends like that of a NIfTI file."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_volume(path: Path) -> Volume:
    """Return the image of ``path``; unit ``1``.

    Raises
    ------
    Refused
        ``not_nifti``, ``missing_geometry`` (neither sform nor qform), ``not_three_dimensional``.
    """
    array, affine = read_array(path)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "iu" and (kind, size) != ("f", 4):
        array = array.astype(np.float32)
    source = Source(instances=(SourceInstance(sop_instance_uid="", sop_class_uid="", path=str(path)),))
    return Volume(array=array, affine=affine, source=source)


def read_array(path: Path) -> tuple[NDArray[Any], Affine]:
    """Return the (z, y, x) array of ``path``, scaled as its header says, and its LPS affine."""
    try:
        image: Any = nibabel.load(path)  # its type depends on the file; what lacks a grid fails below
        stored = np.asanyarray(image.dataobj)
        header = image.header
        placed = int(header["sform_code"]) or int(header["qform_code"])
        ras = np.asarray(image.affine, np.float64)
    except _FAILURES as error:
        raise Refused(f"{path.name} cannot be read as NIfTI: {error}", rule="not_nifti") from error
    if stored.ndim > 3 and stored.shape[3:] == (1,) * (stored.ndim - 3):
        stored = stored.reshape(stored.shape[:3])
    if stored.ndim != 3 or stored.dtype.kind not in "iufb":
        message = f"{path.name} holds {stored.dtype} of shape {stored.shape}, not one scalar volume"
        raise Refused(message, rule="not_three_dimensional")
    if not placed:
        raise Refused(
            f"{path.name} has neither sform nor qform: its place is unknown", rule="missing_geometry"
        )
    return np.ascontiguousarray(stored.T), lps_affine(ras)


def write(image: Volume | Mask, path: Path) -> None:
    """Write ``image`` to ``path`` (.nii, or .nii.gz with reproducible bytes); masks become 0 and 1."""
    array = image.array.astype(np.uint8) if image.array.dtype == bool else image.array
    create: Any = nibabel.Nifti1Image  # published without types
    nifti = create(array.T, ras_affine(image.affine))
    nifti.header.set_xyzt_units("mm")
    nifti.set_sform(nifti.affine, code="scanner")
    nifti.set_qform(nifti.affine, code="scanner", strip_shears=True)
    nibabel.save(nifti, path)


def lps_affine(ras: Affine) -> Affine:
    """Return the affine of (z, y, x) to LPS for one of (x, y, z) to RAS."""
    return np.asarray((_LPS_FROM_RAS @ ras)[:, _REVERSED_AXES])


def ras_affine(lps: Affine) -> Affine:
    """Return the affine of (x, y, z) to RAS for one of (z, y, x) to LPS."""
    return np.asarray(_LPS_FROM_RAS @ lps[:, _REVERSED_AXES])
