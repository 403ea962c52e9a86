"""De-identification: nothing known leaves, references hold, intervals stay, the object stays valid."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from phantoms import stack
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from voxtrial.daemon.dicom import geometry, masks, pixels, series
from voxtrial.daemon.dicom.deidentify import (
    DATES,
    EMPTIED,
    HASHED,
    KEPT,
    pseudonymised,
    reportable,
    study_hash,
)
from voxtrial.daemon.errors import Misconfigured, Refused

KEY = b"0123456789abcdef0123456789abcdef"

SECRETS = (
    "MUELLER",
    "4711-SECRET",
    "ACC-99",
    "SAINT ELSEWHERE",
    "WHO^DR",
    "SCANNER-ROOM-3",
    "SN12345",
    "KNOWN^NOTE",
)


def identified(k: int, ds: Dataset) -> None:
    """Put an identity into public, nested and private attributes."""
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "MUELLER^ANNA", "4711-SECRET", "ACC-99"
    ds.InstitutionName, ds.ReferringPhysicianName = "SAINT ELSEWHERE", "WHO^DR"
    ds.StationName, ds.DeviceSerialNumber = "SCANNER-ROOM-3", "SN12345"
    ds.SeriesDescription, ds.ContrastBolusAgent = "MUELLER chest", "given by WHO^DR"
    ds.SeriesDate = "20260107"
    request = Dataset()
    request.RequestedProcedureDescription = "KNOWN^NOTE"
    ds.RequestAttributesSequence = [request]
    ds.private_block(0x0029, "ACME", create=True).add_new(1, "LO", "MUELLER")


@pytest.fixture
def study(tmp_path) -> tuple[list[Path], Path]:
    """A CT with an identity, and a segmentation over it."""
    paths = stack(tmp_path / "in", np.arange(96, dtype=np.int16).reshape(4, 4, 6), edit=identified)
    mask = np.zeros((4, 4, 6), np.uint8)
    mask[1:3, 1:3, 2:5] = 1
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="lesion of MUELLER",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="MANUAL",
        tracking_id="MUELLER-1",
        tracking_uid=generate_uid(entropy_srcs=["tracking"]),
    )
    written = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(path) for path in paths],
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(entropy_srcs=["seg"]),
        series_number=9,
        sop_instance_uid=generate_uid(entropy_srcs=["seg", "1"]),
        instance_number=1,
        manufacturer="Voxtrial",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="SN12345",
        content_creator_name="WHO^DR",
    )
    written.save_as(tmp_path / "seg.dcm")
    return paths, tmp_path / "seg.dcm"


def exported(paths: list[Path], folder: Path, key: bytes = KEY) -> list[Path]:
    folder.mkdir()
    found = []
    for path in paths:
        found.append(folder / path.name)
        pseudonymised(pydicom.dcmread(path), key).save_as(found[-1], enforce_file_format=True)
    return found


def test_no_known_identity_is_left_in_any_byte(study, tmp_path):
    images, seg = study
    for path in exported([*images, seg], tmp_path / "out"):
        raw = path.read_bytes()
        for secret in SECRETS:
            assert secret.encode() not in raw, secret
        for uid in {ds.SeriesInstanceUID for ds in map(pydicom.dcmread, [*images, seg])}:
            assert uid.encode() not in raw


def test_volume_and_segmentation_still_fit_each_other(study, tmp_path):
    images, seg = study
    *new_images, new_seg = exported([*images, seg], tmp_path / "out")
    (before,), (after,) = series.group(images), series.group(new_images)
    assert np.array_equal(pixels.read(after).array, pixels.read(before).array)
    grid = geometry.check(after).grid
    assert grid.agrees_with(geometry.check(before).grid)
    (mask,) = masks.read(new_seg, grid, frame_of_reference_uid=after.frame_of_reference_uid)
    assert mask.array.sum() == 12
    assert mask.label == "Lesion 1"
    referenced = pydicom.dcmread(new_seg).ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == after.series_instance_uid
    uids = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert uids == {plane.sop_instance_uid for plane in after.files}


@pytest.mark.parametrize("kind", ["image", "segmentation"])
def test_dicom3tools_finds_no_error_that_was_not_there_before(study, tmp_path, kind):
    images, seg = study
    path = images[0] if kind == "image" else seg
    (after,) = exported([path], tmp_path / "out")

    def errors(file: Path) -> set[str]:
        program = Path(sys.executable).parent / "dciodvfy"
        run = subprocess.run([str(program), str(file)], check=False, capture_output=True, text=True)
        return {line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")}

    assert errors(after) <= errors(path)


def test_identity_is_the_same_in_every_object_and_other_with_another_key(study, tmp_path):
    images, seg = study
    first = [pseudonymised(pydicom.dcmread(path), KEY) for path in (images[0], images[1], seg)]
    assert len({ds.PatientID for ds in first}) == 1
    assert len({ds.StudyInstanceUID for ds in first}) == 1
    other = pseudonymised(pydicom.dcmread(images[0]), KEY[::-1])
    assert other.PatientID != first[0].PatientID
    assert other.StudyInstanceUID != first[0].StudyInstanceUID
    assert first[0].StudyInstanceUID.startswith("2.25.")
    assert len(first[0].StudyInstanceUID) <= 64


def test_dates_move_together_and_intervals_stay(study):
    images, _ = study
    after = pseudonymised(pydicom.dcmread(images[0]), KEY)
    study_date, series_date = (
        date(int(text[:4]), int(text[4:6]), int(text[6:])) for text in (after.StudyDate, after.SeriesDate)
    )
    assert (series_date - study_date).days == 2
    assert date(2016, 1, 7) <= study_date < date(2026, 1, 5)
    assert not after.PatientBirthDate
    assert after.StudyTime == "101500"


def test_the_object_says_what_was_done_to_it(study):
    images, _ = study
    after = pseudonymised(pydicom.dcmread(images[0]), KEY)
    assert after.PatientIdentityRemoved == "YES"
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    assert [item.CodeValue for item in after.DeidentificationMethodCodeSequence] == [
        "113100",
        "113107",
        "113108",
    ]
    assert after.ContrastBolusAgent == "CONTRAST AGENT"
    assert not [element for element in after if element.tag.is_private]
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID


def test_the_original_is_not_changed(study):
    images, _ = study
    original = pydicom.dcmread(images[0])
    before = original.to_json()
    pseudonymised(original, KEY)
    assert original.to_json() == before


@pytest.mark.parametrize(
    ("keyword", "value", "rule"),
    [
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7", "not_exportable"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.33", "not_exportable"),
        ("BurnedInAnnotation", "YES", "burned_in_annotation"),
    ],
)
def test_text_in_pixels_is_refused(study, keyword, value, rule):
    ds = pydicom.dcmread(study[0][0])
    setattr(ds, keyword, value)
    with pytest.raises(Refused) as caught:
        pseudonymised(ds, KEY)
    assert caught.value.rule == rule


def test_an_overlay_within_the_pixels_is_refused_and_a_separate_one_dropped(study):
    ds = pydicom.dcmread(study[0][0])
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", b"\1\0")
    assert 0x60003000 not in pseudonymised(ds, KEY)
    ds[0x60000102].value = 12
    with pytest.raises(Refused, match="overlay"):
        pseudonymised(ds, KEY)


def test_a_short_key_is_a_configuration_error():
    with pytest.raises(Misconfigured, match="16 or more"):
        study_hash(b"secret", "1.2.3")


def test_study_hash_is_the_keyed_hash_that_openssl_computes():
    # printf 'study\n1.2.3' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    assert study_hash(KEY, "1.2.3") == "24fddc7d6cf1a1d1"


def test_reports_hold_the_scanner_but_neither_device_nor_patient():
    scanner = {"Manufacturer": "ACME", "ConvolutionKernel": "B30f"}
    device = {"DeviceSerialNumber": "SN1", "StationName": "ROOM3", "ProtocolName": "Mueller"}
    patient = {"PatientWeight": 70.0, "SeriesDate": "20260101"}
    assert reportable(scanner | device | patient) == scanner


# Table E.1-1 removes, empties or replaces these; options 113107 and 113108 allow what else is kept.
PROTECTED = """
    AccessionNumber AcquisitionComments AcquisitionDeviceProcessingDescription
    AcquisitionProtocolDescription AdditionalPatientHistory AdmittingDiagnosesDescription
    DeviceSerialNumber DerivationDescription DetectorID GantryID GeneratorID ImageComments
    InstitutionAddress InstitutionName InstitutionalDepartmentName IssuerOfPatientID
    NameOfPhysiciansReadingStudy OperatorsName OtherPatientIDs OtherPatientIDsSequence OtherPatientNames
    PatientAddress PatientBirthDate PatientBirthTime PatientComments PatientMotherBirthName
    PatientTelephoneNumbers PerformedProcedureStepDescription PerformingPhysicianName PhysiciansOfRecord
    ProtocolName ReferringPhysicianAddress ReferringPhysicianName RequestAttributesSequence
    RequestedProcedureDescription RequestingPhysician RequestingService ReviewerName SeriesDescription
    StationName StudyComments StudyDescription StudyID TextComments TextString VerifyingObserverName
    ReasonForStudy Occupation MedicalRecordLocator OriginalAttributesSequence SourceImageSequenceComment
    TrackingID SegmentDescription
"""


def test_keep_list_holds_only_known_keywords_and_nothing_that_the_profile_protects():
    assert all(tag_for_keyword(keyword) for keyword in KEPT | DATES | EMPTIED | HASHED)
    assert not KEPT & set(PROTECTED.split())
    assert not KEPT & (DATES | EMPTIED | HASHED)
