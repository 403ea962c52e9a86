"""Read reference masks onto a grid: DICOM Segmentation, RT Structure Set, NIfTI.

What cannot be put on the grid without a guess is refused: another frame of reference, contours between
slices, segmented pixels outside the image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxtrial.daemon.dicom import nifti
from voxtrial.daemon.dicom.elements import read_header
from voxtrial.daemon.dicom.rtstruct import from_rtstruct
from voxtrial.daemon.dicom.segmentation import SEGMENTATION_CLASSES, from_seg
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid, Mask, Source, SourceInstance

__all__ = ["from_nifti", "from_rtstruct", "from_seg", "read"]


def read(path: Path, grid: Grid, *, frame_of_reference_uid: str = "") -> list[Mask]:
    """Return the regions of ``path`` on ``grid``, by what the file is.

    Parameters
    ----------
    frame_of_reference_uid
        Frame of reference of ``grid``; when given, DICOM references in another one are refused.

    Raises
    ------
    Refused
        ``not_a_mask``, or as the reader of its kind.
    """
    if nifti.is_nifti(path):
        return from_nifti(path, grid)
    values = read_header(path).values
    if values.get("SOPClassUID") in SEGMENTATION_CLASSES:
        return from_seg(path, grid, frame_of_reference_uid=frame_of_reference_uid)
    if values.get("Modality") == "RTSTRUCT":
        return from_rtstruct(path, grid, frame_of_reference_uid=frame_of_reference_uid)
    message = f"{path.name} is neither a Segmentation, nor an RT Structure Set, nor NIfTI"
    raise Refused(message, rule="not_a_mask")


def from_nifti(path: Path, grid: Grid, *, threshold: float = 0.5) -> list[Mask]:
    """Return one mask a label of ``path`` on ``grid``.

    Parameters
    ----------
    threshold
        Value from which on a voxel belongs to the region, where the file holds fractions.

    Raises
    ------
    Refused
        As :func:`voxtrial.daemon.dicom.nifti.read_array`; ``reference_outside_image`` if no voxel of a
        labelled image falls on the grid.

    Notes
    -----
    A file of zeros and ones is one region named after the file; otherwise each positive integer is one, named
    ``label N``. On another grid than the file's, each voxel takes the nearest label.
    """
    array, affine = nifti.read_array(path)
    z, y, x = array.shape
    own = Grid(shape=(z, y, x), affine=affine)
    if array.dtype.kind == "f" and not np.equal(array, np.rint(array)).all():
        labels = (array >= threshold).astype(np.uint8)
    else:
        labels = array.astype(np.int32)
    values = [int(value) for value in np.unique(labels) if value > 0]
    if not own.agrees_with(grid):
        from voxtrial.daemon.harmonize.resample import labels_to_grid  # compiled kernels load late

        labels = labels_to_grid(labels, own, grid)
        if values and not labels.any():
            raise Refused(f"{path.name} lies outside the image", rule="reference_outside_image")
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    names = {value: f"label {value}" for value in values} if values not in ([], [1]) else {1: stem}
    source = Source(instances=(SourceInstance(sop_instance_uid="", sop_class_uid="", path=str(path)),))
    return [
        Mask(array=np.asarray(labels == value), affine=grid.affine, label=name, source=source)
        for value, name in names.items()
    ]
