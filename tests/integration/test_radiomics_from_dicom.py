"""Features from DICOM with RTSTRUCT, as a hospital has them, beside the same patients in NIfTI."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from phantoms import axial_grid, sphere
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.dicom import masks, nifti, pixels
from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.radiomics.configuration import load
from voxtrial.daemon.radiomics.extract import FAMILIES, extract
from voxtrial.daemon.volume import Mask, Volume

SARCOMA = [
    (patient, modality)
    for patient in ("STS_002", "STS_008", "STS_019", "STS_025")
    for modality in ("CT", "PET", "MR_T1")
]


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["radiomics", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.shared_data
@pytest.mark.parametrize("config", "BE")
def test_ct_phantom_from_dicom_equals_nifti(shared_data: Path, tmp_path: Path, config: str) -> None:
    """NIfTI has the spacing in single precision, which moves a few interpolated values over a rounding."""
    folder = shared_data / "ibsi" / "ct_phantom"
    dicom, niftis = tmp_path / "dicom.csv", tmp_path / "nifti.csv"
    run(folder / "dicom" / "image", folder / "dicom" / "mask", "--config", config, "-o", dicom)
    image, mask = folder / "nifti" / "image" / "phantom.nii.gz", folder / "nifti" / "mask" / "mask.nii.gz"
    run(image, mask, "--config", config, "-o", niftis)
    rows, others = (list(csv.reader(path.read_text().splitlines())) for path in (dicom, niftis))
    assert rows[0] == ["config", "family", "feature", "ibsi_id", "aggregation_id", "value"]
    assert [row[:5] for row in rows] == [row[:5] for row in others]
    values, expected = ([float(row[5]) for row in table[1:]] for table in (rows, others))
    assert values == pytest.approx(expected, rel=1e-4)


@pytest.mark.shared_data
@pytest.mark.parametrize(("patient", "modality"), SARCOMA)
def test_sarcoma_in_every_modality(shared_data: Path, patient: str, modality: str) -> None:
    """Volume is voxels times voxel size; mean and extremes are those of the NIfTI twin under its mask."""
    folder = shared_data / "sts" / patient
    volume = pixels.read_folder(folder / "dicom" / modality / "image")
    (rtstruct,) = (folder / "dicom" / modality / "mask").iterdir()
    (mask,) = masks.read(rtstruct, volume.grid)
    features = extract(volume, mask, load("D"))
    assert {row.family for row in features} == set(FAMILIES)
    assert all(math.isfinite(row.value) for row in features)

    native = extract(volume, mask, load("D").model_copy(update={"interpolation": load("A").interpolation}))
    twin = nibabel.load(folder / "nifti" / f"{modality}_mask.nii.gz")
    inside = np.asanyarray(twin.dataobj) > 0
    voxel = math.prod(float(s) for s in twin.header.get_zooms()[:3])
    assert native.value("YEKZ") == pytest.approx(inside.sum() * voxel, rel=1e-4)
    image = np.asanyarray(nibabel.load(folder / "nifti" / f"{modality}_image.nii.gz").dataobj)[inside]
    kept = image[np.abs(image - image.mean()) <= 3 * image.std()]
    assert native.value("Q4LE") == pytest.approx(kept.mean(), rel=1e-4)
    assert native.value("84IY") == pytest.approx(kept.max(), rel=1e-4)
    # The half level of linear interpolation rounds corners: up to 7 % at 4 mm voxels.
    assert features.value("YEKZ") == pytest.approx(native.value("YEKZ"), rel=0.1)


@pytest.mark.shared_data
def test_json_holds_the_digest_and_the_notes(shared_data: Path) -> None:
    """Uptake values under 25 wide bins fall into one: the note says it, the values are null."""
    folder = shared_data / "sts" / "STS_019" / "dicom" / "PET"
    document = json.loads(run(folder / "image", folder / "mask", "--config", "C", "--json"))
    assert document["config_digest"] == load("C").digest
    assert document["region"] == "GTV_Mass_PET"
    assert any("one bin" in note for note in document["notes"])
    assert any("no information" in note for note in document["notes"])
    correlation = [row["value"] for row in document["features"] if row["ibsi_id"] == "NI2N"]
    assert correlation == [None, None]


@pytest.mark.shared_data
def test_a_segmentation_object_is_a_mask(shared_data: Path, tmp_path: Path) -> None:
    """dcmqi wrote liver.dcm from liver_seg.nrrd: its voxels times their size are the volume."""
    folder = shared_data / "sr_seg" / "dcmqi_ct3slice"
    for name in ("01.dcm", "02.dcm", "03.dcm"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rows = list(csv.DictReader(run(tmp_path, folder / "liver.dcm", "--config", "A").splitlines()))
    label = SimpleITK.ReadImage(folder / "liver_seg.nrrd")
    voxels = np.count_nonzero(SimpleITK.GetArrayFromImage(label))
    volume = float(next(row["value"] for row in rows if row["ibsi_id"] == "YEKZ"))
    assert volume == pytest.approx(voxels * math.prod(label.GetSpacing()), rel=1e-5)
    with pytest.raises(Refused, match="holds 5 regions"):
        run(tmp_path, folder / "partial_overlaps.dcm")


def two_labels(folder: Path) -> tuple[Path, Path]:
    array = np.zeros((6, 7, 8), np.int16)
    array[1:4, 1:5, 1:5], array[4:6, 5:7, 5:8] = 1, 2
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    image = Volume(array=array * 10, affine=affine)
    nifti.write(image, folder / "image.nii.gz")
    nifti.write(image.with_array(array), folder / "labels.nii.gz")
    return folder / "image.nii.gz", folder / "labels.nii.gz"


def test_a_file_of_several_regions_asks_for_one(tmp_path: Path) -> None:
    image, labels = two_labels(tmp_path)
    with pytest.raises(Refused, match=r"holds 2 regions .* choose one with --roi"):
        run(image, labels)
    with pytest.raises(Refused, match="has no region liver; it has label 1, label 2"):
        run(image, labels, "--roi", "liver")
    assert run(image, labels, "--roi", "label 2", "--config", "A").startswith("config,family,feature")


def test_an_empty_mask_is_refused_in_one_sentence(tmp_path: Path) -> None:
    image, _ = two_labels(tmp_path)
    volume = nifti.read_volume(image)
    empty = Mask(array=np.zeros(volume.array.shape, bool), affine=volume.affine)
    nifti.write(empty, tmp_path / "empty.nii.gz")
    with pytest.raises(Refused, match="at least one voxel") as caught:
        run(image, tmp_path / "empty.nii.gz")
    assert caught.value.rule == "empty_mask"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="There is no image"):
        run(tmp_path / "none", tmp_path / "none.nii.gz")


def test_stability_of_two_cases_is_a_table_of_icc(tmp_path: Path) -> None:
    """Two tumours of 3 and 11 mL: twelve disturbances leave their volumes apart."""
    for name, radius in (("small", 9.0), ("large", 14.0)):
        grid = axial_grid((20, 40, 40), (3.0, 1.5, 1.5))
        array = np.random.default_rng(int(radius)).normal(40, 20, grid.shape).round().astype(np.int16)
        nifti.write(Volume(array=array, affine=grid.affine), tmp_path / f"{name}.nii.gz")
        inside = sphere(grid.shape, (3.0, 1.5, 1.5), radius)
        nifti.write(Mask(array=inside, affine=grid.affine), tmp_path / f"{name}-mask.nii.gz")
    cases = tmp_path / "cases.csv"
    cases.write_text("image,mask\nsmall.nii.gz,small-mask.nii.gz\nlarge.nii.gz,large-mask.nii.gz\n")
    result = CliRunner().invoke(app, ["radiomics-stability", str(cases)], catch_exceptions=False)
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert len(rows) == 210
    volume = next(row for row in rows if row["ibsi_id"] == "YEKZ")
    assert float(volume["ci_low"]) > 0.8
    assert float(volume["icc"]) > 0.95


def test_a_list_of_cases_without_masks_is_named(tmp_path: Path) -> None:
    cases = tmp_path / "cases.csv"
    cases.write_text("image\nx.nii.gz\n")
    with pytest.raises(Refused, match="There is no image"):
        CliRunner().invoke(app, ["radiomics-stability", str(cases)], catch_exceptions=False)
    image, _ = two_labels(tmp_path)
    cases.write_text(f"image\n{image.name}\n")
    with pytest.raises(Misconfigured, match="has no column 'mask'"):
        CliRunner().invoke(app, ["radiomics-stability", str(cases)], catch_exceptions=False)


def test_pages_hold_the_features_and_the_certificate(tmp_path: Path) -> None:
    """Both commands that count features: 48 voxels of 1 mm, and every published value of the certificate."""
    image, labels = two_labels(tmp_path)
    page, table = tmp_path / "features.html", tmp_path / "features.csv"
    run(image, labels, "--roi", "label 1", "--config", "A", "-o", table, "--report", page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure>") == 3
    assert "1803 of 1803</b> published values are met" in text
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(next(row["value"] for row in rows if row["ibsi_id"] == "YEKZ")) == pytest.approx(48)
    assert all(f"<td>{row['ibsi_id']}</td>" in text for row in rows)

    case = f"{image.name},first.nii.gz"
    volume = nifti.read_volume(labels)
    nifti.write(Mask(array=volume.array == 1, affine=volume.affine), tmp_path / "first.nii.gz")
    cases = tmp_path / "cases.csv"
    cases.write_text(f"image,mask\n{case}\n{case}\n")
    command = ["radiomics-stability", str(cases), "--config", "A", "--report", str(page)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1803 of 1803</b> published values are met" in page.read_text(encoding="utf-8")
