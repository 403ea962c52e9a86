"""The geometry gate: what is one regular volume, and what is refused by which rule and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from phantoms import ct_series, decimals, enhanced_ct, lattice_affine, stack
from pydicom.dataset import Dataset

from voxtrial.daemon.dicom import geometry, pixels, series
from voxtrial.daemon.errors import Refused


def ramp(slices: int = 6) -> np.ndarray:
    """Every voxel holds its own number: a flip or a shuffle cannot hide."""
    return np.arange(slices * 5 * 7, dtype=np.int16).reshape(slices, 5, 7)


def refusal(paths: list[Path]) -> Refused:
    found = series.group(paths)
    assert len(found) == 1
    with pytest.raises(Refused) as caught:
        geometry.check(found[0])
    return caught.value


def test_slices_are_ordered_by_position_not_by_instance_number(tmp_path):
    # ct_series numbers its instances downwards
    ct_series(tmp_path, ramp(), (2.5, 0.8, 0.7), origin=(-10, -20, 30))
    volume = pixels.read_folder(tmp_path)
    assert np.array_equal(volume.array, ramp())
    assert volume.affine == pytest.approx(
        np.array([[0, 0, 0.7, -10], [0, 0.8, 0, -20], [2.5, 0, 0, 30], [0, 0, 0, 1]]), abs=1e-6
    )


def test_a_stack_written_from_head_to_feet_is_turned_so_that_the_index_rises_along_the_normal(tmp_path):
    affine = lattice_affine((3.0, 1.0, 1.0))
    affine[:3, 0] *= -1
    volume = pixels.read_folder(stack(tmp_path, ramp(), affine)[0].parent)
    assert np.array_equal(volume.array, ramp()[::-1])
    assert volume.affine[2, 0] == pytest.approx(3.0)
    assert volume.affine[2, 3] == pytest.approx(-15.0)


def test_an_oblique_stack_keeps_its_axes(tmp_path):
    affine = lattice_affine((2.2, 0.9, 0.6), origin=(1, 2, 3), rotation_degrees=(20, -35, 50))
    volume = pixels.read_folder(stack(tmp_path, ramp(), affine)[0].parent)
    assert volume.affine == pytest.approx(affine, abs=1e-9)
    assert volume.spacing_mm == pytest.approx((2.2, 0.9, 0.6))


def test_slice_thickness_is_never_the_spacing(tmp_path):
    def lie(_: int, ds: Dataset) -> None:
        ds.SliceThickness, ds.SpacingBetweenSlices = "9", "9"

    volume = pixels.read_folder(stack(tmp_path, ramp(), edit=lie)[0].parent)
    assert volume.spacing_mm[0] == pytest.approx(2.0)


def test_a_missing_slice_is_refused_with_its_place(tmp_path):
    paths = stack(tmp_path, ramp(8))
    found = refusal(paths[:3] + paths[4:])
    assert found.rule == "missing_slice"
    assert "1 slice(s) missing" in str(found)
    assert "4 mm after slice 3 of 7" in str(found)


@pytest.mark.parametrize("kept", [[0, 2, 3], [0, 1, 3]])
def test_one_gap_among_three_slices_is_a_missing_slice(tmp_path, kept):
    paths = stack(tmp_path, ramp(4))
    assert refusal([paths[k] for k in kept]).rule == "missing_slice"


def test_one_missing_slice_of_three_hundred_is_seen(tmp_path):
    paths = stack(tmp_path, np.zeros((300, 2, 2), np.int16), lattice_affine((0.5, 1, 1)))
    assert refusal(paths[:150] + paths[151:]).rule == "missing_slice"


def test_tilted_gantry_is_refused_and_read_sheared_on_demand(tmp_path):
    affine = lattice_affine((2.0, 1.0, 1.0), tilt_degrees=12.0)
    paths = stack(tmp_path, ramp(), affine)
    found = refusal(paths)
    assert found.rule == "gantry_tilt"
    assert "12.00 degrees" in str(found)
    (one,) = series.group(paths)
    allowed = geometry.check(one, allow_tilt=True)
    assert allowed.tilt_degrees == pytest.approx(12.0, abs=1e-6)
    assert allowed.shear == pytest.approx((2 * np.tan(np.radians(12)), 0.0), abs=1e-9)
    assert allowed.slice_spacing_mm == pytest.approx(2.0)
    assert pixels.read(one, allow_tilt=True).affine == pytest.approx(affine, abs=1e-9)


def test_irregular_spacing_is_refused_with_its_range(tmp_path):
    def uneven(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = decimals([0, 0, 2 * k + 0.7 * (k > 3)])

    found = refusal(stack(tmp_path, ramp(), edit=uneven))
    assert found.rule == "irregular_spacing"
    assert "2 to 2.7 mm" in str(found)


def test_drift_of_the_spacing_is_refused_although_no_step_stands_out(tmp_path):
    def drift(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = decimals([0, 0, k + 0.01 * max(0, k - 60)])

    paths = stack(tmp_path, np.zeros((120, 2, 2), np.int16), edit=drift)
    assert refusal(paths).rule == "irregular_spacing"


def test_positions_written_with_one_decimal_are_regular(tmp_path):
    def rounded(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = ["0", "0", f"{0.625 * k:.1f}"]

    (one,) = series.group(stack(tmp_path, np.zeros((40, 2, 2), np.int16), edit=rounded))
    found = geometry.check(one)
    assert found.slice_spacing_mm == pytest.approx(0.625, abs=2e-3)
    assert found.largest_deviation_mm <= 0.1


def test_slices_that_wander_sideways_are_refused(tmp_path):
    def wander(k: int, ds: Dataset) -> None:
        ds.ImagePositionPatient = decimals([3.0 * (k == 2), 0, 2 * k])

    assert refusal(stack(tmp_path, ramp(), edit=wander)).rule == "planes_out_of_line"


def test_two_orientations_are_refused(tmp_path):
    def turn(k: int, ds: Dataset) -> None:
        if k == 4:
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    found = refusal(stack(tmp_path, ramp(), edit=turn))
    assert found.rule == "mixed_orientation"
    assert "2 orientations" in str(found)


def test_a_doubled_position_is_refused(tmp_path):
    def double(k: int, ds: Dataset) -> None:
        if k == 3:
            ds.ImagePositionPatient = [0, 0, 4]

    found = refusal(stack(tmp_path, ramp(), edit=double))
    assert found.rule == "duplicate_position"
    assert "4.00 mm along the normal" in str(found)


def _frame(k: int, ds: Dataset) -> None:
    ds.FrameOfReferenceUID = f"1.2.3.{k // 3}"


def _matrix(k: int, ds: Dataset) -> None:
    if k == 2:
        ds.Rows, ds.Columns = 7, 5


def _spacing(k: int, ds: Dataset) -> None:
    ds.PixelSpacing = ["1", "1.1" if k == 2 else "1"]


@pytest.mark.parametrize(
    ("edit", "rule"),
    [(_frame, "mixed_frame_of_reference"), (_matrix, "mixed_matrix"), (_spacing, "mixed_matrix")],
)
def test_what_cannot_be_one_volume_is_refused(tmp_path, edit: Callable[[int, Dataset], None], rule: str):
    assert refusal(stack(tmp_path, ramp(), edit=edit)).rule == rule


@pytest.mark.parametrize("kind", ["MOSAIC", "LOCALIZER"])
def test_planes_that_show_no_single_slice_are_refused_by_their_image_type(tmp_path, kind: str):
    def name(_: int, ds: Dataset) -> None:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", kind]

    listed = series.group(stack(tmp_path, ramp(), edit=name))
    assert listed
    for found in listed:
        with pytest.raises(Refused, match=f"ImageType {kind}") as caught:
            geometry.check(found)
        assert caught.value.rule == kind.lower()


def test_one_slice_is_no_volume(tmp_path):
    assert refusal(stack(tmp_path, ramp(1))).rule == "single_slice"


def test_enhanced_multiframe_equals_the_single_frames(tmp_path):
    affine = lattice_affine((2.2, 0.9, 0.6), origin=(1, 2, 3), rotation_degrees=(20, -35, 50))
    path = enhanced_ct(tmp_path / "enhanced.dcm", ramp(), affine, frame_order=[3, 0, 5, 1, 4, 2])
    (one,) = series.group([path])
    volume = pixels.read(one)
    assert np.array_equal(volume.array, ramp())
    assert volume.affine == pytest.approx(affine, abs=1e-9)
    assert volume.unit == pixels.HOUNSFIELD
    assert [instance.frame for instance in volume.source.instances] == [2, 4, 6, 1, 5, 3]


def test_enhanced_multiframe_with_a_missing_frame_is_refused(tmp_path):
    path = enhanced_ct(tmp_path / "enhanced.dcm", ramp(), frame_order=[0, 1, 2, 4, 5])
    assert refusal([path]).rule == "missing_slice"


def test_enhanced_multiframe_with_fewer_groups_than_frames_is_refused(tmp_path):
    def cut(ds: Dataset) -> None:
        del ds.PerFrameFunctionalGroupsSequence[-1]

    path = enhanced_ct(tmp_path / "enhanced.dcm", ramp(), edit=cut)
    assert refusal([path]).rule == "malformed_header"
