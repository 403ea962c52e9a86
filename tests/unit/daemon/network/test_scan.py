"""Walking a dataset as it arrives, against pydicom's own encoder and reader."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import phantoms
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from voxtrial.daemon.network.part10 import open_dataset
from voxtrial.daemon.network.scan import JOINED, Identity, Malformed, Scanner, is_uid

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def example(*, undefined_length: bool = True) -> Dataset:
    ds = phantoms.ct_slice(
        np.arange(64, dtype=np.int16).reshape(8, 8),
        (0, 0, 0),
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        sop_instance_uid="1.2.3.1.1",
    )
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyDescription = "Schädel nativ"
    inner = Dataset()
    inner.StudyInstanceUID = "9.9.9"  # of another study: nested values are not ours
    inner.TextValue = "x" * 300
    outer = Dataset()
    outer.ReferencedStudySequence = Sequence([inner, Dataset()])
    outer["ReferencedStudySequence"].is_undefined_length = undefined_length
    ds.ReferencedStudySequence = Sequence([outer])
    ds["ReferencedStudySequence"].is_undefined_length = undefined_length
    return ds


def encode(ds: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def scan(data: bytes, syntax: str, piece: int = 1 << 20) -> Identity:
    scanner = Scanner(syntax)
    for at in range(0, len(data), piece):
        scanner.feed(memoryview(data)[at : at + piece])
    return scanner.identity()


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined_length", [True, False])
@pytest.mark.parametrize("piece", [1, 7, 8, 12, 100, 1 << 20])
def test_identity_is_found_in_pieces_of_any_size(syntax: str, undefined_length: bool, piece: int) -> None:
    found = scan(encode(example(undefined_length=undefined_length), syntax), syntax, piece)
    assert found == Identity(
        sop_class_uid=pydicom.uid.CTImageStorage,
        sop_instance_uid="1.2.3.1.1",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.1",
        modality="CT",
        patient_id="PHANTOM",
        accession_number="A-1",
        study_date="20260105",
        study_description="Schädel nativ",
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_dataset_cut_anywhere_after_its_uids_is_not_whole(syntax: str) -> None:
    data = encode(example(), syntax)
    whole = 0
    for cut in range(1, len(data)):
        try:
            scan(data[:-cut], syntax)
            whole += 1
        except Malformed:
            continue
    # Elements end in only a few places of the rest: a cut there leaves a shorter, but whole dataset
    assert whole <= sum(1 for _ in pydicom.dcmread(io.BytesIO(data), force=True)) + 1


def test_deflated_datasets_are_inflated_to_their_end() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(encode(example(), ExplicitVRLittleEndian)) + deflater.flush()
    assert scan(data, DeflatedExplicitVRLittleEndian, 50).sop_instance_uid == "1.2.3.1.1"
    with pytest.raises(Malformed):
        scan(data[:-5], DeflatedExplicitVRLittleEndian)
    with pytest.raises(Malformed):
        scan(b"\xff" * 64, DeflatedExplicitVRLittleEndian)


def test_unknown_sequences_of_undefined_length_are_implicit_inside() -> None:
    """PS3.5 6.2.2, note 4: UN of undefined length is encoded in Implicit VR Little Endian."""
    inner = encode(_one("PatientComments", "c"), ImplicitVRLittleEndian)
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = b"\x09\x00\x10\x10UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = encode(example(), ExplicitVRLittleEndian)
    at = data.index(b"\x10\x00\x10\x00PN")
    assert scan(data[:at] + unknown + data[at:], ExplicitVRLittleEndian).patient_id == "PHANTOM"


def test_values_and_pixels_longer_than_a_join_are_followed_from_any_cut() -> None:
    ds = example()
    ds.StudyDescription = "d" * 64
    ds.ImageComments = "c" * 9000
    ds.PixelData = bytes(3 * JOINED)
    ds["PixelData"].VR = "OW"
    data = encode(ds, ExplicitVRLittleEndian)
    whole = scan(data, ExplicitVRLittleEndian)
    for cut in (*range(1, 400), len(data) - 3 * JOINED - 6, len(data) - 1):
        scanner = Scanner(ExplicitVRLittleEndian)
        scanner.feed(memoryview(data)[:cut])
        scanner.feed(memoryview(data)[cut:])
        assert scanner.identity() == whole


def test_nesting_is_bounded() -> None:
    opening = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(Malformed, match="nested"):
        scan(opening * 100, ExplicitVRLittleEndian)


@pytest.mark.shared_data
@pytest.mark.parametrize("folder", ["sts/STS_002/dicom", "nasty", "sr_seg"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_whatever_pydicom_reads_is_whole_and_named_alike(shared_data: Path, folder: str) -> None:
    seen = 0
    for path in sorted((shared_data / folder).rglob("*.dcm"))[:60]:
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        uids = [ds.get(k, "") for k in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]
        if not all(map(is_uid, uids)) or "TransferSyntaxUID" not in ds.file_meta or "broken" in str(path):
            continue
        handle, syntax = open_dataset(path)
        with handle:
            found = scan(handle.read(), syntax, 65_536)
        assert found.sop_instance_uid == ds.SOPInstanceUID
        assert found.series_instance_uid == ds.SeriesInstanceUID
        assert found.patient_id == str(ds.get("PatientID", "") or "")[:64]
        seen += 1
    assert seen


@given(st.binary(max_size=400), st.sampled_from(SYNTAXES), st.integers(1, 64))
def test_garbage_is_malformed_or_has_uids_and_never_anything_else(
    data: bytes, syntax: str, piece: int
) -> None:
    try:
        identity = scan(data, syntax, piece)
    except Malformed:
        return
    assert is_uid(identity.sop_instance_uid)


@pytest.mark.filterwarnings("ignore")  # pydicom warns of character sets that the damage made up
@settings(deadline=None)
@given(st.data())
def test_damaged_datasets_are_malformed_or_keep_valid_uids(data: st.DataObject) -> None:
    body = bytearray(encode(example(), ExplicitVRLittleEndian))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        identity = scan(bytes(body), ExplicitVRLittleEndian, data.draw(st.integers(1, 300)))
    except Malformed:
        return
    for uid in (identity.study_instance_uid, identity.series_instance_uid, identity.sop_instance_uid):
        assert is_uid(uid)
        assert "/" not in uid
        assert ".." not in uid


@pytest.mark.parametrize("value", ["1.2.3", "0", "2.25.340282366920938463463374607431768211455"])
def test_uids(value: str) -> None:
    assert is_uid(value)


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "1..2", ".1", "1.", "1/2", "../1", "1.2\n", "１.２", "1." + "2" * 63, "a", " 1.2"],
)
def test_what_is_no_uid(value: str) -> None:
    assert not is_uid(value)


def _one(keyword: str, value: str) -> Dataset:
    ds = Dataset()
    setattr(ds, keyword, value)
    return ds
