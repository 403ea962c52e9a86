"""Pixels: rescale slice by slice, exact integers, units, padding, unused bits, compressed syntaxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from phantoms import enhanced_ct, stack
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from voxtrial.daemon.dicom import pixels, series
from voxtrial.daemon.dicom.elements import read_header
from voxtrial.daemon.dicom.plane import planes
from voxtrial.daemon.errors import Refused

PACKAGED = Path(pydicom.data.__file__).parent / "test_files"


def store(ds: Dataset, stored: np.ndarray, *, bits_stored: int | None = None) -> None:
    """Replace the pixels of ``ds`` by ``stored``, with the attributes that say so."""
    bits = stored.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored = bits, bits_stored or bits
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(stored.dtype.kind == "i")
    ds.Rows, ds.Columns = stored.shape
    ds.PixelData = stored.tobytes()


def read(folder: Path, edit, slices: int = 3):
    return pixels.read_folder(stack(folder, np.zeros((slices, 2, 4), np.int16), edit=edit)[0].parent)


def test_rescale_slope_of_every_slice_is_its_own(tmp_path):
    def pet(k: int, ds: Dataset) -> None:
        ds.Modality, ds.Units, ds.SUVType = "PT", "GML", "BW"
        ds.RescaleSlope, ds.RescaleIntercept = str(0.5 * (k + 1)), str(k)
        store(ds, np.full((2, 4), 10, "<u2"))

    volume = read(tmp_path, pet)
    assert volume.array.dtype == np.float32
    assert volume.array[:, 0, 0].tolist() == [5.0, 11.0, 17.0]
    assert volume.unit == "{SUVbw}g/ml"


@pytest.mark.parametrize(
    ("attributes", "unit"),
    [
        ({"Modality": "CT", "RescaleType": "HU"}, "[hnsf'U]"),
        ({"Modality": "CT", "RescaleType": "US"}, "1"),
        ({"Modality": "MR"}, "1"),
        ({"Modality": "PT", "Units": "GML"}, "{SUVbw}g/ml"),
        ({"Modality": "PT", "Units": "GML", "SUVType": "LBM"}, "1"),
        ({"Modality": "PT", "Units": "BQML"}, "Bq/ml"),
        ({"Modality": "PT", "Units": "CNTS"}, "1"),
    ],
)
def test_unit_follows_modality_and_units(tmp_path, attributes, unit):
    def edit(_: int, ds: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)

    assert read(tmp_path, edit).unit == unit


@pytest.mark.parametrize(
    ("stored", "intercept", "expected", "dtype"),
    [
        (np.array([0, 0], "<u2"), "32768", [32768, 32768], np.float32),
        (np.array([0, 4095], "<u2"), "-1024", [-1024, 3071], np.int16),
        (np.array([0, 65535], "<u2"), "-32768", [-32768, 32767], np.int16),
        (np.array([0, 40000], "<u2"), "0", [0, 40000], np.float32),
        (np.array([-32768, 5], "<i2"), "-1", [-32769, 4], np.float32),
        (np.array([-2000, 5], "<i2"), "-1024", [-3024, -1019], np.int16),
        (np.array([0, 255], "<u1"), "0", [0, 255], np.int16),
        (np.array([-128, 127], "<i1"), "-1000", [-1128, -873], np.int16),
        (np.array([1, 2], "<u2"), "0.5", [1.5, 2.5], np.float32),
        (np.array([1, 1 << 20], "<u4"), "0", [1, 1 << 20], np.float32),
    ],
)
def test_integers_stay_exact_and_int16_where_they_fit(tmp_path, stored, intercept, expected, dtype):
    def edit(_: int, ds: Dataset) -> None:
        store(ds, np.tile(stored, (2, 1)))
        ds.RescaleIntercept = intercept

    volume = read(tmp_path, edit)
    assert volume.array.dtype == dtype
    assert volume.array[1, 0].tolist() == expected


@pytest.mark.parametrize(
    ("slope", "expected", "dtype"),
    [("2", [-20, 8], np.int16), ("-1", [10, -4], np.int16), ("4000", [-40000, 16000], np.float32)],
)
def test_integer_slopes_stay_exact(tmp_path, slope, expected, dtype):
    def edit(_: int, ds: Dataset) -> None:
        store(ds, np.tile(np.array([-10, 4], "<i2"), (2, 1)))
        ds.RescaleSlope = slope

    volume = read(tmp_path, edit)
    assert volume.array.dtype == dtype
    assert volume.array[1, 0].tolist() == expected


@pytest.mark.parametrize(("keyword", "value"), [("RescaleSlope", "0"), ("BitsStored", 0)])
def test_attributes_that_make_no_sense_are_refused(tmp_path, keyword, value):
    with pytest.raises(Refused) as caught:
        read(tmp_path, lambda _, ds: setattr(ds, keyword, value))
    assert caught.value.rule == "malformed_header"


def test_a_slope_that_is_not_a_number_is_refused(tmp_path):
    for path in stack(
        tmp_path, np.zeros((2, 2, 4), np.int16), edit=lambda _, ds: setattr(ds, "RescaleSlope", "7777")
    ):
        path.write_bytes(path.read_bytes().replace(b"7777", b"nan "))
    with pytest.raises(Refused, match="RescaleSlope nan"):
        pixels.read_folder(tmp_path)


def test_overlay_bits_above_the_stored_bits_are_cleared(tmp_path):
    def overlay(_: int, ds: Dataset) -> None:
        store(ds, np.array([[0x8123, 0x0FFF]], "<u2"), bits_stored=12)

    assert read(tmp_path, overlay).array[0].tolist() == [[0x123, 0xFFF]]


def test_unused_bits_of_signed_pixels_take_the_sign(tmp_path):
    def twelve_bits(_: int, ds: Dataset) -> None:
        store(ds, np.array([[0x0FFF, 0x07FF]], "<i2"), bits_stored=12)

    assert read(tmp_path, twelve_bits).array[0].tolist() == [[-1, 2047]]


def test_padding_value_is_given_in_the_unit_of_the_volume(tmp_path):
    def padded(_: int, ds: Dataset) -> None:
        store(ds, np.full((2, 4), -2000, "<i2"))
        ds.RescaleIntercept = "-1024"
        ds.add_new(0x00280120, "SS", -2000)

    volume = read(tmp_path, padded)
    assert volume.source.acquisition["PixelPaddingValue"] == -3024
    assert volume.array.min() == -3024


def test_slices_of_two_pixel_types_are_refused(tmp_path):
    def mixed(k: int, ds: Dataset) -> None:
        store(ds, np.zeros((2, 4), "<u2" if k else "<i2"))

    with pytest.raises(Refused) as caught:
        read(tmp_path, mixed)
    assert caught.value.rule == "mixed_pixels"


def test_source_names_every_instance_with_its_digest(tmp_path):
    paths = stack(tmp_path, np.zeros((3, 2, 4), np.int16))
    (one,) = series.group(paths)
    uids = [plane.sop_instance_uid for plane in one.files]
    source = pixels.read(one, digests={uids[1]: "ab" * 32}).source
    assert [instance.sop_instance_uid for instance in source.instances] == uids
    assert [instance.sha256 for instance in source.instances] == ["", "ab" * 32, ""]
    assert [instance.path for instance in source.instances] == [str(path) for path in paths]
    assert source.modality == "CT"


def test_compressed_slices_give_the_same_volume(tmp_path):
    rng = np.random.default_rng(3)
    truth = rng.integers(-1000, 1000, (4, 16, 16)).astype(np.int16)

    def compress(_: int, ds: Dataset) -> None:
        ds.compress(RLELossless, generate_instance_uid=False)

    folder = stack(tmp_path, truth, edit=compress)[0].parent
    assert np.array_equal(pixels.read_folder(folder).array, truth)


def test_damaged_compressed_pixels_are_refused(tmp_path):
    def compress(_: int, ds: Dataset) -> None:
        ds.compress(RLELossless, generate_instance_uid=False)

    paths = stack(tmp_path, np.zeros((3, 16, 16), np.int16), edit=compress)
    raw = bytearray(paths[1].read_bytes())
    spot = raw.rindex(b"\xfe\xff\x00\xe0") + 8
    raw[spot : spot + 64] = b"\xff" * 64
    paths[1].write_bytes(bytes(raw))
    with pytest.raises(Refused) as caught:
        pixels.read_folder(tmp_path)
    assert caught.value.rule == "undecodable"


SAME_IMAGE = [
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_expb.dcm",
    "MR_small_padded.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
]


@pytest.mark.parametrize("name", SAME_IMAGE)
def test_every_transfer_syntax_stores_the_same_pixels(name):
    def stored(file: str) -> np.ndarray:
        (plane,) = planes(read_header(PACKAGED / file))
        out = np.empty(plane.shape, pixels.stored_type(plane))
        pixels.read_stored(plane, out)
        return out

    assert np.array_equal(stored(name), stored("MR_small.dcm"))


def enhanced(modality: str, sop_class: str):
    """Turn the Enhanced CT that the phantom writes into another modality's."""

    def edit(ds: Dataset) -> None:
        ds.Modality = modality
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
        del ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence

    return edit


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [("PT", "1.2.840.10008.5.1.4.1.1.130"), ("MR", "1.2.840.10008.5.1.4.1.1.4.1")],
)
def test_frames_of_enhanced_objects_have_their_own_slope(tmp_path, modality, sop_class):
    def rescale(number: int, group: Dataset) -> None:
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = str(0.25 * (number + 1)), "0", "US"
        group.PixelValueTransformationSequence = [item]

    path = enhanced_ct(
        tmp_path / "e.dcm",
        np.full((4, 3, 2), 8, np.int16),
        frame_order=[2, 0, 3, 1],
        edit=enhanced(modality, sop_class),
        edit_frame=rescale,
    )
    (one,) = series.group([path])
    # slice 2 is frame 1 (slope 0.25), slice 0 frame 2, slice 3 frame 3, slice 1 frame 4
    assert pixels.read(one).array[:, 0, 0].tolist() == [4.0, 8.0, 2.0, 6.0]


def test_enhanced_mr_without_a_slope_keeps_its_integers(tmp_path):
    path = enhanced_ct(
        tmp_path / "e.dcm",
        np.arange(24, dtype=np.int16).reshape(4, 3, 2),
        edit=enhanced("MR", "1.2.840.10008.5.1.4.1.1.4.1"),
    )
    volume = pixels.read(series.group([path])[0])
    assert volume.array.dtype == np.int16
    assert volume.unit == "1"
    assert np.array_equal(volume.array.ravel(), np.arange(24))
