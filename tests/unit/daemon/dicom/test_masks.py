"""Reference masks: what is put on the grid, and what is refused because it would be a guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from phantoms import lattice_affine, stack
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from voxtrial.daemon.dicom import geometry, masks, nifti, pixels, series
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid, Mask, Volume

SHAPE = (6, 8, 10)
AFFINE = lattice_affine((2.5, 0.8, 0.7), origin=(-20, 5, 40), rotation_degrees=(4, -9, 15))
GRID = Grid(shape=SHAPE, affine=AFFINE)


def structure_set(path: Path, contours: Sequence[np.ndarray], *, frame: str = "1.2.3", **contour) -> Path:
    """Write ROI 7, "LESION", with ``contours`` (n, 3) in LPS mm."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = RTStructureSetStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(entropy_srcs=["rt"])
    ds.Modality, ds.StudyInstanceUID, ds.SeriesInstanceUID = "RTSTRUCT", "1.2.4", "1.2.5"
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 7, "LESION", frame
    ds.StructureSetROISequence = [roi]
    drawn = Dataset()
    drawn.ReferencedROINumber, drawn.ContourSequence = 7, []
    for points in contours:
        item = Dataset()
        item.ContourGeometricType = contour.get("geometric_type", "CLOSED_PLANAR")
        item.NumberOfContourPoints = len(points)
        item.ContourData = [f"{v:.9g}" for v in points.ravel()]
        drawn.ContourSequence.append(item)
    ds.ROIContourSequence = [drawn]
    ds.save_as(path, enforce_file_format=True)
    return path


def square(k: float, *, low: float = 1.5, high: float = 5.5) -> np.ndarray:
    """Return the corners of a square on slice ``k`` of GRID, LPS mm."""
    return GRID.world(np.array([[k, low, low], [k, low, high], [k, high, high], [k, high, low]]))


def test_contours_on_an_oblique_grid_cover_their_voxels(tmp_path):
    path = structure_set(tmp_path / "rt.dcm", [square(2), square(3)])
    (mask,) = masks.read(path, GRID)
    expected = np.zeros(SHAPE, bool)
    expected[2:4, 2:6, 2:6] = True
    assert mask.label == "LESION"
    assert np.array_equal(mask.array, expected)


def test_an_inner_contour_on_the_same_slice_is_a_hole(tmp_path):
    path = structure_set(tmp_path / "rt.dcm", [square(2), square(2, low=2.5, high=4.5)])
    (mask,) = masks.read(path, GRID)
    assert mask.array.sum() == 16 - 4


@pytest.mark.parametrize(
    ("contours", "rule"),
    [
        ([square(2.4)], "contour_off_slice"),
        ([square(6)], "reference_outside_image"),
        ([square(-1)], "reference_outside_image"),
        ([square(0), square(2), square(4)], "contours_skip_slices"),
        ([GRID.world(np.array([[1.0, 2, 2], [3, 2, 5], [3, 5, 5]]))], "contour_off_slice"),
    ],
)
def test_contours_that_would_need_a_guess_are_refused(tmp_path, contours, rule):
    with pytest.raises(Refused) as caught:
        masks.read(structure_set(tmp_path / "rt.dcm", contours), GRID)
    assert caught.value.rule == rule


def test_another_frame_of_reference_is_refused(tmp_path):
    path = structure_set(tmp_path / "rt.dcm", [square(2)])
    assert masks.read(path, GRID, frame_of_reference_uid="1.2.3")
    with pytest.raises(Refused) as caught:
        masks.read(path, GRID, frame_of_reference_uid="1.2.99")
    assert caught.value.rule == "frame_of_reference"


def test_a_region_is_chosen_by_name_or_number(tmp_path):
    path = structure_set(tmp_path / "rt.dcm", [square(2)])
    assert masks.from_rtstruct(path, GRID, "LESION")[0].array.sum() == 16
    assert masks.from_rtstruct(path, GRID, 7)[0].array.sum() == 16
    with pytest.raises(Refused, match="it has LESION") as caught:
        masks.from_rtstruct(path, GRID, "LIVER")
    assert caught.value.rule == "unknown_roi"


def test_points_are_no_region(tmp_path):
    path = structure_set(tmp_path / "rt.dcm", [square(2)], geometric_type="POINT")
    assert masks.read(path, GRID) == []


