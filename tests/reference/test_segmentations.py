"""Segmentations by other programs: the voxels that dcmqi and highdicom read from them, at the same places."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK as sitk

from voxtrial.daemon.dicom import geometry, masks, pixels, series
from voxtrial.daemon.dicom.elements import read_header
from voxtrial.daemon.dicom.geometry import normal_of
from voxtrial.daemon.dicom.plane import Plane, planes
from voxtrial.daemon.volume import Grid, Mask

pytestmark = pytest.mark.shared_data

PACKAGED = Path(pydicom.data.__file__).parent / "test_files"
CT2 = PACKAGED / "dicomdirtests/77654033/CT2"


def itk_image(path: Path) -> tuple[np.ndarray, Grid]:
    """Return array and grid of an image that ITK reads; its world is LPS too, its axes run the other way."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return array, Grid(shape=array.shape, affine=affine)


def by_dcmqi(path: Path, folder: Path) -> dict[int, np.ndarray]:
    """Return the world coordinates (n, 3) of every segment's voxels, as dcmqi's segimage2itkimage says."""
    program = Path(sys.executable).parent / "segimage2itkimage"
    arguments = [program, "--inputDICOM", path, "--outputDirectory", folder, "--prefix", "s", "-t", "nrrd"]
    subprocess.run(list(map(str, arguments)), check=True, capture_output=True)
    found: dict[int, np.ndarray] = {}
    for file in folder.glob("s-*.nrrd"):
        array, grid = itk_image(file)
        for number in np.unique(array[array > 0]):
            found[int(number)] = grid.world(np.argwhere(array == number).astype(float))
    return found


def world(mask: Mask) -> np.ndarray:
    return mask.grid.world(np.argwhere(mask.array).astype(float))


