"""Grouping: what belongs together, what is split, and what is listed with a reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from phantoms import enhanced_ct, lattice_affine, stack
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from voxtrial.daemon.dicom import geometry, pixels, series
from voxtrial.daemon.errors import Refused


def ramp(slices: int) -> np.ndarray:
    return np.arange(slices * 4 * 3, dtype=np.int16).reshape(slices, 4, 3)


def visits(folder: Path, edit, *, count: int = 3, slices: int = 5) -> list[Path]:
    """``count`` volumes over the same ``slices`` positions in one series; ``edit(visit, slice, ds)``."""
    paths = []
    for visit in range(count):

        def one(k: int, ds: Dataset, visit: int = visit) -> None:
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(
                entropy_srcs=["visits", str(visit), str(k)]
            )
            edit(visit, k, ds)

        paths += stack(folder / str(visit), ramp(slices) + np.int16(100 * visit), edit=one)
    return paths


def test_two_acquisitions_in_one_series_become_two_parts(tmp_path):
    def number(visit: int, _: int, ds: Dataset) -> None:
        ds.AcquisitionNumber = visit + 1

    found = series.group(visits(tmp_path, number, count=2))
    assert [one.part for one in found] == ["AcquisitionNumber=1", "AcquisitionNumber=2"]
    for visit, one in enumerate(found):
        assert np.array_equal(pixels.read(one).array, ramp(5) + 100 * visit)
        assert pixels.read(one).source.acquisition["SeriesPart"] == one.part


def test_time_points_with_an_identifier_become_parts(tmp_path):
    def identify(visit: int, _: int, ds: Dataset) -> None:
        ds.TemporalPositionIdentifier = visit + 1
        ds.AcquisitionNumber = 1

    found = series.group(visits(tmp_path, identify))
    assert [one.part for one in found] == [f"TemporalPositionIdentifier={t}" for t in (1, 2, 3)]


@pytest.mark.parametrize("by_position", [False, True])
def test_time_points_without_an_identifier_are_split_by_blocks_of_instance_numbers(tmp_path, by_position):
    def number(visit: int, k: int, ds: Dataset) -> None:
        ds.InstanceNumber = 1 + (k * 3 + visit if by_position else visit * 5 + k)

    found = series.group(visits(tmp_path, number))
    assert [one.part for one in found] == [f"visit {t} of 3 by InstanceNumber" for t in (1, 2, 3)]
    for visit, one in enumerate(found):
        assert np.array_equal(pixels.read(one).array, ramp(5) + 100 * visit)


def test_visits_that_nothing_orders_are_refused(tmp_path):
    def number(visit: int, k: int, ds: Dataset) -> None:
        ds.InstanceNumber = k + 1

    (one,) = series.group(visits(tmp_path, number))
    with pytest.raises(Refused) as caught:
        geometry.check(one)
    assert caught.value.rule == "duplicate_position"


def test_interleaved_instance_numbers_are_no_order(tmp_path):
    def number(visit: int, k: int, ds: Dataset) -> None:
        ds.InstanceNumber = [7, 2, 9, 4, 1, 8, 3, 6, 5, 10][visit * 5 + k]

    (one,) = series.group(visits(tmp_path, number, count=2))
    with pytest.raises(Refused, match="position that another one holds"):
        geometry.check(one)


def test_a_gap_is_not_hidden_by_splitting_at_the_acquisition_number(tmp_path):
    def number(k: int, ds: Dataset) -> None:
        ds.AcquisitionNumber = 1 + (k > 4)

    paths = stack(tmp_path, ramp(10), edit=number)
    (one,) = series.group(paths[:4] + paths[5:])
    with pytest.raises(Refused) as caught:
        geometry.check(one)
    assert caught.value.rule == "missing_slice"


def test_acquisition_numbers_along_one_regular_stack_stay_one_volume(tmp_path):
    def number(k: int, ds: Dataset) -> None:
        ds.AcquisitionNumber = k

    (one,) = series.group(stack(tmp_path, ramp(6), edit=number))
    assert one.part == ""
    assert geometry.check(one).grid.shape == (6, 4, 3)


def test_interleaved_stacks_of_two_echoes_are_split(tmp_path):
    def echo(visit: int, _: int, ds: Dataset) -> None:
        ds.Modality, ds.EchoTime = "MR", ("10", "80")[visit]
        ds.ImagePositionPatient = [0, 0, float(ds.ImagePositionPatient[2]) + 0.7 * visit]

    found = series.group(visits(tmp_path, echo, count=2))
    assert [one.part for one in found] == ["EchoTime=10.0", "EchoTime=80.0"]


def test_two_quantities_in_one_enhanced_object_are_split_by_stack(tmp_path):
    def stack_id(number: int, group: Dataset) -> None:
        group.FrameContentSequence[0].StackID = "AB"[number % 2]

    path = enhanced_ct(
        tmp_path / "two.dcm", ramp(4), frame_order=[0, 0, 1, 1, 2, 2, 3, 3], edit_frame=stack_id
    )
    found = series.group([path])
    assert [(one.part, len(one.files)) for one in found] == [("StackID=A", 4), ("StackID=B", 4)]


def test_a_localizer_within_a_series_is_listed_and_leaves_the_volume_alone(tmp_path):
    def scout(k: int, ds: Dataset) -> None:
        if k == 0:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    volume, localizer = series.group(stack(tmp_path, ramp(5), edit=scout))
    assert len(volume.files) == 4
    assert volume.refusal is None
    assert localizer.refusal is not None
    assert localizer.refusal.rule == "localizer"


def test_a_damaged_last_slice_refuses_its_series(tmp_path):
    paths = stack(tmp_path, ramp(5))
    paths[-1].write_bytes(paths[-1].read_bytes()[:-4])
    volume, damaged = series.group(paths)
    assert volume.refusal is not None
    assert damaged.refusal is not None
    assert volume.refusal.rule == damaged.refusal.rule == "truncated"
    assert "20 of 24 bytes" in str(volume.refusal)


@pytest.mark.parametrize("kept", [-1, -8, -40])
def test_a_cut_compressed_last_slice_refuses_its_series(tmp_path, kept):
    def compress(_: int, ds: Dataset) -> None:
        ds.compress(RLELossless, generate_instance_uid=False)

    paths = stack(
        tmp_path, np.random.default_rng(1).integers(0, 99, (3, 32, 32)).astype(np.int16), edit=compress
    )
    raw = paths[-1].read_bytes()
    assert raw.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    assert all(one.refusal is None for one in series.group(paths))
    paths[-1].write_bytes(raw[: kept - 8])
    found = series.group(paths)
    assert {one.refusal.rule for one in found if one.refusal} == {"truncated"}
    assert all(one.refusal for one in found)


@pytest.mark.parametrize(
    ("keyword", "value", "rule"),
    [
        ("ImagePositionPatient", None, "missing_geometry"),
        ("PixelSpacing", ["0", "1"], "missing_geometry"),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], "missing_geometry"),
    ],
)
def test_a_slice_without_sound_geometry_refuses_its_series(tmp_path, keyword, value, rule):
    def spoil(k: int, ds: Dataset) -> None:
        if k == 4:
            delattr(ds, keyword) if value is None else setattr(ds, keyword, value)

    found = series.group(stack(tmp_path, ramp(5), edit=spoil))
    assert {one.refusal.rule for one in found if one.refusal} == {rule}
    assert all(one.refusal for one in found)


def test_a_number_that_does_not_parse_is_refused_with_its_text(tmp_path):
    paths = stack(tmp_path, ramp(3))
    raw = paths[1].read_bytes()
    spot = raw.index(b"DS", raw.index(b"\x28\x00\x53\x10"))
    paths[1].write_bytes(raw[: spot + 4] + b"x " + raw[spot + 6 :])
    found = series.group(paths)
    assert {one.refusal.rule for one in found if one.refusal} == {"malformed_header"}
    assert "RescaleSlope holds 'x'" in str(found[0].refusal)


def test_the_same_file_twice_counts_once(tmp_path):
    paths = stack(tmp_path, ramp(4))
    again = shutil.copy(paths[2], tmp_path / "again.dcm")
    (one,) = series.group([*paths, Path(again)])
    assert geometry.check(one).grid.shape[0] == 4
    assert len(one.repeats) == 1


def test_one_uid_with_two_contents_refuses_the_series(tmp_path):
    paths = stack(tmp_path, ramp(4))
    ds = pydicom.dcmread(paths[2])
    ds.PixelData = bytes(len(ds.PixelData))
    other = tmp_path / "other.dcm"
    ds.save_as(other)
    (one,) = series.group([*paths, other])
    assert one.refusal is not None
    assert one.refusal.rule == "conflicting_duplicate"


def test_two_series_are_two_entries_with_their_facts(tmp_path):
    def second(_: int, ds: Dataset) -> None:
        ds.SeriesDescription, ds.ConvolutionKernel = "LUNG \u00e4", "SHARP"

    paths = stack(tmp_path / "a", ramp(3), seed="a")
    paths += stack(tmp_path / "b", ramp(4), lattice_affine((1, 1, 1)), edit=second, seed="b")
    found = {len(one.files): one for one in series.group(paths)}
    assert found[4].description == "LUNG \u00e4"
    assert found[4].acquisition["ConvolutionKernel"] == "SHARP"
    assert found[3].acquisition["Manufacturer"] == "Voxtrial"
    assert found[3].modality == "CT"
    assert found[3].patient_id == "PHANTOM"


def test_text_and_empty_files_are_not_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").touch()
    found = series.group(tmp_path.iterdir())
    assert {one.refusal.rule for one in found if one.refusal} == {"not_dicom"}


def test_a_folder_with_two_volumes_is_not_guessed_at(tmp_path):
    stack(tmp_path, ramp(3), seed="a")
    for k, path in enumerate(stack(tmp_path / "b", ramp(3), seed="b")):
        path.rename(tmp_path / f"b{k}.dcm")
    with pytest.raises(Refused) as caught:
        pixels.read_folder(tmp_path)
    assert caught.value.rule == "ambiguous_series"
