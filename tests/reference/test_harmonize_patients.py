"""Harmonize real patients: the same lesion in CT, PET and MR, and a head under a tilted gantry."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from voxtrial.daemon.dicom import masks, nifti, pixels, series
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.harmonize.resample import array_to_grid, isotropic_grid, mask_to_grid, to_grid
from voxtrial.daemon.harmonize.suv import uptake
from voxtrial.daemon.harmonize.tilt import tilt_degrees
from voxtrial.daemon.measure.volume import volume_ml

pytestmark = pytest.mark.shared_data


@pytest.mark.parametrize(("patient", "volume"), [("STS_002", 53.3), ("STS_019", 17.4)])
def test_volume_of_a_sarcoma_survives_resampling(shared_data: Path, patient: str, volume: float) -> None:
    """GTV volumes as listed with the data; 1 mm voxels keep them within 2 %."""
    folder = shared_data / "sts" / patient / "nifti"
    image = nifti.read_volume(folder / "CT_image.nii.gz")
    (mask,) = masks.from_nifti(folder / "CT_mask.nii.gz", image.grid)
    assert volume_ml(mask) == pytest.approx(volume, rel=0.01)
    assert volume_ml(mask_to_grid(mask, isotropic_grid(mask.grid, 1.0))) == pytest.approx(volume, rel=0.02)


def test_source_grid_is_reached_again_from_an_isotropic_one(shared_data: Path) -> None:
    """A probability that ran on 1 mm goes back to 3.27 mm slices: the mask there is the one it came from."""
    folder = shared_data / "sts" / "STS_002" / "nifti"
    image = nifti.read_volume(folder / "CT_image.nii.gz")
    (mask,) = masks.from_nifti(folder / "CT_mask.nii.gz", image.grid)
    fine = isotropic_grid(image.grid, 1.0)
    there = array_to_grid(mask.array, image.grid, fine)
    back = array_to_grid(there, fine, image.grid) >= 0.5
    dice = 2 * np.count_nonzero(back & mask.array) / (back.sum() + mask.array.sum())
    assert dice > 0.97


def test_pet_comes_onto_the_ct_of_the_same_patient(shared_data: Path) -> None:
    """Same frame of reference: the hottest voxel of the PET stays where it is, to half a PET voxel."""
    dicom = shared_data / "sts" / "STS_002" / "dicom"
    ct, pet = (pixels.read_folder(dicom / name / "image") for name in ("CT", "PET"))
    assert uptake(pet.source.acquisition).factor == 1  # stored as SUVbw
    on_ct = to_grid(pet, ct.grid, "linear", fill=0.0)
    hottest = [
        v.grid.world(np.array(np.unravel_index(np.argmax(v.array), v.array.shape), float))
        for v in (pet, on_ct)
    ]
    assert np.linalg.norm(hottest[0] - hottest[1]) < 0.75 * max(pet.spacing_mm)
    assert on_ct.array.max() <= pet.array.max() + 1e-4


def test_real_tilted_head_is_straightened_by_its_own_step(shared_data: Path, tmp_path: Path) -> None:
    """GE head with GantryDetectorTilt 18.5: the regular slices read, sheared, then stand upright."""
    archive = shared_data / "nasty" / "ge_ct_gantry_tilt_irregular_spacing.tar.xz"
    with tarfile.open(archive, "r:xz") as tar:
        tar.extractall(tmp_path, filter="data")
    (whole,) = series.group(sorted(p for p in tmp_path.rglob("*") if p.is_file()))
    regular = series.group([plane.path for plane in whole.files[:12]])[0]
    volume = pixels.read(regular, allow_tilt=True)
    assert tilt_degrees(volume.grid) == pytest.approx(18.5, abs=0.2)
    result = Recipe.from_steps([{"step": "straighten"}, {"step": "resample", "spacing_mm": 2.0}]).apply(
        volume
    )
    assert float(result.record[0].found["tilt_degrees"]) == pytest.approx(18.5, abs=0.2)
    assert tilt_degrees(result.volume.grid) == pytest.approx(0, abs=1e-4)
    assert result.volume.spacing_mm == pytest.approx((2, 2, 2))
    # The skull has the same volume before and after: shear does not change volumes.
    bone = [np.count_nonzero(v.array > 300) * v.grid.voxel_volume_mm3 / 1000 for v in (volume, result.volume)]
    assert bone[1] == pytest.approx(bone[0], rel=0.1)
