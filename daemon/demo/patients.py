"""Phantom patients of known truth as DICOM studies: one nodule each, imaged by several simulated scanners."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from voxtrial.daemon.dicom import nifti
from voxtrial.daemon.learn.phantoms import chest_phantom
from voxtrial.daemon.learn.scanner import SCANNERS, SimulatedScan, image
from voxtrial.daemon.results.uids import derived_uid
from voxtrial.daemon.volume import Mask

READER = "phantom"
FIELD_MM = (72.0, 96.0, 96.0)


@dataclass(frozen=True, kw_only=True)
class PhantomStudy:
    """One scan of one patient.

    Parameters
    ----------
    files
        CT images, in slice order.
    truth
        NIfTI mask of the nodule on the grid of the scan.
    """

    patient: str
    scanner: str
    study_instance_uid: str
    files: tuple[Path, ...]
    truth: Path
    volume_mm3: float
    malignant: bool


def make_studies(
    folder: Path, *, patients: int, scanners: Sequence[str], seed: int, workers: int = 2
) -> Iterator[list[PhantomStudy]]:
    """Write the studies of every patient, half of them malignant, and yield them patient by patient."""
    jobs = [(folder, number, tuple(scanners), seed) for number in range(patients)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_make_patient, jobs)


def write_truth(studies: Sequence[PhantomStudy], table: Path) -> None:
    """Write the reference standard as ``voxtrial reference import`` reads it."""
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["study_instance_uid", "subject", "site", "reader", "kind", "label", "value", "unit", "path"]
        )
        for study in studies:
            head = [study.study_instance_uid, study.patient, study.scanner, READER]
            mask = study.truth.relative_to(table.parent)
            writer.writerow([*head, "mask", "nodule", "", "", mask])
            writer.writerow([*head, "value", "volume", f"{study.volume_mm3:.3f}", "mm3", ""])
            writer.writerow([*head, "class", "malignancy", int(study.malignant), "", ""])


def _make_patient(job: tuple[Path, int, tuple[str, ...], int]) -> list[PhantomStudy]:
    folder, number, scanners, seed = job
    streams = np.random.SeedSequence((seed, number)).spawn(len(SCANNERS) + 1)
    malignant = number % 2 == 0
    phantom = chest_phantom(np.random.default_rng(streams[0]), FIELD_MM, classes=[malignant])
    patient = f"PHANTOM-{number + 1:03d}"
    studies = []
    for scanner, stream in zip(SCANNERS, streams[1:], strict=True):
        if scanner.name not in scanners:
            continue
        scan = image(phantom, scanner, np.random.default_rng(stream))
        place = folder / patient / scanner.name
        study_uid = derived_uid("phantom study", str(seed), patient, scanner.name)
        truth = folder / "truth" / f"{patient}-{scanner.name}.nii.gz"
        truth.parent.mkdir(parents=True, exist_ok=True)
        nifti.write(Mask(array=scan.truth > 0, affine=scan.grid.affine, label="nodule"), truth)
        studies.append(
            PhantomStudy(
                patient=patient,
                scanner=scanner.name,
                study_instance_uid=study_uid,
                files=tuple(_write_series(place, scan, patient, scanner.name, study_uid)),
                truth=truth,
                volume_mm3=phantom.nodules[0].volume_mm3,
                malignant=malignant,
            )
        )
    return studies


def _write_series(
    folder: Path, scan: SimulatedScan, patient: str, scanner: str, study_uid: str
) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, pixels in enumerate(scan.array):
        path = folder / f"{index + 1:04d}.dcm"
        _ct_image(scan, index, pixels, patient, scanner, study_uid).save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def _ct_image(
    scan: SimulatedScan, index: int, pixels: NDArray[np.int16], patient: str, scanner: str, study_uid: str
) -> Dataset:
    """Return one CT image (PS3.3 A.3); InstanceNumber falls while z rises, as on many real scanners."""
    slice_mm, row_mm, column_mm = scan.grid.spacing_mm
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(
        derived_uid(study_uid, "image", str(index))
    )
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260105"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber = f"{patient[-3:]}-{scanner}"
    ds.Modality = "CT"
    ds.StudyDescription = "CHEST PHANTOM"
    ds.SeriesDescription = f"{scan.facts['ConvolutionKernel']} {slice_mm:g} mm"
    ds.PatientName, ds.PatientID = f"Phantom^{patient}", patient
    ds.PatientBirthDate, ds.PatientSex = "19600101", "O"
    ds.ReferringPhysicianName = ""
    ds.KVP = "120"
    for keyword, value in scan.facts.items():
        setattr(ds, keyword, value if isinstance(value, str) else f"{value:g}")
    ds.StudyInstanceUID = study_uid
    ds.SeriesInstanceUID = derived_uid(study_uid, "series")
    ds.FrameOfReferenceUID = derived_uid(study_uid, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 1, 1
    ds.InstanceNumber = len(scan.array) - index
    x, y, z = scan.grid.world(np.array([index, 0.0, 0.0]))
    ds.ImagePositionPatient = [f"{v:.4f}" for v in (x, y, z)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [f"{row_mm:.6g}", f"{column_mm:.6g}"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "HU"
    ds.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    return ds
