"""Real images through the whole way: DCMTK sends, the daemon works, Orthanc keeps, other software reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from daemons import all_confirmed, serve
from peers import Orthanc, orthanc, storescu
from skimage.filters import threshold_otsu

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.peer("dcmtk"), pytest.mark.shared_data]

BIN = Path(sys.executable).parent

CONFIGURATION = """
[completeness]
quiet_seconds = 1

[[destinations]]
name = "pacs"
port = {pacs}
ae_title = "ORTHANC"

[[routes]]
model = "{model}"
when = {{ modality = "CT" }}
destinations = ["pacs"]

[compute]
workers = 1
"""


def results_at(pacs: Orthanc, folder: Path) -> dict[str, Path]:
    """Fetch the objects that are not images from Orthanc, by modality."""
    found: dict[str, Path] = {}
    folder.mkdir(exist_ok=True)
    for identifier in pacs.rest("/instances"):
        path = folder / f"{identifier}.dcm"
        path.write_bytes(pacs.rest(f"/instances/{identifier}/file"))
        modality = str(pydicom.dcmread(path, stop_before_pixels=True).Modality)
        found[modality] = path
    return found


def iod_errors(path: Path) -> list[str]:
    done = subprocess.run([BIN / "dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def mask_by_dcmqi(path: Path, folder: Path, like: sitk.Image) -> np.ndarray[Any, Any]:
    """Read every segment with dcmqi and bring their union on the grid of ``like``."""
    folder.mkdir(exist_ok=True)
    arguments = ["--inputDICOM", path, "--outputDirectory", folder, "--prefix", "s", "-t", "nrrd"]
    subprocess.run([BIN / "segimage2itkimage", *arguments], check=True, capture_output=True)
    union = np.zeros(sitk.GetArrayViewFromImage(like).shape, bool)
    for file in sorted(folder.glob("s-*.nrrd")):
        image = sitk.Resample(sitk.ReadImage(str(file)), like, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        union |= sitk.GetArrayFromImage(image) > 0
    return union


def test_lung_ct_from_storescu_comes_back_from_orthanc_as_seg_and_sr(
    shared_data: Path, tmp_path: Path
) -> None:
    """The expected mask is scikit-image's Otsu cut of the NIfTI form of the same volume."""
    phantom = shared_data / "ibsi" / "ct_phantom"
    files = [
        f for f in phantom.rglob("*.dcm") if pydicom.dcmread(f, stop_before_pixels=True).Modality == "CT"
    ]
    assert len(files) == 60
    with orthanc(tmp_path / "orthanc") as pacs:
        configuration = CONFIGURATION.format(pacs=pacs.dicom_port, model="otsu")
        with serve(tmp_path / "daemon", configuration) as daemon:
            pacs.know("VOXTRIAL", daemon.port)
            storescu(files, daemon.port)
            studies = daemon.wait_for(all_confirmed)
        results = results_at(pacs, tmp_path / "results")
    assert [s["instances"] for s in studies] == [60]
    assert sorted(results) == ["SEG", "SR"]
    assert {name: iod_errors(path) for name, path in results.items()} == {"SEG": [], "SR": []}
    nifti = phantom / "nifti" / "image" / "phantom.nii.gz"
    image = sitk.ReadImage(str(nifti))
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    expected = hu > threshold_otsu(hu, 512)
    got = mask_by_dcmqi(results["SEG"], tmp_path / "dcmqi", image)
    dice = 2 * np.count_nonzero(got & expected) / (np.count_nonzero(got) + np.count_nonzero(expected))
    assert dice > 0.97  # the model cuts on the 1 mm grid, and leaves out components below 30 mm³


def test_one_study_of_ct_pet_and_mr_in_two_syntaxes_runs_on_its_ct(shared_data: Path, tmp_path: Path) -> None:
    patient = shared_data / "sts" / "STS_002" / "dicom"
    files = sorted(patient.rglob("*.dcm"))
    with orthanc(tmp_path / "orthanc") as pacs:
        configuration = CONFIGURATION.format(pacs=pacs.dicom_port, model="otsu")
        with serve(tmp_path / "daemon", configuration) as daemon:
            pacs.know("VOXTRIAL", daemon.port)
            storescu(files, daemon.port, "-R")
            studies = daemon.wait_for(all_confirmed)
        results = results_at(pacs, tmp_path / "results")
    assert [(s["instances"], s["state"]) for s in studies] == [(len(files), "READY")]
    report = pydicom.dcmread(results["SR"])
    referenced = {
        str(item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
    ct = {str(h.SOPInstanceUID) for h in headers if h.Modality == "CT"}
    assert ct <= referenced
    assert not referenced & {str(h.SOPInstanceUID) for h in headers if h.Modality in ("PT", "MR")}
