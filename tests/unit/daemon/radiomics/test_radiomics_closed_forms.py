"""Morphology and the spatial statistics against closed forms and the plain sums that they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import axial_grid, sphere
from scipy import ndimage

from voxtrial.daemon.radiomics import morphology, spatial_autocorrelation, zones
from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation
from voxtrial.daemon.radiomics.extract import extract
from voxtrial.daemon.radiomics.glcm import features as glcm_features
from voxtrial.daemon.radiomics.local_intensity import features as local_features
from voxtrial.daemon.radiomics.morphology import enclosing_ellipsoid_area
from voxtrial.daemon.radiomics.spatial_autocorrelation import moran_and_geary
from voxtrial.daemon.volume import Mask, Volume

SPACING = (2.5, 1.0, 0.8)


def shape_of(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> dict[str, float]:
    image = np.random.default_rng(1).normal(100, 10, mask.shape)
    found = morphology.features(image, mask, mask, spacing)
    return {ibsi_id: value for (_, ibsi_id), value in found.items()}


def test_axes_of_a_box_are_those_of_its_voxel_centres() -> None:
    """Variance of n equidistant points is (n² - 1) / 12 with the divisor n; the axis is 4 times its root."""
    mask = np.zeros((8, 20, 32), bool)
    mask[2:6, 4:14, 3:27] = True
    found = shape_of(mask, SPACING)
    n = np.array([24, 10, 4])
    voxels = n.prod()
    axis = 4 * np.array([0.8, 1.0, 2.5]) * np.sqrt((n**2 - 1) / 12 * voxels / (voxels - 1))
    assert [found["TDIC"], found["P9VJ"], found["7J51"]] == pytest.approx(sorted(axis, reverse=True))
    assert found["YEKZ"] == pytest.approx(voxels * 2.0)


def test_mesh_of_a_box_has_its_corners_and_edges_cut() -> None:
    """The mesh passes half a voxel outside the centres: the box of its vertices is that of the voxels."""
    mask = np.zeros((8, 20, 32), bool)
    mask[2:6, 4:14, 3:27] = True
    found = shape_of(mask, SPACING)
    box = np.array([4 * 2.5, 10 * 1.0, 24 * 0.8])
    assert found["RNU0"] / found["PBX1"] == pytest.approx(box.prod())
    # Cut edges take half of a quarter voxel each, so mesh and hull are the same convex body.
    assert found["R3ER"] == pytest.approx(1)
    assert found["7T7F"] == pytest.approx(1)
    assert found["RNU0"] < found["YEKZ"]


def test_a_ball_is_nearly_a_sphere() -> None:
    """Radius 15 mm at 1 mm: volume within 1.5 %; the area of a binary mesh stays 8 to 9 % too large."""
    found = shape_of(sphere((40, 40, 40), (1, 1, 1), 15), (1, 1, 1))
    assert found["RNU0"] == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.015)
    assert 1.07 < found["C0JK"] / (4 * math.pi * 15**2) < 1.10
    # Second moment of a ball: axes of length 4 R / sqrt(5).
    assert found["TDIC"] == pytest.approx(4 * 15 / math.sqrt(5), rel=0.005)
    assert found["N17B"] == pytest.approx(1, abs=1e-9)


def test_ellipsoid_series_of_a_sphere_is_its_area() -> None:
    assert enclosing_ellipsoid_area(np.array([7.0, 7.0, 7.0])) == pytest.approx(4 * math.pi * 49)


def test_moran_and_geary_are_the_sums_over_all_pairs() -> None:
    rng = np.random.default_rng(7)
    mask = rng.random((5, 6, 7)) < 0.6
    image = rng.normal(50, 20, mask.shape)
    found = morphology.features(image, mask, mask, SPACING)
    points, x = np.argwhere(mask) * SPACING, image[mask]
    distance = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distance, np.inf)
    w, d, n = 1 / distance, x - x.mean(), len(x)
    moran = n / w.sum() * (w * np.outer(d, d)).sum() / (d**2).sum()
    geary = (n - 1) / (2 * w.sum()) * (w * (x[:, None] - x) ** 2).sum() / (d**2).sum()
    assert found["Moran’s I index", "N365"] == pytest.approx(moran, rel=1e-10)
    assert found["Geary’s C measure", "NPT7"] == pytest.approx(geary, rel=1e-10)


def test_a_very_large_region_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for 4,096 coefficients a cube of 16 voxels is seen at every second one: spacing doubled."""
    image = np.random.default_rng(8).normal(0, 20, (16, 16, 16))
    mask = np.ones(image.shape, bool)
    half = np.ascontiguousarray(image[::2, ::2, ::2])
    expected = moran_and_geary(half, np.ones(half.shape, bool), np.array([2.0, 2.0, 2.0]))
    assert spatial_autocorrelation.stride(mask) == 1
    monkeypatch.setattr(spatial_autocorrelation, "MAXIMUM_SPECTRUM", 4096)
    assert spatial_autocorrelation.stride(mask) == 2
    assert moran_and_geary(image, mask, np.ones(3)) == pytest.approx(expected)
    affine = axial_grid(image.shape).affine
    found = extract(
        Volume(array=image, affine=affine),
        Mask(array=mask, affine=affine),
        Configuration(name="large", discretisation=Discretisation(fixed_bin_number=8)),
    )
    assert found.notes == (
        "Moran's I and Geary's C use one voxel in 2 along each axis of this large region.",
    )


