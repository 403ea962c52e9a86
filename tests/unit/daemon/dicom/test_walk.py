"""The element walk at its edges: long headers, nesting without end, compressed pixels, wrong syntaxes."""

from __future__ import annotations

import struct

import numpy as np
import pydicom
import pytest
from phantoms import stack
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from voxtrial.daemon.dicom import pixels, series
from voxtrial.daemon.dicom.elements import read_with_pydicom
from voxtrial.daemon.dicom.walk import walk


def one_slice(folder, edit=None):
    (path,) = stack(folder, np.arange(12, dtype=np.int16).reshape(1, 3, 4), edit=edit)
    return path


@pytest.mark.parametrize("size", [100, 16_000, 16_384, 300_000, 5_000_000])
def test_a_long_private_element_is_stepped_over(tmp_path, size):
    def private(_: int, ds: Dataset) -> None:
        ds.private_block(0x0029, "ACME", create=True).add_new(1, "OB", bytes(size))

    path = one_slice(tmp_path, private)
    assert walk(path) == read_with_pydicom(path)


def test_compressed_files_are_walked_up_to_their_pixels(tmp_path):
    path = one_slice(tmp_path, lambda _, ds: ds.compress(RLELossless, generate_instance_uid=False))
    header = walk(path)
    assert header == read_with_pydicom(path)
    assert header is not None
    assert header.has_pixel_data
    assert header.pixel_location is None


def test_an_icon_with_compressed_pixels_inside_is_stepped_over(tmp_path):
    def icon(_: int, ds: Dataset) -> None:
        item = Dataset()
        item.Rows, item.Columns, item.Modality = 64, 64, "XX"
        item.add_new(
            0x7FE00010, "OB", struct.pack("<HHI4sHHI", 0xFFFE, 0xE000, 4, b"abcd", 0xFFFE, 0xE0DD, 0)
        )
        item[0x7FE00010].is_undefined_length = True
        ds.IconImageSequence = [item]
        ds["IconImageSequence"].is_undefined_length = True

    path = one_slice(tmp_path, icon)
    header = walk(path)
    assert header is not None
    assert header.values["Rows"] == 3
    assert header.values["Modality"] == "CT"


@pytest.mark.parametrize("depth", [50, 5000])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_nesting_without_end_is_read_or_refused(tmp_path, depth, syntax):
    path = one_slice(tmp_path, lambda _, ds: setattr(ds.file_meta, "TransferSyntaxUID", syntax))
    raw = path.read_bytes()
    first = struct.pack("<HH", 0x0008, 0x0008)
    spot = raw.index(first, raw.index(b"1.2.840.10008.1.2"))
    sequence = struct.pack("<HH", 0x0008, 0x0006)
    sequence += b"SQ\0\0" if syntax == ExplicitVRLittleEndian else b""
    sequence += struct.pack("<I", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path.write_bytes(raw[:spot] + sequence * depth + ends * depth + raw[spot:])
    (one,) = series.group([path])
    assert one.refusal is None or one.refusal.rule == "not_dicom"
    assert (one.refusal is None) == (depth == 50)


def test_a_file_in_another_syntax_than_it_names_is_left_to_pydicom(tmp_path):
    path = one_slice(tmp_path)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.save_as(path, implicit_vr=True, little_endian=True)
    raw = path.read_bytes()
    spot = raw.index(b"1.2.840.10008.1.2\0")
    path.write_bytes(raw[: spot - 2] + struct.pack("<H", 20) + b"1.2.840.10008.1.2.1\0" + raw[spot + 18 :])
    (one,) = series.group([path])
    assert one.modality == "CT"
    assert one.files[0].shape == (3, 4)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_without_file_meta_information_are_read(tmp_path, syntax):
    truth = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    paths = stack(tmp_path, truth, edit=lambda _, ds: setattr(ds.file_meta, "TransferSyntaxUID", syntax))
    for path in paths:
        raw = path.read_bytes()
        path.write_bytes(raw[raw.index(struct.pack("<HH", 0x0008, 0x0005)) :])
    assert walk(paths[0]) is None
    assert np.array_equal(pixels.read_folder(tmp_path).array, truth)
