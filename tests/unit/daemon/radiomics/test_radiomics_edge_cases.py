"""Regions that have no texture, no variation or no voxel: each decided in one sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import axial_grid, sphere

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation, Resegmentation, load
from voxtrial.daemon.radiomics.extract import FAMILIES, Features, extract
from voxtrial.daemon.volume import Mask, Volume

SHAPE = (9, 11, 12)


def volume_of(array: NDArray[np.float64]) -> Volume:
    return Volume(array=array, affine=axial_grid(array.shape, (2.0, 2.0, 2.0)).affine)


def features_of(array: NDArray[np.float64], mask: NDArray[np.bool_], configuration: str = "C") -> Features:
    volume = volume_of(array)
    return extract(volume, Mask(array=mask, affine=volume.affine), load(configuration))


def refusal(array: NDArray[np.float64], mask: NDArray[np.bool_], configuration: Configuration) -> Refused:
    volume = volume_of(array)
    with pytest.raises(Refused) as caught:
        extract(volume, Mask(array=mask, affine=volume.affine), configuration)
    return caught.value


def noise() -> NDArray[np.float64]:
    return np.round(np.random.default_rng(5).normal(0, 40, SHAPE))


def ball() -> NDArray[np.bool_]:
    return sphere(SHAPE, (2.0, 2.0, 2.0), 7)


@pytest.mark.parametrize("configuration", "ABCDE")
def test_a_constant_region_has_moments_but_no_correlation(configuration: str) -> None:
    features = features_of(np.full(SHAPE, 40.0), ball(), configuration)
    assert features.value("Q4LE") == 40
    assert features.value("ECT3") == 0
    assert math.isnan(features.value("KE2A"))
    assert math.isnan(features.value("N365"))
    texture = "ZW7Z" if configuration in "AB" else "IAZD"
    assert features.value("8ZQL", texture) == 1
    assert math.isnan(features.value("NI2N", texture))
    assert "have the intensity 40" in features.notes[0]
    assert "glcm: Correlation" in features.notes[-1]


@pytest.mark.parametrize("configuration", "ABCDE")
def test_a_single_voxel_has_a_volume_and_a_note(configuration: str) -> None:
    """2 mm voxel: 8 mm³ by counting; the mesh is an octahedron of radius 1 mm, 4/3 mm³."""
    mask = np.zeros(SHAPE, bool)
    mask[4, 5, 6] = True
    features = features_of(noise(), mask, configuration)
    assert features.value("YEKZ") == pytest.approx(8)
    assert features.value("RNU0") == pytest.approx(4 / 3)
    assert features.value("L0JK") == pytest.approx(2)
    assert features.value("22OV", "ZW7Z" if configuration in "AB" else "IAZD") == 1
    assert features.notes[0].startswith("The region has one voxel")


def test_undefined_values_are_all_named() -> None:
    features = features_of(np.full(SHAPE, 40.0), ball())
    undefined = {f"{row.family}: {row.feature}" for row in features if math.isnan(row.value)}
    assert undefined == set(
        features.notes[-1].removeprefix("Undefined for this region, given as NaN: ").rstrip(".").split("; ")
    )


def test_an_ordinary_region_has_no_note() -> None:
    features = features_of(noise(), ball())
    assert features.notes == ()
    assert {row.family for row in features} == set(FAMILIES)


def test_an_empty_mask_is_refused() -> None:
    error = refusal(noise(), np.zeros(SHAPE, bool), load("C"))
    assert error.rule == "empty_mask"


def test_a_range_that_leaves_nothing_is_refused_with_the_range() -> None:
    error = refusal(np.full(SHAPE, 2000.0), ball(), load("C"))
    assert error.rule == "empty_mask"
    assert "(-1000.0, 400.0)" in str(error)
    assert "from 2000 to 2000" in str(error)


def test_a_mask_on_another_grid_is_refused() -> None:
    volume = volume_of(noise())
    affine = volume.affine.copy()
    affine[0, 3] += 1
    with pytest.raises(Refused, match="does not lie on the image's grid") as caught:
        extract(volume, Mask(array=ball(), affine=affine), load("A"))
    assert caught.value.rule == "mask_off_grid"


def test_a_sheared_grid_is_refused() -> None:
    """A gantry tilt of 10 degrees leaves the slice axis oblique to the slices."""
    volume = volume_of(noise())
    affine = volume.affine.copy()
    affine[1, 0] = 2 * math.tan(math.radians(10))
    with pytest.raises(Refused, match="right angles") as caught:
        extract(volume.with_array(volume.array, affine=affine), Mask(array=ball(), affine=affine), load("A"))
    assert caught.value.rule == "sheared_grid"


def test_an_intensity_that_is_no_number_is_refused() -> None:
    array = noise()
    array[4, 5, 6] = np.nan
    assert refusal(array, ball(), load("A")).rule == "not_finite"


def test_bins_that_are_too_small_are_refused() -> None:
    small = Configuration(name="small", discretisation=Discretisation(fixed_bin_size=1e-3))
    error = refusal(noise(), ball(), small)
    assert error.rule == "too_many_grey_levels"


def test_fractions_without_bins_are_refused() -> None:
    assert refusal(noise() + 0.5, ball(), Configuration(name="bare")).rule == "not_discrete"


def test_an_open_range_takes_its_other_end_from_the_region() -> None:
    half_open = Configuration(
        name="half",
        resegmentation=Resegmentation(range=(-20, math.inf)),
        discretisation=Discretisation(fixed_bin_size=10),
    )
    volume = volume_of(noise())
    features = extract(volume, Mask(array=ball(), affine=volume.affine), half_open)
    inside = noise()[ball()]
    assert features.value("84IY") == inside.max()
    assert features.value("1GSF") >= -20


def test_only_the_families_asked_for_are_counted() -> None:
    volume = volume_of(noise())
    mask = Mask(array=ball(), affine=volume.affine)
    found = extract(volume, mask, load("C"), families=("glcm",))
    assert {row.family for row in found} == {"glcm"}
    assert len(found) == 50


def test_a_value_that_two_features_share_asks_for_the_name() -> None:
    features = features_of(noise(), ball())
    with pytest.raises(KeyError, match="2 features with identifier BC2M"):
        features.value("BC2M")
    low = features.value("BC2M", feature="Volume at intensity fraction [10%]")
    assert low > features.value("BC2M", feature="Volume at intensity fraction [90%]")
