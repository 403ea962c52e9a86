"""Files that real scanners and other programs wrote: each is read, or refused by the rule of this table.

Nothing may raise anything but Refused: a study with one odd file must not stop the daemon.
"""

from __future__ import annotations

import tarfile
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest

from voxtrial.daemon.dicom import geometry, masks, nifti, pixels, series
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Grid

PACKAGED = Path(pydicom.data.__file__).parent

Outcome = str | tuple[int, int, int]
"""Rule that refuses the file, or the shape of its volume."""

NASTY: dict[str, list[Outcome]] = {
    "broken/bad_sequence.dcm": ["single_slice"],
    "broken/emri_small_jpeg_2k_lossless_too_short.dcm": ["missing_geometry"],
    "broken/liver_deflate.dcm": ["derived_object"],
    "broken/liver_nonbyte_aligned_rle.dcm": ["derived_object"],
    "compressed/JLSL_16_15_1_1F.dcm": ["missing_geometry"],
    "compressed/emri_small_RLE.dcm": ["missing_geometry"],
    "compressed/emri_small_big_endian.dcm": ["missing_geometry"],
    "compressed/emri_small_jpeg_2k_lossless.dcm": ["missing_geometry"],
    "compressed/emri_small_jpeg_ls_lossless.dcm": ["missing_geometry"],
    "compressed/explicit_VR-UN.dcm": ["single_slice"],
    "compressed/liver_nonbyte_aligned.dcm": ["derived_object"],
    "enhanced_multiframe/eCT_Supplemental.dcm": [(2, 512, 512)],
    "enhanced_multiframe/emri_small_no_functional_groups.dcm": ["missing_geometry"],
    "enhanced_multiframe/parametric_map_float.dcm": ["derived_object"],
    "enhanced_multiframe/philips_fieldmap_2stacks_2slopes.dcm": [(32, 64, 64), (32, 64, 64)],
    "enhanced_multiframe/siemens_xa10_bold_t1.dcm": [(6, 64, 64)],
    "enhanced_multiframe/siemens_xa10_bold_t2.dcm": [(6, 64, 64)],
    "mosaic/siemens_mosaic_36sl.dcm": ["mosaic"],
    "ge_ct_gantry_tilt_irregular_spacing.tar.xz": ["gantry_tilt"],
    "ge_mr_4d_fmri_150.tar.xz": [(15, 64, 64)] * 10,
}

PYDICOM: dict[str, Outcome] = {
    "MR_small.dcm": "single_slice",
    "MR_small_implicit.dcm": "single_slice",
    "MR_small_bigendian.dcm": "single_slice",
    "MR_small_expb.dcm": "single_slice",
    "MR_small_RLE.dcm": "single_slice",
    "MR_small_jp2klossless.dcm": "single_slice",
    "MR_small_jpeg_ls_lossless.dcm": "single_slice",
    "693_J2KI.dcm": "single_slice",
    "JPEGLSNearLossless_16.dcm": "missing_geometry",
    "JPGExtended.dcm": "missing_geometry",
    "JPEG-lossy.dcm": "missing_geometry",
    "image_dfl.dcm": "missing_geometry",
    "SC_rgb_rle_16bit_2frame.dcm": "color",
    "MR_truncated.dcm": "truncated",
    "MR_small_padded.dcm": "single_slice",
    "rtplan_truncated.dcm": "not_an_image",
    "J2K_pixelrep_mismatch.dcm": "single_slice",
    "JPEG2000-embedded-sequence-delimiter.dcm": "missing_geometry",
    "badVR.dcm": "derived_object",
    "no_meta.dcm": "not_dicom",
    "no_meta_group_length.dcm": "not_an_image",
    "meta_missing_tsyntax.dcm": "not_an_image",
    "UN_sequence.dcm": "not_an_image",
    "ExplVR_BigEndNoMeta.dcm": "not_an_image",
    "ExplVR_LitEndNoMeta.dcm": "not_an_image",
    "priv_SQ.dcm": "not_an_image",
    "nested_priv_SQ.dcm": "not_an_image",
    "rtplan.dcm": "not_an_image",
    "rtstruct.dcm": "not_an_image",
    "rtdose.dcm": "derived_object",
    "reportsi.dcm": "not_an_image",
    "test-SR.dcm": "not_an_image",
    "waveform_ecg.dcm": "not_an_image",
    "liver_1frame.dcm": "derived_object",
    "dicomdirtests/DICOMDIR": "not_an_image",
    "dicomdirtests/DICOMDIR-bigEnd": "not_an_image",
    "dicomdirtests/77654033/CT2": "missing_slice",
    "dicomdirtests/98892001/CT2N": "localizer",
    "dicomdirtests/98892003/MR700": "mixed_orientation",
}