def same_places(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether both lists hold the same points, to 0.01 mm, in any order."""
    if a.shape != b.shape:
        return False
    a, b = (points[np.lexsort(points.round(1).T)] for points in (a, b))
    return bool(np.abs(a - b).max() < 0.01)


def image_grid(paths: list[Path]) -> Grid:
    (one,) = series.group(paths)
    return geometry.check(one).grid


def ct_slices(shared_data: Path, folder: str, pattern: str) -> Grid:
    return image_grid(sorted((shared_data / "sr_seg" / folder).glob(pattern)))


@pytest.mark.parametrize(
    ("folder", "slices", "name"),
    [
        ("dcmqi_ct3slice", "0?.dcm", "liver.dcm"),
        ("dcmqi_ct3slice", "0?.dcm", "partial_overlaps.dcm"),
        ("dcmqi_small_24x38x3", "IMG*.dcm", "label_seg.dcm"),
        ("dcmqi_small_24x38x3", "IMG*.dcm", "sparse-labelmap-noppv.dcm"),
        ("dcmqi_small_24x38x3", "IMG*.dcm", "sparse-labelmap-ppv5.dcm"),
        ("dcmqi_small_24x38x3", "multiframe_mf.dcm", "label_seg.dcm"),
    ],
)
def test_segments_equal_dcmqi(folder, slices, name, shared_data, tmp_path):
    path = shared_data / "sr_seg" / folder / name
    found = masks.read(path, ct_slices(shared_data, folder, slices))
    expected = by_dcmqi(path, tmp_path)
    assert 1 <= len(found) <= len(expected)  # dcmqi shows the padding of ppv5 as one more
    for number, mask in enumerate(found, start=1):
        assert mask.array.any()
        assert same_places(world(mask), expected[number]), mask.label


@pytest.mark.parametrize(
    ("name", "label_image", "label"),
    [
        ("dcmqi_ct3slice/liver.dcm", "liver_seg.nrrd", 1),
        ("dcmqi_small_24x38x3/label_seg.dcm", "label.nrrd", 1),
    ],
)
def test_segments_equal_the_label_image_that_they_were_made_from(name, label_image, label, shared_data):
    path = shared_data / "sr_seg" / name
    slices = "0?.dcm" if "ct3slice" in name else "IMG*.dcm"
    (mask,) = masks.read(path, ct_slices(shared_data, path.parent.name, slices))
    array, grid = itk_image(path.parent / label_image)
    assert same_places(world(mask), grid.world(np.argwhere(array == label).astype(float)))


def test_pet_segment_without_its_image_equals_dcmqi_on_a_grid_of_its_own(shared_data, tmp_path):
    path = shared_data / "sr_seg/dcmqi_pet_tid1500/seg.dcm"
    expected = by_dcmqi(path, tmp_path)
    (file,) = tmp_path.glob("s-*.nrrd")
    _, grid = itk_image(file)
    (mask,) = masks.read(path, grid)
    assert same_places(world(mask), expected[1])


@pytest.mark.parametrize(
    "name",
    [
        "seg_image_ct_binary.dcm",
        "seg_image_ct_binary_overlap.dcm",
        "seg_image_ct_binary_fractional.dcm",
        "seg_image_ct_true_fractional.dcm",
    ],
)
def test_segments_equal_highdicom(name, shared_data):
    path = shared_data / "sr_seg/highdicom" / name
    slices = sorted(
        (plane for p in CT2.iterdir() for plane in planes(read_header(p))), key=lambda s: s.position[2]
    )
    grid = _grid_through(slices)
    by_highdicom = highdicom.seg.segread(path)
    expected = by_highdicom.get_pixels_by_source_instance(
        [plane.sop_instance_uid for plane in slices],
        segment_numbers=list(by_highdicom.segment_numbers),
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    places = np.rint(grid.index(np.array([plane.position for plane in slices]))[:, 0]).astype(int)
    for k, mask in enumerate(masks.read(path, grid)):
        assert np.array_equal(mask.array[places], expected[..., k] >= 0.5), mask.label
        assert mask.array.sum() == mask.array[places].sum()


def _grid_through(slices: list[Plane]) -> Grid:
    """Return the grid of 1.25 mm through all slices of the packaged CT, of which one stands 200 mm below."""
    first = slices[0]
    along_row, along_column = first.orientation
    spacing_y, spacing_x = first.spacing_yx
    affine = np.eye(4)
    affine[:3, 0] = normal_of(first) * 1.25
    affine[:3, 1], affine[:3, 2] = along_column * spacing_y, along_row * spacing_x
    affine[:3, 3] = first.position
    count = round((slices[-1].position - first.position) @ normal_of(first) / 1.25) + 1
    return Grid(shape=(count, *first.shape), affine=affine)


def test_single_frame_segment_lies_on_its_image(shared_data):
    folder = shared_data / "sr_seg/highdicom"
    (plane,) = planes(read_header(folder / "ct_image.dcm"))
    along_row, along_column = plane.orientation
    spacing_y, spacing_x = plane.spacing_yx
    affine = np.eye(4)
    affine[:3, 0] = normal_of(plane)
    affine[:3, 1], affine[:3, 2] = along_column * spacing_y, along_row * spacing_x
    affine[:3, 3] = plane.position
    path = folder / "seg_image_ct_binary_single_frame.dcm"
    (mask,) = masks.read(path, Grid(shape=(1, *plane.shape), affine=affine))
    assert np.array_equal(mask.array[0], highdicom.seg.segread(path).pixel_array == 1)


def test_frames_that_share_a_byte_are_unpacked_as_pydicom_does(shared_data):
    path = shared_data / "nasty/compressed/liver_nonbyte_aligned.dcm"
    data_set = pydicom.dcmread(path)
    stored = data_set.pixel_array
    placed = [
        group.PlanePositionSequence[0].ImagePositionPatient
        for group in data_set.PerFrameFunctionalGroupsSequence
    ]
    shared = data_set.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    measures = shared.PixelMeasuresSequence[0]
    normal = np.cross(*cosines)
    heights = np.array(placed, float) @ normal
    affine = np.eye(4)
    affine[:3, 0] = normal * float(measures.SpacingBetweenSlices)
    affine[:3, 1] = cosines[1] * float(measures.PixelSpacing[0])
    affine[:3, 2] = cosines[0] * float(measures.PixelSpacing[1])
    affine[:3, 3] = np.array(placed[int(heights.argmin())], float)
    (mask,) = masks.read(path, Grid(shape=stored.shape, affine=affine))
    assert np.array_equal(mask.array, stored[np.argsort(heights)] == 1)


def test_ct_behind_the_dcmqi_segments_equals_simpleitk(shared_data):
    folder = shared_data / "sr_seg/dcmqi_ct3slice"
    paths = sorted(folder.glob("0?.dcm"))
    volume = pixels.read(series.group(paths)[0])
    image = sitk.ReadImage(
        [str(path) for path in sorted(paths, key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])]
    )
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