def segmentation(
    folder: Path,
    array: np.ndarray,
    kind: str = "BINARY",
    *,
    affine: np.ndarray = AFFINE,
    segments: int = 1,
    omit_empty_frames: bool = True,
) -> tuple[Path, Grid]:
    """Write ``array`` over a CT of its own with highdicom; return the file and the grid of the CT."""
    paths = stack(folder / "ct", np.zeros(array.shape[:3], np.int16), affine)
    (one,) = series.group(paths)
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=f"part {k + 1}",
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="MANUAL",
        )
        for k in range(segments)
    ]
    written = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(path) for path in one.paths],
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=generate_uid(entropy_srcs=["seg"]),
        series_number=9,
        sop_instance_uid=generate_uid(entropy_srcs=["seg", "1"]),
        instance_number=1,
        manufacturer="Voxtrial",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=omit_empty_frames,
    )
    path = folder / "seg.dcm"
    written.save_as(path)
    return path, geometry.check(one).grid


def blob() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:5, 1:9] = 1
    array[4, 6, 2] = 1
    return array


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("omit_empty_frames", [True, False])
def test_a_segmentation_by_highdicom_comes_back(tmp_path, kind, omit_empty_frames):
    array = blob().astype(np.float32) if kind == "FRACTIONAL" else blob()
    path, grid = segmentation(tmp_path, array, kind, omit_empty_frames=omit_empty_frames)
    (mask,) = masks.read(path, grid)
    assert np.array_equal(mask.array, blob() == 1)
    assert mask.label == "part 1"


def test_fractions_belong_to_the_region_from_the_threshold_on(tmp_path):
    array = np.zeros(SHAPE, np.float32)
    array[2, 3, 3], array[2, 3, 4], array[2, 3, 5] = 0.2, 0.6, 1.0
    path, grid = segmentation(tmp_path, array, "FRACTIONAL")
    assert masks.from_seg(path, grid)[0].array.sum() == 2
    assert masks.from_seg(path, grid, threshold=0.1)[0].array.sum() == 3


def test_overlapping_segments_keep_their_voxels(tmp_path):
    array = np.zeros((*SHAPE, 2), np.uint8)
    array[1:4, 1:5, 1:5, 0] = 1
    array[2:5, 3:7, 3:7, 1] = 1
    path, grid = segmentation(tmp_path, array, segments=2)
    first, second = masks.read(path, grid)
    assert np.array_equal(first.array, array[..., 0] == 1)
    assert np.array_equal(second.array, array[..., 1] == 1)


def test_frames_are_placed_by_position_whatever_the_order_of_the_slices(tmp_path):
    path, grid = segmentation(tmp_path, blob())
    turned = grid.affine.copy()
    turned[:3, 3] += turned[:3, 0] * (SHAPE[0] - 1)
    turned[:3, 0] *= -1
    (mask,) = masks.read(path, Grid(shape=SHAPE, affine=turned))
    assert np.array_equal(mask.array, blob()[::-1] == 1)


def test_a_grid_with_other_axes_gets_the_same_voxels(tmp_path):
    path, grid = segmentation(tmp_path, blob())
    sagittal = grid.affine[:, [2, 0, 1, 3]]
    (mask,) = masks.read(path, Grid(shape=(SHAPE[2], SHAPE[0], SHAPE[1]), affine=sagittal))
    assert np.array_equal(mask.array, np.transpose(blob(), (2, 0, 1)) == 1)


def test_a_larger_grid_gets_the_same_place(tmp_path):
    path, grid = segmentation(tmp_path, blob())
    larger = grid.affine.copy()
    larger[:3, 3] -= larger[:3, :3] @ (1, 2, 3)
    (mask,) = masks.read(path, Grid(shape=(9, 12, 15), affine=larger))
    assert np.array_equal(mask.array[1:7, 2:10, 3:13], blob() == 1)
    assert mask.array.sum() == blob().sum()


def test_segmented_pixels_outside_the_image_are_refused(tmp_path):
    path, grid = segmentation(tmp_path, blob())
    with pytest.raises(Refused) as caught:
        masks.read(path, Grid(shape=(4, 8, 10), affine=grid.affine))
    assert caught.value.rule == "reference_outside_image"