GRID = Grid(shape=(2, 3, 4), affine=np.eye(4))


def outcomes(paths: list[Path]) -> list[Outcome]:
    """Read everything that can be read of ``paths``."""
    found: list[Outcome] = []
    for one in series.group(paths):
        try:
            volume = pixels.read(one)
        except Refused as refusal:
            found.append(refusal.rule)
        else:
            found.append(volume.array.shape)
    return found


def files(path: Path, unpacked: Path) -> list[Path]:
    if path.name.endswith(".tar.xz"):
        with tarfile.open(path, "r:xz") as archive:
            archive.extractall(unpacked, filter="data")
        path = unpacked
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


@pytest.mark.shared_data
@pytest.mark.parametrize("name", NASTY)
def test_nasty_file_is_read_or_refused_by_its_rule(name, shared_data, tmp_path):
    assert outcomes(files(shared_data / "nasty" / name, tmp_path)) == NASTY[name]


@pytest.mark.shared_data
def test_the_table_holds_every_nasty_file(shared_data):
    folder = shared_data / "nasty"
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {name for name in present if "LICENSE" not in name} == set(NASTY)


@pytest.mark.parametrize("name", PYDICOM)
def test_packaged_file_is_read_or_refused_by_its_rule(name, tmp_path):
    assert set(outcomes(files(PACKAGED / "test_files" / name, tmp_path))) == {PYDICOM[name]}


def test_three_orientations_in_one_series_are_refused():
    found = outcomes(files(PACKAGED / "test_files/dicomdirtests/98892003/MR2", Path()))
    assert found == ["single_slice", "mixed_orientation", "mixed_orientation"]


def test_every_packaged_file_alone_is_read_or_refused():
    seen: Counter[str] = Counter()
    for path in PACKAGED.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            seen.update(str(outcome) for outcome in outcomes([path]))
    assert seen["color"] > 20
    assert seen["not_an_image"] > 50


def test_every_packaged_file_as_a_mask_is_read_or_refused():
    for path in [*(PACKAGED / "test_files").glob("*.dcm"), *(PACKAGED / "charset_files").glob("*.dcm")]:
        with suppress(Refused):
            masks.read(path, GRID)


@pytest.mark.parametrize("name", sorted(path.name for path in (PACKAGED / "charset_files").glob("*.dcm")))
def test_character_sets_do_not_matter_to_reading(name):
    (one,) = series.group([PACKAGED / "charset_files" / name])
    assert one.refusal is not None
    assert one.refusal.rule in {"missing_geometry", "not_an_image"}


@pytest.mark.shared_data
def test_tilted_ge_series_has_irregular_spacing_besides(shared_data, tmp_path):
    paths = files(shared_data / "nasty/ge_ct_gantry_tilt_irregular_spacing.tar.xz", tmp_path)
    (one,) = series.group(paths)
    with pytest.raises(Refused, match=r"18\.50 degrees"):
        geometry.check(one)
    with pytest.raises(Refused, match=r"from 1\.081 to 6\.999 mm") as caught:
        geometry.check(one, allow_tilt=True)
    assert caught.value.rule == "irregular_spacing"


@pytest.mark.shared_data
def test_fmri_without_temporal_positions_is_split_into_ten_recorded_volumes(shared_data, tmp_path):
    paths = files(shared_data / "nasty/ge_mr_4d_fmri_150.tar.xz", tmp_path)
    found = series.group(paths)
    assert [one.part for one in found] == [f"visit {t} of 10 by InstanceNumber" for t in range(1, 11)]
    first = {ds.InstanceNumber for ds in map(pydicom.dcmread, found[0].paths)}
    assert len(first) == 15


@pytest.mark.shared_data
def test_philips_field_map_keeps_its_two_quantities_apart(shared_data):
    path = shared_data / "nasty/enhanced_multiframe/philips_fieldmap_2stacks_2slopes.dcm"
    data_set = pydicom.dcmread(path)
    read = [pixels.read(one) for one in series.group([path])]
    for volume in read:
        for k in (0, 17, 31):
            number = volume.source.instances[k].frame
            group = data_set.PerFrameFunctionalGroupsSequence[number - 1]
            rescale = group.PixelValueTransformationSequence[0]
            expected = data_set.pixel_array[number - 1] * float(rescale.RescaleSlope)
            expected += float(rescale.RescaleIntercept)
            assert volume.array[k] == pytest.approx(expected, rel=1e-6, abs=1e-4)
            position = group.PlanePositionSequence[0].ImagePositionPatient
            assert volume.grid.world(np.array([k, 0.0, 0.0])) == pytest.approx(
                np.array(position, float), abs=1e-3
            )


