"""Patients that never lived: synthetic DICOM series of known truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from voxtrial.daemon.volume import Grid

SOURCE_MODEL = "Phantom CT"


def sphere(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float
) -> NDArray[np.bool_]:
    """Return a (z, y, x) ball of ``radius_mm`` about the centre of the grid."""
    z, y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True))
    return np.asarray(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= radius_mm**2)


def axial_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] = (-120.0, 35.5, 700.0),
) -> Grid:
    """Return axial slices from feet to head: (z, y, x) along Z, Y, X of the patient, first centre at ``origin``."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing_mm, 1
    affine[:3, 3] = origin
    return Grid(shape=shape, affine=affine)


def ellipsoid(grid: Grid, semi_axes_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return at each voxel the distance from the centre of the grid in units of the semi-axes (z, y, x)."""
    z, y, x = (
        (np.arange(n) - (n - 1) / 2) * s / a
        for n, s, a in zip(grid.shape, grid.spacing_mm, semi_axes_mm, strict=True)
    )
    return np.asarray(np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2))


def ct_slice(  # one argument per attribute that a test may want to spoil
    pixels: NDArray[np.int16],
    position: Sequence[float],
    *,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uid: str = "",
    instance_number: int = 1,
    spacing_yx: tuple[float, float] = (1.0, 1.0),
    thickness: float = 1.0,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    frame_of_reference_uid: str = "",
    patient_id: str = "PHANTOM",
    kernel: str = "STD",
) -> Dataset:
    """Return one CT image of ``pixels`` in HU (rows, columns) whose first voxel centre is at ``position``."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = sop_instance_uid or generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyDate, ds.StudyTime = "20260105", "101500"
    ds.AccessionNumber = "A-1"
    ds.Modality = "CT"
    ds.Manufacturer, ds.ManufacturerModelName = "Voxtrial", SOURCE_MODEL
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CHEST PHANTOM"
    ds.SeriesDescription = f"{thickness:g} mm {kernel}"
    ds.PatientName, ds.PatientID = f"Phantom^{patient_id}", patient_id
    ds.PatientBirthDate, ds.PatientSex = "19600101", "O"
    ds.SliceThickness, ds.KVP, ds.ConvolutionKernel = f"{thickness:g}", "120", kernel
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_instance_uid, series_instance_uid
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", 1, 1, instance_number
    ds.ImagePositionPatient = [f"{v:.6f}".rstrip("0").rstrip(".") for v in position]
    ds.ImageOrientationPatient = [f"{v:.8g}" for v in orientation]
    ds.FrameOfReferenceUID = frame_of_reference_uid or f"{series_instance_uid}.1"[:64]
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelSpacing = [f"{v:g}" for v in spacing_yx]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "HU"
    ds.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    return ds


def ct_series(
    folder: Path,
    volume_hu: NDArray[np.int16],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    patient_id: str = "PHANTOM",
    study_instance_uid: str = "",
    seed: str = "",
) -> list[Path]:
    """Write ``volume_hu`` (z, y, x) as an axial CT series and return its files in slice order.

    ``seed`` makes the UIDs the same each time; InstanceNumber falls while z rises, as on many real scanners.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def uid(*parts: object) -> str:
        return generate_uid(entropy_srcs=[seed, *map(str, parts)]) if seed else generate_uid()

    study = study_instance_uid or uid("study")
    series, frame = uid("series", study), uid("frame", study)
    files = []
    for k, pixels in enumerate(volume_hu):
        ds = ct_slice(
            pixels,
            (origin[0], origin[1], origin[2] + k * spacing_mm[0]),
            study_instance_uid=study,
            series_instance_uid=series,
            sop_instance_uid=uid("instance", study, k),
            instance_number=len(volume_hu) - k,
            spacing_yx=spacing_mm[1:],
            thickness=spacing_mm[0],
            frame_of_reference_uid=frame,
            patient_id=patient_id,
        )
        path = folder / f"{k:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        files.append(path)
    return files