def test_a_finer_grid_takes_the_nearest_pixel(tmp_path):
    path, grid = segmentation(tmp_path, blob())
    finer = grid.affine.copy()
    finer[:3, :3] /= 2
    (mask,) = masks.read(path, Grid(shape=(11, 15, 19), affine=finer))
    assert np.array_equal(mask.array[::2, ::2, ::2], blob() == 1)


def test_a_segmentation_in_another_frame_of_reference_is_refused(tmp_path):
    path, grid = segmentation(tmp_path, blob())
    with pytest.raises(Refused) as caught:
        masks.read(path, grid, frame_of_reference_uid="1.2.99")
    assert caught.value.rule == "frame_of_reference"


def test_an_image_is_no_mask(tmp_path):
    (path, *_) = stack(tmp_path, np.zeros((2, 2, 2), np.int16))
    with pytest.raises(Refused) as caught:
        masks.read(path, GRID)
    assert caught.value.rule == "not_a_mask"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_mask_survives_nifti(tmp_path, suffix):
    path = tmp_path / f"lesion{suffix}"
    nifti.write(Mask(array=blob() == 1, affine=AFFINE), path)
    (mask,) = masks.read(path, GRID)
    assert mask.label == "lesion"
    assert np.array_equal(mask.array, blob() == 1)


def test_labels_of_a_nifti_file_become_masks(tmp_path):
    labels = blob().astype(np.int16) * 4
    labels[0, 0, 0] = 9
    nifti.write(Volume(array=labels, affine=AFFINE), tmp_path / "labels.nii")
    found = masks.read(tmp_path / "labels.nii", GRID)
    assert [(mask.label, int(mask.array.sum())) for mask in found] == [
        ("label 4", int(blob().sum())),
        ("label 9", 1),
    ]


def test_nifti_on_another_grid_takes_the_nearest_label(tmp_path):
    nifti.write(Mask(array=blob() == 1, affine=AFFINE), tmp_path / "lesion.nii")
    finer = AFFINE.copy()
    finer[:3, :3] /= 2
    (mask,) = masks.read(tmp_path / "lesion.nii", Grid(shape=(11, 15, 19), affine=finer))
    assert np.array_equal(mask.array[::2, ::2, ::2], blob() == 1)


def test_nifti_elsewhere_is_refused(tmp_path):
    nifti.write(Mask(array=blob() == 1, affine=AFFINE), tmp_path / "lesion.nii")
    far = AFFINE.copy()
    far[:3, 3] += 500
    with pytest.raises(Refused) as caught:
        masks.read(tmp_path / "lesion.nii", Grid(shape=SHAPE, affine=far))
    assert caught.value.rule == "reference_outside_image"


def test_an_empty_nifti_mask_is_one_empty_region(tmp_path):
    nifti.write(Mask(array=np.zeros(SHAPE, bool), affine=AFFINE), tmp_path / "none.nii.gz")
    (mask,) = masks.read(tmp_path / "none.nii.gz", GRID)
    assert not mask.array.any()


def test_a_volume_survives_nifti_with_the_axes_of_the_standard(tmp_path):
    paths = stack(tmp_path, np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINE)
    volume = pixels.read(series.group(paths)[0])
    nifti.write(volume, tmp_path / "v.nii.gz")
    again = nifti.read_volume(tmp_path / "v.nii.gz")
    assert np.array_equal(again.array, volume.array)
    assert again.array.dtype == np.int16
    assert again.affine == pytest.approx(AFFINE, abs=1e-4)  # NIfTI stores float32
    first, second = tmp_path / "v.nii.gz", tmp_path / "w.nii.gz"
    nifti.write(volume, second)
    assert first.read_bytes()[20:] == second.read_bytes()[20:]


def test_nifti_without_a_place_is_refused(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), None)
    nibabel.save(image, tmp_path / "lost.nii")
    with pytest.raises(Refused) as caught:
        nifti.read_volume(tmp_path / "lost.nii")
    assert caught.value.rule == "missing_geometry"


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x5c\x01\x00\x00" + bytes(400)])
def test_a_file_that_only_calls_itself_nifti_is_refused(tmp_path, content):
    for name in ("x.nii", "x.nii.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Refused):
            nifti.read_volume(tmp_path / name)
