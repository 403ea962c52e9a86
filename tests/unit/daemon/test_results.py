"""Segmentations and reports, read back by other software than wrote them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from voxtrial.daemon.job import ResultFile
from voxtrial.daemon.results import codes, provenance
from voxtrial.daemon.results.codes import Concept
from voxtrial.daemon.results.content import Finding, Quantity, Work
from voxtrial.daemon.results.seg import segmentation
from voxtrial.daemon.results.sr import report
from voxtrial.daemon.results.uids import derived_uid

SHAPE, SPACING = (12, 40, 48), (2.0, 0.8, 0.8)
BIN = Path(sys.executable).parent
LESION = Concept(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
NODULE = Concept(value="27925004", scheme="SCT", meaning="Nodule")
LUNG = Concept(value="39607008", scheme="SCT", meaning="Lung")


def asymmetric_mask() -> NDArray[np.bool_]:
    """A mask that no flip or transposition leaves as it is."""
    mask = np.zeros(SHAPE, bool)
    mask[3:7, 10:20, 30:40] = True
    mask[3, 10:12, 20:40] = True
    return mask


def headers(folder: Path) -> tuple[Dataset, ...]:
    files = phantoms.ct_series(
        folder, np.zeros(SHAPE, np.int16), SPACING, seed="results", origin=(-20, -30, 5)
    )
    return tuple(pydicom.dcmread(f, stop_before_pixels=True) for f in files)


def work(source: tuple[Dataset, ...], **changes: Any) -> Work:
    values: dict[str, Any] = {
        "site": "Site A",
        "source": source,
        "source_digests": tuple("00" for _ in source),
        "model_name": "nodule-phantom",
        "model_version": "1.0.0",
        "model_digest": "ab" * 32,
        "recipe_digest": "cd" * 32,
        "code_version": "voxtrial 0.1.0",
        "first_started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return Work(**(values | changes))


def finding(mask: NDArray[np.bool_]) -> Finding:
    return Finding(
        roi=1,
        label="Nodule",
        mask=mask,
        category=LESION,
        type=NODULE,
        site=LUNG,
        volumetric=(
            Quantity(concept=codes.VOLUME, value=563.2, unit=codes.CUBIC_MILLIMETRE),
            Quantity(concept=codes.PROBABILITY_OF_CANCER, value=87.5, unit=codes.PERCENT),
        ),
        planar=(Quantity(concept=codes.LONG_AXIS, value=12.0, unit=codes.MILLIMETRE),),
        key_slice=4,
    )


def written(folder: Path, findings: list[Finding], made: Work) -> dict[str, ResultFile]:
    folder.mkdir(exist_ok=True)
    seg = segmentation(findings, made) if findings else None
    sr = report(findings, made, seg)
    files = {"SR": provenance.save(sr, "SR", folder)}
    if seg is not None:
        files["SEG"] = provenance.save(seg, "SEG", folder)
    return files


def iod_errors(path: str) -> list[str]:
    done = subprocess.run([BIN / "dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_identical_work_gives_identical_bytes(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    first = written(tmp_path / "a", [finding(asymmetric_mask())], work(source))
    second = written(tmp_path / "b", [finding(asymmetric_mask())], work(source))
    assert {k: f.sha256 for k, f in first.items()} == {k: f.sha256 for k, f in second.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"model_digest": "ef" * 32},
        {"recipe_digest": "ef" * 32},
        {"code_version": "voxtrial 0.1.1"},
        {"site": "Site B"},
        {"parameters": ("threshold=0.4",)},
    ],
)
def test_any_change_of_the_work_gives_new_uids(tmp_path: Path, change: dict[str, Any]) -> None:
    source = headers(tmp_path / "ct")
    assert work(source).uid("SEG") != work(source, **change).uid("SEG")


def test_one_changed_source_byte_gives_new_uids(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    digests = ("ff", *("00" for _ in source[1:]))
    assert work(source).uid("SR") != work(source, source_digests=digests).uid("SR")


def test_derived_uid_is_a_legal_uuid_uid_and_not_a_concatenation() -> None:
    uid = derived_uid("a", "bc")
    assert uid.startswith("2.25.")
    assert len(uid) <= 64
    assert int(uid.removeprefix("2.25.")) < 2**128
    assert uid != derived_uid("ab", "c")


def test_objects_are_clean_under_dciodvfy(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    files = written(tmp_path / "out", [finding(asymmetric_mask())], work(source))
    empty = written(tmp_path / "empty", [], work(source, site="B"))
    assert {name: iod_errors(f.path) for name, f in files.items()} == {"SEG": [], "SR": []}
    assert iod_errors(empty["SR"].path) == []


def test_dcmqi_reads_the_mask_where_the_source_planes_are(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    mask = asymmetric_mask()
    files = written(tmp_path / "out", [finding(mask)], work(source))
    arguments = [
        "--inputDICOM",
        files["SEG"].path,
        "--outputDirectory",
        str(tmp_path),
        "--prefix",
        "p",
        "-t",
        "nrrd",
    ]
    subprocess.run([BIN / "segimage2itkimage", *arguments], check=True, capture_output=True)
    image = sitk.ReadImage(str(tmp_path / "p-1.nrrd"))
    voxels = np.argwhere(sitk.GetArrayFromImage(image) > 0)
    found = {
        tuple(np.round(image.TransformIndexToPhysicalPoint([int(i) for i in v[::-1]]), 3)) for v in voxels
    }
    expected = {
        (round(-20 + x * SPACING[2], 3), round(-30 + y * SPACING[1], 3), round(5 + z * SPACING[0], 3))
        for z, y, x in np.argwhere(mask)
    }
    assert found == expected


def test_dcmqi_reads_the_measurements_with_units_and_site(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    files = written(tmp_path / "out", [finding(asymmetric_mask())], work(source))
    out = tmp_path / "sr.json"
    subprocess.run(
        [BIN / "tid1500reader", "--inputDICOM", files["SR"].path, "--outputMetadata", str(out)],
        check=True,
        capture_output=True,
    )
    groups = json.loads(out.read_text())["Measurements"]
    assert len(groups) == 2
    assert {g["TrackingUniqueIdentifier"] for g in groups} == {work(source).tracking_uid(1)}
    items = {i["quantity"]["CodeMeaning"]: i for g in groups for i in g["measurementItems"]}
    assert float(items["Volume"]["value"]) == pytest.approx(563.2)
    assert items["Volume"]["units"]["CodeValue"] == "mm3"
    assert sorted(items) == ["Long Axis", "Probability of cancer", "Volume"]


def test_no_finding_is_a_report_that_says_absent(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    files = written(tmp_path / "out", [], work(source, target=NODULE))
    findings = []

    def collect(item: Dataset, element: pydicom.DataElement) -> None:
        if element.keyword == "ConceptCodeSequence":
            name, value = item.ConceptNameCodeSequence[0].CodeMeaning, element.value[0]
            findings.append((name, (value.CodeValue, value.CodingSchemeDesignator)))

    pydicom.dcmread(files["SR"].path).walk(collect)
    assert ("Nodule", ("2667000", "SCT")) in findings
    assert iod_errors(files["SR"].path) == []
    assert pydicom.dcmread(files["SR"].path).PreliminaryFlag == "PRELIMINARY"


def test_an_empty_segmentation_is_never_made(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    with pytest.raises(ValueError, match="needs a finding"):
        segmentation([], work(source))
    with pytest.raises(ValueError, match="empty mask"):
        segmentation([finding(np.zeros(SHAPE, bool))], work(source))


def test_identity_and_research_marking_travel_with_every_object(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    for header in source:
        header.IssuerOfPatientID = "HOSPITAL"
        header.PatientName = "Müller^Jörg"
    for file in written(tmp_path / "out", [finding(asymmetric_mask())], work(source)).values():
        ds = pydicom.dcmread(file.path)
        assert ds.StudyInstanceUID == source[0].StudyInstanceUID
        assert (ds.PatientID, ds.IssuerOfPatientID) == ("PHANTOM", "HOSPITAL")
        assert str(ds.PatientName) == "Müller^Jörg"
        assert ds.AccessionNumber == "A-1"
        assert ds.SeriesDescription.endswith("(research)")
        assert ds.SeriesNumber >= 9000
        purposes = [
            item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ds.ContributingEquipmentSequence
        ]
        assert "1630" in purposes


def test_a_retrained_model_is_another_device(tmp_path: Path) -> None:
    source = headers(tmp_path / "ct")
    assert work(source).device_uid != work(source, model_digest="ef" * 32).device_uid
