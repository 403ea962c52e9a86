"""Patients that never lived: synthetic DICOM series of known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

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
    """Return axial slices from feet to head: (z, y, x) along Z, Y, X, first centre at ``origin``, LPS mm."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing_mm, 1
    affine[:3, 3] = origin
    return Grid(shape=shape, affine=affine)


def oblique_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    angles_degrees: tuple[float, float, float],
    centre: Sequence[float] = (10.0, -20.0, 30.0),
) -> Grid:
    """Return a grid turned about X, Y and Z in that order, the middle of its voxel centres at ``centre``."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_degrees)):
        a, b = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = step @ turn
    affine = np.eye(4)
    affine[:3, :3] = turn[:, ::-1] * spacing_mm
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
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


def lattice_affine(
    spacing_mm: tuple[float, float, float] = (2.0, 1.0, 1.0),
    *,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    rotation_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    tilt_degrees: float = 0.0,
) -> NDArray[np.float64]:
    """Return the affine of (z, y, x) to LPS of an axial stack, turned about x, y and z, sheared along y."""
    a, b, c = np.radians(rotation_degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    rotation = about_z @ about_y @ about_x
    z, y, x = spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = rotation @ np.array([0, z * np.tan(np.radians(tilt_degrees)), z])
    affine[:3, 1] = rotation @ np.array([0, y, 0])
    affine[:3, 2] = rotation @ np.array([x, 0, 0])
    affine[:3, 3] = origin
    return affine


def stack(
    folder: Path,
    volume: NDArray[np.int16],
    affine: NDArray[np.float64] | None = None,
    *,
    edit: Callable[[int, Dataset], None] | None = None,
    seed: str = "stack",
) -> list[Path]:
    """Write ``volume`` (z, y, x) as one CT file a slice, placed by ``affine`` to the last digit of a DS.

    ``edit`` may spoil the data set of slice k before it is saved; it may also set the transfer syntax.
    """
    folder.mkdir(parents=True, exist_ok=True)
    affine = lattice_affine() if affine is None else affine
    along_column, along_row = (affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in (1, 2))
    paths = []
    for k, pixels in enumerate(volume):
        ds = ct_slice(
            pixels,
            (0, 0, 0),
            study_instance_uid=generate_uid(entropy_srcs=[seed, "study"]),
            series_instance_uid=generate_uid(entropy_srcs=[seed, "series"]),
            sop_instance_uid=generate_uid(entropy_srcs=[seed, str(k)]),
            instance_number=k + 1,
            frame_of_reference_uid=generate_uid(entropy_srcs=[seed, "frame"]),
        )
        ds.ImagePositionPatient = decimals(affine[:3, 3] + k * affine[:3, 0])
        ds.ImageOrientationPatient = decimals([*along_row, *along_column])
        ds.PixelSpacing = decimals(np.linalg.norm(affine[:3, 1:3], axis=0))
        if edit is not None:
            edit(k, ds)
        path = folder / f"{k:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def decimals(values: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """Return decimal strings (DS) with all the digits that 16 characters hold."""
    return [format_number_as_ds(float(value)) for value in values]


def enhanced_ct(
    path: Path,
    volume: NDArray[np.int16],
    affine: NDArray[np.float64] | None = None,
    *,
    frame_order: Sequence[int] | None = None,
    edit: Callable[[Dataset], None] | None = None,
    edit_frame: Callable[[int, Dataset], None] | None = None,
) -> Path:
    """Write ``volume`` (z, y, x) as one Enhanced CT file whose frames hold the slices ``frame_order``."""
    affine = lattice_affine() if affine is None else affine
    order = range(len(volume)) if frame_order is None else frame_order
    ds = ct_slice(
        volume[0],
        (0, 0, 0),
        study_instance_uid=generate_uid(entropy_srcs=["enhanced", "study"]),
        series_instance_uid=generate_uid(entropy_srcs=["enhanced", "series"]),
        sop_instance_uid=generate_uid(entropy_srcs=["enhanced", "instance"]),
    )
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames = len(order)
    along_column, along_row = (affine[:3, k] / np.linalg.norm(affine[:3, k]) for k in (1, 2))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        del ds[keyword]
    del ds.RescaleIntercept, ds.RescaleType
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = decimals(np.linalg.norm(affine[:3, 1:3], axis=0))
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = decimals([*along_row, *along_column])
    shared.PixelValueTransformationSequence = [Dataset()]
    transformation = shared.PixelValueTransformationSequence[0]
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = "0", "1", "HU"
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, k in enumerate(order):
        group = Dataset()
        group.PlanePositionSequence = [Dataset()]
        group.PlanePositionSequence[0].ImagePositionPatient = decimals(affine[:3, 3] + k * affine[:3, 0])
        group.FrameContentSequence = [Dataset()]
        group.FrameContentSequence[0].InStackPositionNumber = k + 1
        if edit_frame is not None:
            edit_frame(number, group)
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.PixelData = np.ascontiguousarray(volume[list(order)], "<i2").tobytes()
    if edit is not None:
        edit(ds)
    ds.save_as(path, enforce_file_format=True)
    return path