def test_centre_of_mass_shift_of_one_bright_voxel() -> None:
    """All weight on one voxel: the shift is its distance from the centre of the box."""
    mask = np.ones((3, 5, 7), bool)
    image = np.zeros(mask.shape)
    image[0, 0, 0] = 10
    shift = morphology.features(image, mask, mask, SPACING)["Centre of mass shift", "KLMA"]
    assert shift == pytest.approx(math.hypot(1 * 2.5, 2 * 1.0, 3 * 0.8))


@pytest.mark.parametrize("by_slice", [False, True])
def test_zones_are_the_components_of_each_level(by_slice: bool) -> None:
    """SciPy labels the same zones: 26-connected, or 8-connected with slices apart."""
    levels = np.random.default_rng(3).integers(0, 4, (6, 9, 8)).astype(np.int32)
    structure = np.ones((3, 3, 3), bool)
    if by_slice:
        structure[[0, 2]] = False
    expected = []
    for level in (1, 2, 3):
        labels, n = ndimage.label(levels == level, structure)
        expected += [(level, int(size)) for size in np.bincount(labels.ravel())[1:]]
        assert n > 0
    found = zones.find_zones(levels, 3, levels > 0, by_slice=by_slice)
    assert sorted(zip(found.level.tolist(), found.size.tolist(), strict=True)) == sorted(expected)


def test_zone_distance_counts_steps_along_the_axes_to_the_outside() -> None:
    mask = sphere((11, 12, 13), (1, 1, 1), 5)
    levels = np.where(mask, np.arange(mask.size).reshape(mask.shape) + 1, 0).astype(np.int32)
    found = zones.find_zones(levels, int(levels.max()), mask, by_slice=False)
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), metric="taxicab")[1:-1, 1:-1, 1:-1]
    assert found.distance.tolist() == distance[mask].tolist()


def test_checkerboard_has_no_equal_neighbours_along_the_axes() -> None:
    """Levels 1 and 2 in turn, 2D: rows and columns always differ, diagonals never: contrast 1 and 0."""
    levels = np.indices((1, 8, 8)).sum(axis=0).astype(np.int32) % 2 + 1
    found = dict(glcm_features(levels, 2, ("2D",)))
    assert found["BTW3"]["Contrast", "ACUI"] == pytest.approx((1 + 1 + 0 + 0) / 4)
    # Merged: 2 * 2 * 56 pairs that differ of 2 * (56 + 56 + 49 + 49).
    assert found["SUJT"]["Contrast", "ACUI"] == pytest.approx(112 / 210)


def test_neighbours_further_away_are_seen_at_their_distance() -> None:
    levels = np.indices((1, 8, 8)).sum(axis=0).astype(np.int32) % 2 + 1
    found = dict(glcm_features(levels, 2, ("2D",), distance=2))
    assert found["BTW3"]["Contrast", "ACUI"] == 0


def test_peak_of_a_constant_is_the_constant_and_of_a_point_its_share() -> None:
    """At 2 mm the sphere of 6.2 mm radius is one of 3.1 voxels; 123 lattice points have a norm up to 3."""
    mask = np.zeros((15, 15, 15), bool)
    mask[7, 7, 7] = True
    image = np.zeros(mask.shape)
    image[7, 7, 7] = 123.0
    found = local_features(image, mask, (2, 2, 2))
    assert found["Local intensity peak", "VJGA"] == pytest.approx(1)
    constant = local_features(np.full(mask.shape, 7.0), mask, (2, 2, 2))
    assert constant["Global intensity peak", "0F91"] == pytest.approx(7)


def test_peak_is_the_largest_mean_over_plain_spheres() -> None:
    """Every sphere summed voxel by voxel, cut at the border of the image."""
    rng = np.random.default_rng(11)
    image = rng.normal(100, 20, (6, 17, 21))
    mask = rng.random(image.shape) < 0.1
    centres = np.indices(image.shape).reshape(3, -1).T * SPACING
    radius = (3000 / (4 * math.pi)) ** (1 / 3)
    means = [
        image.ravel()[np.linalg.norm(centres - centre, axis=1) <= radius].mean()
        for centre in centres[mask.ravel()]
    ]
    found = local_features(image, mask, SPACING)
    assert found["Global intensity peak", "0F91"] == pytest.approx(max(means))
    assert found["Local intensity peak", "VJGA"] == pytest.approx(means[int(image[mask].argmax())])
