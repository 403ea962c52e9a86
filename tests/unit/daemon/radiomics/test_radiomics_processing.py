"""Bins, re-segmentation and configurations, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import axial_grid

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics import region
from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation, Interpolation, load
from voxtrial.daemon.radiomics.discretise import fixed_bin_number, fixed_bin_size
from voxtrial.daemon.radiomics.intensity_volume_histogram import features, grade
from voxtrial.daemon.radiomics.region import prepare
from voxtrial.daemon.radiomics.resegment import resegment
from voxtrial.daemon.volume import Mask, Volume


def test_fixed_bin_number_puts_the_maximum_into_the_last_bin() -> None:
    """Six intensities, three bins of width 5/3: edges at 1.67 and 3.33."""
    levels = fixed_bin_number(np.array([0.0, 1, 2, 3, 4, 5]), 3)
    assert levels.tolist() == [1, 1, 2, 2, 3, 3]


def test_fixed_bin_number_is_exact_on_integer_edges() -> None:
    """Range 0..30 in 10 bins of 3: multiples of 3 open a bin, whatever 1/30 is in binary."""
    levels = fixed_bin_number(np.arange(31.0), 10)
    assert levels.tolist() == [min(x // 3 + 1, 10) for x in range(31)]


def test_one_intensity_is_in_bin_one() -> None:
    assert fixed_bin_number(np.full(4, 7.0), 32).tolist() == [1, 1, 1, 1]


def test_fixed_bin_size_starts_at_the_lower_bound() -> None:
    levels = fixed_bin_size(np.array([-500.0, -475.1, -475, 0, 400]), 25, -500)
    assert levels.tolist() == [1, 1, 2, 21, 37]


def test_resegmentation_keeps_both_ends_of_the_range() -> None:
    image = np.arange(8.0).reshape(2, 2, 2)
    kept = resegment(image, np.ones((2, 2, 2), bool), intensity_range=(2, 5))
    assert image[kept].tolist() == [2, 3, 4, 5]


def test_outliers_are_those_of_the_region_as_it_was_drawn() -> None:
    """99 zeros and 1000: mean 10, sd 99.5; 1000 lies 9.9 sd away. A range alone would keep it."""
    image = np.zeros((1, 10, 10))
    image[0, 0, 0] = 1000
    mask = np.ones(image.shape, bool)
    assert resegment(image, mask, outlier_sigma=3).sum() == 99
    # The mean and sd do not become those of what the range leaves: 1000 is out by the range, 0 stays.
    both = resegment(image, mask, intensity_range=(-10, 500), outlier_sigma=0.05)
    assert both.sum() == 0
    assert resegment(image, mask, intensity_range=(-10, 500), outlier_sigma=0.2).sum() == 99


def test_intensity_volume_histogram_of_ten_voxels() -> None:
    """1..10, one voxel each: at or above 1.9 (fraction 0.1) lie 9, above 9.1 one; a tenth reaches 10."""
    values = np.arange(1.0, 11)
    found = features(grade(values, Discretisation(), None))
    assert found["Volume at intensity fraction [10%]", "BC2M"] == pytest.approx(0.9)
    assert found["Volume at intensity fraction [90%]", "BC2M"] == pytest.approx(0.1)
    assert found["Intensity at volume fraction [10%]", "GBPN"] == 10
    assert found["Intensity at volume fraction [90%]", "GBPN"] == 2


def test_bins_of_a_fixed_size_are_read_at_their_centres() -> None:
    grades = grade(np.array([0.0, 2.4, 2.5, 9.9]), Discretisation(fixed_bin_size=2.5), (0, 10))
    assert grades.values.tolist() == [1.25, 1.25, 3.75, 8.75]
    assert grades.axis.tolist() == [1.25, 3.75, 6.25, 8.75]


def test_continuous_intensities_without_bins_are_their_own_scale() -> None:
    """Standardised uptake values: 0.5, 1.5, 2.5; fraction 0.9 is 2.3, which a third reaches."""
    found = features(grade(np.array([0.5, 2.5, 1.5]), Discretisation(), None))
    assert found["Volume at intensity fraction [90%]", "BC2M"] == pytest.approx(1 / 3)


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[discretisation]\nbin_size = 25\n')
    with pytest.raises(Misconfigured, match=r"key discretisation\.bin_size"):
        load(file)


def test_two_kinds_of_bins_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[discretisation]\nfixed_bin_size = 25\nfixed_bin_number = 32\n')
    with pytest.raises(Misconfigured, match="not both"):
        load(file)


def test_an_unknown_configuration_is_refused_by_name() -> None:
    with pytest.raises(Misconfigured, match="neither one of A, B, C, D, E nor"):
        load("F")


def test_the_digest_is_of_the_settings_and_not_of_the_name() -> None:
    c = load("C")
    renamed = Configuration.model_validate({**c.model_dump(), "name": "other"})
    assert renamed.digest == c.digest
    assert len({load(name).digest for name in "ABCDE"}) == 5


def test_a_far_away_border_of_the_image_does_not_change_a_spline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the surroundings are interpolated from; the whole image gives the same intensities."""
    rng = np.random.default_rng(2)
    array = rng.normal(0, 300, (40, 70, 90))
    inside = np.zeros(array.shape, bool)
    inside[18:24, 33:40, 42:50] = True
    volume = Volume(array=array, affine=axial_grid(array.shape, (3.0, 1.1, 0.9)).affine)
    settings = Configuration(
        name="spline",
        interpolation=Interpolation(spacing_mm=(2, 2, 2), method="bspline"),
        discretisation=Discretisation(fixed_bin_number=8),
    )
    near = prepare(volume, Mask(array=inside, affine=volume.affine), settings)
    monkeypatch.setattr(region, "SUPPORT", 1000)
    whole = prepare(volume, Mask(array=inside, affine=volume.affine), settings)
    assert near.grid.agrees_with(whole.grid)
    assert np.array_equal(near.morphology, whole.morphology)
    assert np.abs(near.image - whole.image).max() < 1e-9
