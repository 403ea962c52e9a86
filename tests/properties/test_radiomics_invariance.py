"""What must not change a feature: where the region lies, how the axes run, and the unit of intensity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from phantoms import axial_grid

from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation, Texture
from voxtrial.daemon.radiomics.extract import Features, extract
from voxtrial.daemon.volume import Mask, Volume

SPACING = (2.0, 2.0, 2.0)
EVERY_WAY = Configuration(
    name="property",
    discretisation=Discretisation(fixed_bin_number=6),
    texture=Texture(dimensions=("2D", "2.5D", "3D")),
)
VOLUMETRIC = EVERY_WAY.model_copy(update={"texture": Texture(dimensions=("3D",))})


def patient(seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return smooth noise and a blob in 16³ voxels, far enough from the border for the peak's sphere."""
    rng = np.random.default_rng(seed)
    image = np.round(rng.normal(0, 50, (16, 16, 16)))
    mask = np.zeros(image.shape, bool)
    mask[5:11, 5:11, 5:11] = rng.random((6, 6, 6)) < 0.85
    return image, mask


def features_of(
    image: NDArray[np.float64], mask: NDArray[np.bool_], configuration: Configuration
) -> Features:
    affine = axial_grid(image.shape, SPACING).affine
    return extract(Volume(array=image, affine=affine), Mask(array=mask, affine=affine), configuration)


def values(features: Features) -> list[float]:
    return [row.value for row in features]


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=8, deadline=None)
@given(seed=seeds, shift=st.tuples(*[st.integers(-1, 1)] * 3))
def test_moving_image_and_region_by_whole_voxels_changes_nothing(
    seed: int, shift: tuple[int, int, int]
) -> None:
    image, mask = patient(seed)
    moved = [np.roll(array, shift, axis=(0, 1, 2)) for array in (image, mask)]
    assert values(features_of(*moved, EVERY_WAY)) == pytest.approx(
        values(features_of(image, mask, EVERY_WAY)), rel=1e-9, nan_ok=True
    )


@settings(max_examples=8, deadline=None)
@given(seed=seeds, axes=st.permutations([0, 1, 2]), flips=st.sets(st.integers(0, 2)))
def test_turning_and_mirroring_changes_no_volumetric_feature(
    seed: int, axes: list[int], flips: set[int]
) -> None:
    """Marching cubes breaks ties of ambiguous cells by orientation, so mesh features stand aside."""
    image, mask = patient(seed)
    turned = [np.ascontiguousarray(np.flip(a.transpose(axes), tuple(flips))) for a in (image, mask)]
    before, after = features_of(image, mask, VOLUMETRIC), features_of(*turned, VOLUMETRIC)
    meshed = {"RNU0", "C0JK", "2PR5", "SKGS", "BQWJ", "KRCK", "QCFX", "25C7", "99N0"}
    meshed |= {"PBX1", "R59B", "6BDE", "RDD2", "R3ER", "7T7F"}
    kept = [i for i, row in enumerate(before) if row.ibsi_id not in meshed]
    assert [values(after)[i] for i in kept] == pytest.approx(
        [values(before)[i] for i in kept], rel=1e-9, nan_ok=True
    )


@settings(max_examples=8, deadline=None)
@given(seed=seeds, slope=st.integers(2, 9), intercept=st.integers(-1000, 1000))
def test_texture_of_a_fixed_number_of_bins_does_not_know_the_unit(
    seed: int, slope: int, intercept: int
) -> None:
    image, mask = patient(seed)
    before = features_of(image, mask, EVERY_WAY)
    after = features_of(slope * image + intercept, mask, EVERY_WAY)
    texture = [i for i, row in enumerate(before) if row.aggregation_id or row.family == "intensity_histogram"]
    assert [values(after)[i] for i in texture] == [values(before)[i] for i in texture]


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_voxels_outside_the_region_are_seen_by_the_peak_alone(seed: int) -> None:
    image, mask = patient(seed)
    other = np.where(mask, image, 9999.0)
    before, after = features_of(image, mask, EVERY_WAY), features_of(other, mask, EVERY_WAY)
    changed = {a.family for a, b in zip(before, after, strict=True) if a != b and a.value == a.value}
    assert changed == {"local_intensity"}
