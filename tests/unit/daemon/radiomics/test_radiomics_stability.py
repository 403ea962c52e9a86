"""The perturbation engine against what must be so: shifts by whole voxels, noise of known effect, sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from phantoms import axial_grid, sphere
from scipy.ndimage import gaussian_filter

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation, load
from voxtrial.daemon.radiomics.extract import extract
from voxtrial.daemon.radiomics.placement import Placement
from voxtrial.daemon.radiomics.stability import (
    Perturbation,
    noise_level,
    resized,
    stability,
    usual_perturbations,
    with_random_contour,
)
from voxtrial.daemon.volume import Mask, Volume

SPACING = (3.0, 1.0, 1.0)
EIGHT_BINS = Configuration(name="eight", discretisation=Discretisation(fixed_bin_number=8))


def patient(seed: int, spacing: tuple[float, float, float] = SPACING) -> tuple[Volume, Mask]:
    """Return a tumour of 12 mm radius, its texture of its own kind, in a 24 x 60 x 60 image."""
    rng = np.random.default_rng(seed)
    shape = (24, 60, 60)
    texture = gaussian_filter(rng.normal(0, 1, shape), rng.uniform(0.5, 2))
    inside = sphere(shape, spacing, rng.uniform(9, 13))
    array = np.where(inside, rng.uniform(0, 80) + 60 * texture / texture.std(), -300 + 20 * texture)
    affine = axial_grid(shape, spacing).affine
    return Volume(array=array, affine=affine), Mask(array=inside, affine=affine)


def shifted(*voxels: float) -> Perturbation:
    z, y, x = voxels
    return Perturbation(placement=Placement(shift_voxels=(z, y, x)))


@pytest.mark.parametrize("configuration", [EIGHT_BINS, load("A")], ids=["3D", "A"])
def test_translation_by_whole_voxels_gives_icc_one_exactly(configuration: Configuration) -> None:
    cases = [patient(seed) for seed in range(3)]
    moves = [Perturbation(), shifted(1, 0, 0), shifted(-1, 4, -5)]
    found = stability(cases, moves, configuration, np.random.default_rng(0))
    assert len(found) == len(extract(*cases[0], configuration))
    assert {row.icc for row in found if not math.isnan(row.icc)} == {1.0}
    # A count that is one by definition varies between no patients: no ICC.
    assert {row.ibsi_id for row in found if math.isnan(row.icc)} >= {"6XV8"}


def test_translation_by_whole_interpolated_voxels_gives_icc_one() -> None:
    """Interpolated intensities repeat to rounding error, and so do their features."""
    cases = [patient(seed) for seed in range(3)]
    moves = [Perturbation(), shifted(1, 0, 0), shifted(0, -2, 3)]
    found = stability(cases, moves, load("D"), np.random.default_rng(0))
    assert min(row.icc for row in found if not math.isnan(row.icc)) > 1 - 1e-9


def test_fractions_of_a_voxel_are_felt() -> None:
    cases = [patient(seed) for seed in range(3)]
    found = stability(cases, [Perturbation(), shifted(0.5, 0.5, 0.5)], EIGHT_BINS, np.random.default_rng(0))
    by_id = {(row.ibsi_id, row.aggregation_id): row.icc for row in found}
    assert by_id["ACUI", "IAZD"] < 0.99
    assert by_id["YEKZ", ""] > 0.9


def test_a_quarter_turn_of_square_voxels_changes_no_volumetric_texture() -> None:
    volume, mask = patient(1)
    plain = extract(volume, mask, EIGHT_BINS, families=("glcm", "ngldm"))
    turned = extract(
        volume, mask, EIGHT_BINS, families=("glcm", "ngldm"), placement=Placement(rotation_degrees=90)
    )
    assert [row.value for row in turned] == pytest.approx([row.value for row in plain], rel=1e-6)


def test_icc_of_the_mean_under_noise_is_the_ratio_of_variances() -> None:
    """Means with sd 5, noise with sd 60 over 64 voxels: 25 / (25 + 60² / 64) = 0.3077.

    With 200 cases and 3 repeats the standard error of the ICC is about 0.045 (Donner 1986).
    """
    rng = np.random.default_rng(12)
    shape, affine = (6, 6, 6), axial_grid((6, 6, 6)).affine
    inside = np.zeros(shape, bool)
    inside[1:5, 1:5, 1:5] = True
    cases = [
        (Volume(array=np.full(shape, mean), affine=affine), Mask(array=inside, affine=affine))
        for mean in rng.normal(100, 5, 200)
    ]
    found = stability(
        cases, [Perturbation(noise=60.0)] * 3, EIGHT_BINS, rng, families=("intensity_statistics",)
    )
    mean = next(row for row in found if row.ibsi_id == "Q4LE")
    assert mean.icc == pytest.approx(25 / (25 + 60**2 / 64), abs=0.13)
    assert mean.ci_low < 25 / (25 + 60**2 / 64) < mean.ci_high


@pytest.mark.parametrize("change", [-0.3, -0.05, 0.05, 0.4])
def test_a_region_changes_its_volume_by_the_fraction_asked_for(change: float) -> None:
    _, mask = patient(2)
    other = resized(mask, change)
    assert other.array.sum() == round(mask.array.sum() * (1 + change))
    smaller, larger = sorted([mask.array, other.array], key=np.sum)
    assert not (smaller & ~larger).any()


def test_growth_reaches_as_far_in_millimetres_along_every_axis() -> None:
    """A ball grown by a third stays one; slices of 3 mm know its reach along z to 3 mm."""
    mask = Mask(array=sphere((24, 60, 60), SPACING, 12), affine=axial_grid((24, 60, 60), SPACING).affine)
    grown = np.argwhere(resized(mask, 0.33).array) * SPACING
    reach = np.abs(grown - np.array([23, 59, 59]) / 2 * SPACING).max(axis=0)
    assert reach == pytest.approx(12 * 1.33 ** (1 / 3), abs=3.0)


def test_a_region_cannot_shrink_to_nothing() -> None:
    with pytest.raises(Misconfigured, match="leaves 0 voxels"):
        resized(patient(2)[1], -1)


def test_random_contours_differ_but_keep_the_tumour() -> None:
    volume, mask = patient(3)
    drawn = [with_random_contour(volume, mask, np.random.default_rng(seed)).array for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    dice = 2 * (drawn[0] & mask.array).sum() / (drawn[0].sum() + mask.array.sum())
    assert 0.8 < dice < 1


def test_a_tiny_region_keeps_its_contour() -> None:
    volume, mask = patient(3)
    tiny = Mask(array=np.zeros_like(mask.array), affine=mask.affine)
    tiny.array[12, 30, 30] = True
    assert with_random_contour(volume, tiny, np.random.default_rng(1)).array.sum() >= 1


def test_noise_level_is_the_standard_deviation_of_white_noise() -> None:
    """The ramp has no diagonal detail; 36,000 coefficients give the level within 2 %."""
    shape = (40, 60, 60)
    ramp = np.indices(shape).sum(axis=0) * 5.0
    noisy = ramp + np.random.default_rng(4).normal(0, 12, shape)
    volume = Volume(array=noisy, affine=axial_grid(shape).affine)
    assert noise_level(volume) == pytest.approx(12, rel=0.02)


def test_the_usual_perturbations_are_a_dozen_and_each_has_an_effect() -> None:
    """Only the two random contours may agree, where the border is as sharp as here."""
    volume, mask = patient(5)
    rng = np.random.default_rng(6)
    outcomes = []
    for perturbation in usual_perturbations(10.0):
        found = extract(
            *perturbation.apply(volume, mask, rng),
            EIGHT_BINS,
            families=("intensity_statistics",),
            placement=perturbation.placement,
        )
        outcomes.append(found.value("Q4LE"))
    assert len(outcomes) == 12
    assert len(set(outcomes[:11])) == 11
    assert outcomes[11] != outcomes[0]


def test_one_case_has_no_icc() -> None:
    with pytest.raises(Misconfigured, match="two cases and two perturbations; there are 1 and 2"):
        stability([patient(1)], [Perturbation()] * 2, EIGHT_BINS, np.random.default_rng(0))