@pytest.mark.shared_data
def test_siemens_time_points_of_two_enhanced_files_are_two_volumes(shared_data):
    found = series.group((shared_data / "nasty/enhanced_multiframe").glob("siemens*"))
    assert [one.part for one in found] == ["TemporalPositionIdentifier=1", "TemporalPositionIdentifier=2"]


@pytest.mark.shared_data
def test_lung_ct_falls_in_z_while_its_instance_number_rises(shared_data):
    folder = shared_data / "ibsi/ct_phantom"
    volume = pixels.read_folder(folder / "dicom/image")
    expected = nifti.read_volume(next((folder / "nifti/image").iterdir()))
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, expected.array)
    assert volume.affine == pytest.approx(expected.affine, abs=1e-6)
    first, last = (pydicom.dcmread(volume.source.instances[k].path) for k in (0, -1))
    assert (first.InstanceNumber, last.InstanceNumber) == (100, 41)
    assert volume.unit == "[hnsf'U]"


@pytest.mark.shared_data
def test_lung_ct_structure_set_equals_its_nifti_mask(shared_data):
    # 125,256 voxels: IBSI-1 CT phantom, ROI GTV-1
    folder = shared_data / "ibsi/ct_phantom"
    grid = pixels.read_folder(folder / "dicom/image").grid
    (drawn,) = masks.read(next((folder / "dicom/mask").iterdir()), grid)
    (stored,) = masks.read(next((folder / "nifti/mask").iterdir()), grid)
    assert drawn.label == "GTV-1"
    assert drawn.array.sum() == 125_256
    assert np.array_equal(drawn.array, stored.array)


@pytest.mark.shared_data
@pytest.mark.parametrize("modality", ["CT", "PET", "MR_T1"])
@pytest.mark.parametrize("patient", ["STS_002", "STS_008", "STS_019", "STS_025"])
def test_sarcoma_patient_equals_its_nifti(patient, modality, shared_data):
    folder = shared_data / "sts" / patient
    volume = pixels.read_folder(folder / "dicom" / modality / "image")
    expected = nifti.read_volume(folder / "nifti" / f"{modality}_image.nii.gz")
    if modality == "PET":
        assert volume.array == pytest.approx(expected.array, abs=2e-6)
        assert volume.unit == "{SUVbw}g/ml"
    else:
        assert np.array_equal(volume.array, expected.array)
    assert volume.grid.agrees_with(expected.grid, tolerance_mm=0.01)
    drawn = masks.read(
        next((folder / "dicom" / modality / "mask").iterdir()),
        volume.grid,
        frame_of_reference_uid=volume.source.frame_of_reference_uid,
    )
    (stored,) = masks.read(folder / "nifti" / f"{modality}_mask.nii.gz", volume.grid)
    assert [mask.label for mask in drawn] == [f"GTV_Mass_{modality}"]
    assert np.array_equal(drawn[0].array, stored.array)


@pytest.mark.shared_data
def test_oblique_brain_equals_what_simpleitk_and_pydicom_say(shared_data, tmp_path):
    import SimpleITK as sitk

    paths = files(shared_data / "brain/t1_dicom_384_native.tar.xz", tmp_path)
    (one,) = series.group(paths)
    volume = pixels.read(one)
    # SimpleITK is right here: no gap, no tilt. It is given the order, which is what we must find ourselves.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
        image = reader.Execute()
    array = sitk.GetArrayFromImage(image)
    for index in ((0, 0, 0), (383, 383, 273), (100, 200, 50)):
        world = volume.grid.world(np.array(index, float))
        there = image.TransformPhysicalPointToIndex(world.tolist())
        assert volume.array[index] == array[there[::-1]]
        assert image.TransformIndexToPhysicalPoint(there) == pytest.approx(world, abs=0.02)
    assert np.array_equal(np.sort(volume.array, axis=None), np.sort(array, axis=None))
    assert volume.spacing_mm == pytest.approx((2 / 3, 2 / 3, 0.7), abs=1e-3)
