"""``voxtrial metrics`` and ``voxtrial statistic``: files in, numbers out, reasons beside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from phantoms import lattice_affine, stack
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.dicom import nifti, seg_grid
from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.volume import Mask
from voxtrial.validation.segmentation.mask_agreement import built_mask, segmentation_agreement

SPACING = (2.5, 0.8, 0.7)
AFFINE = lattice_affine(SPACING, origin=(-20, 5, 40), rotation_degrees=(4, -9, 15))
SHAPE = (12, 20, 22)
LIVER = built_mask([{"shape": "box", "origin": [3, 4, 5], "size": [6, 9, 8]}], SHAPE, SPACING)
CYST = built_mask([{"shape": "box", "origin": [9, 14, 14], "size": [2, 3, 4]}], SHAPE, SPACING)
SHIFTED = np.roll(LIVER, (1, 1, 2), (0, 1, 2))


def metrics(*arguments: object) -> list[dict]:
    """Return the JSON lines of the command, or raise what it raised."""
    result = CliRunner().invoke(app, ["metrics", *map(str, arguments), "--json"])
    if isinstance(result.exception, Refused):
        raise result.exception
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def as_nifti(path: Path, array: np.ndarray) -> Path:
    nifti.write(Mask(array=array, affine=AFFINE), path)
    return path


def as_seg(path: Path, ct: list[Path], **segments: np.ndarray) -> Path:
    """Write named segments over a CT, empty frames omitted."""
    highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(file) for file in ct],
        pixel_array=np.stack([mask.astype(np.uint8) for mask in segments.values()], axis=-1),
        segmentation_type="BINARY",
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=k + 1,
                segment_label=name,
                segmented_property_category=codes.SCT.Tissue,
                segmented_property_type=codes.SCT.Lesion,
                algorithm_type="MANUAL",
            )
            for k, name in enumerate(segments)
        ],
        series_instance_uid=generate_uid(entropy_srcs=[path.name]),
        series_number=9,
        sop_instance_uid=generate_uid(entropy_srcs=[path.name, "1"]),
        instance_number=1,
        manufacturer="Voxtrial",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=True,
    ).save_as(path)
    return path


@pytest.fixture
def ct(tmp_path) -> list[Path]:
    return stack(tmp_path / "ct", np.zeros(SHAPE, np.int16), AFFINE)


def test_nifti_masks_are_compared_in_mm(tmp_path):
    (row,) = metrics(as_nifti(tmp_path / "a.nii", LIVER), as_nifti(tmp_path / "b.nii.gz", SHIFTED))
    assert row["spacing_mm"] == pytest.approx(SPACING)
    assert row["values"]["hd"] == pytest.approx(np.sqrt(2.5**2 + 0.8**2 + 1.4**2), rel=1e-6)
    assert row["values"]["volume_ref_mm3"] == pytest.approx(432 * np.prod(SPACING), rel=1e-6)
    assert row["lesions"]["n_detected"] == 1


def test_two_segmentations_share_the_grid_of_their_frames(tmp_path, ct):
    """The frames of both objects together span fewer slices than the CT; every measure is the same."""
    reference = as_seg(tmp_path / "reference.dcm", ct, liver=LIVER)
    prediction = as_seg(tmp_path / "prediction.dcm", ct, tumour=SHIFTED)
    grid = seg_grid.common_grid([reference, prediction])
    assert grid.shape == (7, 20, 22)
    assert grid.spacing_mm == pytest.approx(SPACING)
    (row,) = metrics(reference, prediction, "--tolerance", 1)
    expected = segmentation_agreement(LIVER, SHIFTED, SPACING, (1,))
    assert row["values"] == pytest.approx(expected, rel=1e-6)
    (on_image,) = metrics(reference, prediction, "--tolerance", 1, "--image", ct[0].parent)
    assert on_image["values"] == pytest.approx(row["values"], rel=1e-9)


def test_segmentation_is_compared_with_nifti(tmp_path, ct):
    (row,) = metrics(as_seg(tmp_path / "a.dcm", ct, liver=LIVER), as_nifti(tmp_path / "b.nii", LIVER))
    assert row["values"]["dice"] == 1
    assert row["values"]["hd95_surfel"] == 0


def test_regions_are_paired_by_name(tmp_path, ct):
    reference = as_seg(tmp_path / "reference.dcm", ct, liver=LIVER, cyst=CYST)
    prediction = as_seg(tmp_path / "prediction.dcm", ct, cyst=CYST, liver=SHIFTED)
    rows = {row["reference"]: row for row in metrics(reference, prediction)}
    assert rows["cyst"]["values"]["dice"] == 1
    assert 0 < rows["liver"]["values"]["dice"] < 1
    (only,) = metrics(reference, prediction, "--label", "cyst")
    assert only["prediction"] == "cyst"


def test_region_that_one_file_lacks_is_refused_or_empty(tmp_path, ct):
    reference = as_seg(tmp_path / "reference.dcm", ct, liver=LIVER, cyst=CYST)
    prediction = as_seg(tmp_path / "prediction.dcm", ct, liver=LIVER)
    with pytest.raises(Refused, match="prediction has no region 'cyst'"):
        metrics(reference, prediction)
    rows = {row["reference"]: row for row in metrics(reference, prediction, "--missing-is-empty")}
    assert rows["cyst"]["values"]["dice"] == 0
    assert rows["cyst"]["values"]["hd"] is None
    assert any("the test mask is empty" in note for note in rows["cyst"]["notes"])


def test_two_empty_masks_do_not_agree_perfectly(tmp_path):
    empty = as_nifti(tmp_path / "a.nii", LIVER & False)
    assert metrics(empty, empty, "--label", "a", "--missing-is-empty")[0]["values"]["dice"] is None


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(Refused, match="There is no file"):
        metrics(tmp_path / "a.nii", tmp_path / "b.nii")


def test_table_names_every_measure(tmp_path):
    path = as_nifti(tmp_path / "a.nii", LIVER)
    result = CliRunner().invoke(app, ["metrics", str(path), str(path)])
    assert result.exit_code == 0
    for name in ("hd95_max_of_directed", "hd95_pooled", "hd95_surfel", "nsd_surfel_2mm"):
        assert name in result.output


def write_case(folder: Path, name: str, statistic: str, inputs: dict) -> Path:
    (folder / "cases").mkdir(exist_ok=True)
    path = folder / "cases" / f"{name}.json"
    path.write_text(json.dumps({"statistic": statistic, "data": {}, "inputs": inputs}))
    return path


def test_cases_are_one_line_each_and_a_broken_one_does_not_stop_the_others(tmp_path):
    paths = [
        write_case(tmp_path, "one", "multiplicity", {"p": [0.01, 0.04]}),
        write_case(tmp_path, "two", "multiplicty", {"p": [0.01]}),
        write_case(tmp_path, "three", "multiplicity", {"p": []}),
    ]
    result = CliRunner().invoke(app, ["statistic", "run", *map(str, paths), "--json"])
    assert isinstance(result.exception, Misconfigured)
    one, three = (json.loads(line) for line in result.stdout.splitlines())
    assert (one["case"], one["values"]["holm"]) == ("one", [0.02, 0.04])
    assert three["values"]["holm"] is None
    assert "two.json: There is no statistic 'multiplicty'; did you mean multiplicity?" in result.stderr


def test_case_is_shown_to_a_reader(tmp_path):
    path = write_case(tmp_path, "one", "multiplicity", {"p": []})
    result = CliRunner().invoke(app, ["statistic", "run", str(path)])
    assert "holm" in result.output
    assert "not defined" in result.output
    assert "note: multiplicity is not defined: p holds no p-value" in result.output


def test_list_is_the_catalogue():
    text = CliRunner().invoke(app, ["statistic", "list"])
    lines = CliRunner().invoke(app, ["statistic", "list", "--json"])
    names = [json.loads(line)["statistic"] for line in lines.output.splitlines()]
    assert all(name in text.output for name in names)
    assert len(names) >= 70


def test_statistic_shows_its_inputs_values_and_references():
    shown = CliRunner().invoke(app, ["statistic", "show", "lin_ccc"])
    for part in ("Inputs: ``x``, ``y``", "scale_shift", "Biometrics 1989"):
        assert part in shown.output
    assert isinstance(CliRunner().invoke(app, ["statistic", "show", "lin"]).exception, Misconfigured)


def test_listing_and_running_import_no_torch(tmp_path):
    path = write_case(tmp_path, "one", "multiplicity", {"p": [0.01]})
    code = (
        "import sys; from typer.testing import CliRunner; from voxtrial.daemon.cli import app\n"
        f"for a in (['statistic', 'list'], ['statistic', 'run', {str(path)!r}]):\n"
        "    assert CliRunner().invoke(app, a).exit_code == 0\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
