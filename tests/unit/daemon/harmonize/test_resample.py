"""Grids and interpolation against closed forms, the IBSI rules and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import axial_grid, ellipsoid, oblique_grid
from scipy import ndimage

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.harmonize.bands import INTERPOLATORS, Interpolator
from voxtrial.daemon.harmonize.resample import (
    array_to_grid,
    conformed_grid,
    finer_than_source,
    gaussian_blurred,
    isotropic_grid,
    labels_to_grid,
    mask_to_grid,
    orientation,
    reoriented,
    to_grid,
)
from voxtrial.daemon.volume import Grid, Mask, Volume

SMOOTH: list[Interpolator] = ["linear", "cubic", "bspline", "quintic"]


def centres(grid: Grid) -> NDArray[np.float64]:
    """(z, y, x, 3) LPS mm of all voxel centres."""
    return grid.world(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).astype(float))


def ramp(grid: Grid) -> NDArray[np.float64]:
    return centres(grid) @ np.array([-1.0, 2.0, 3.0])


# Grids


def test_sixty_slices_of_three_become_ninety_of_two() -> None:
    """IBSI: sizes rounded up, centres aligned: the first centre moves by -0.5 mm."""
    grid = axial_grid((60, 4, 4), (3.0, 1.0, 1.0))
    new = isotropic_grid(grid, (2.0, 0.0, 0.0))
    assert new.shape == (90, 4, 4)
    np.testing.assert_allclose(new.affine[:3, 3] - grid.affine[:3, 3], (0, 0, -0.5), atol=1e-12)


def test_size_is_rounded_up_but_not_by_the_last_bit() -> None:
    assert isotropic_grid(axial_grid((120, 512, 512), (2.5, 0.8, 0.8))).shape == (300, 410, 410)
    assert isotropic_grid(axial_grid((30, 3, 3), (0.1, 1.0, 1.0)), (0.3, 0, 0)).shape == (10, 3, 3)


def test_isotropic_grid_of_an_oblique_volume_keeps_axes_and_centre() -> None:
    grid = oblique_grid((21, 40, 33), (3.3, 0.7, 0.9), (20, -35, 50))
    new = isotropic_grid(grid, 1.1)
    assert new.spacing_mm == pytest.approx((1.1, 1.1, 1.1), abs=1e-12)
    middle = [g.world((np.array(g.shape) - 1) / 2) for g in (grid, new)]
    np.testing.assert_allclose(*middle, atol=1e-10)
    np.testing.assert_allclose(new.affine[:3, :3] / 1.1, grid.affine[:3, :3] / grid.spacing_mm, atol=1e-12)


def test_negative_spacing_is_an_error_that_says_so() -> None:
    with pytest.raises(Misconfigured, match="positive"):
        isotropic_grid(axial_grid((3, 3, 3)), -1.0)


def test_letters_name_where_the_array_grows_to() -> None:
    grid = axial_grid((3, 4, 5))
    assert orientation(grid) == "SPL"
    assert orientation(reoriented(grid, "LIA")) == "LIA"
    assert reoriented(grid, "LIA").shape == (5, 3, 4)
    with pytest.raises(Misconfigured, match="SPQ"):
        reoriented(grid, "SPQ")
    with pytest.raises(Misconfigured, match="SIA"):
        reoriented(grid, "SIA")


def test_conformed_grid_is_freesurfers_cube() -> None:
    """256 cube of 1 mm, LIA; centre voxel 128 of the cube on centre voxel n // 2 of the source."""
    grid = axial_grid((170, 200, 181), (1.2, 0.9, 1.1))
    cube = conformed_grid(grid, (256, 256, 256), 1.0, "LIA")
    assert (orientation(cube), cube.shape, cube.spacing_mm) == ("LIA", (256, 256, 256), (1, 1, 1))
    np.testing.assert_allclose(cube.world(np.full(3, 128.0)), grid.world(np.array([85.0, 100, 90])))


# Interpolation


@pytest.mark.parametrize("interpolator", SMOOTH)
@pytest.mark.parametrize("anti_alias", [False, True])
@pytest.mark.parametrize("spacing", [1.0, 2.1])
def test_ramp_is_reproduced_exactly_inside(
    interpolator: Interpolator, anti_alias: bool, spacing: float
) -> None:
    """3z + 2y - x from 0.8 x 0.8 x 5 mm (x, y, z): exact for every symmetric kernel, away from the ends."""
    grid = axial_grid((100, 120, 120), (5.0, 0.8, 0.8), (0, 0, 0))
    new = isotropic_grid(grid, spacing)
    got = array_to_grid(ramp(grid), grid, new, interpolator=interpolator, anti_alias=anti_alias)
    z, yx = (int(40 * s / spacing) for s in (5.0, 0.8))
    assert np.abs(got - ramp(new))[z:-z, yx:-yx, yx:-yx].max() < 1e-10


@pytest.mark.parametrize("interpolator", SMOOTH)
def test_ramp_is_exact_between_oblique_grids(interpolator: Interpolator) -> None:
    grid = axial_grid((90, 90, 90), (1.5, 1.0, 1.0), (0, 0, 0))
    new = oblique_grid((9, 9, 9), (1.0, 0.9, 1.1), (25, 40, -10), centre=(44.5, 44.5, 66.0))
    got = array_to_grid(ramp(grid), grid, new, interpolator=interpolator)
    assert np.abs(got - ramp(new)).max() < 1e-10


@pytest.mark.parametrize(("interpolator", "order"), [("linear", 1), ("bspline", 3), ("quintic", 5)])
@pytest.mark.parametrize("oblique", [False, True])
def test_values_equal_scipys_splines(interpolator: Interpolator, order: int, oblique: bool) -> None:
    rng = np.random.default_rng(1)
    grid = axial_grid((9, 24, 21), (2.5, 0.8, 0.9))
    new = isotropic_grid(grid, 1.0)
    if oblique:
        new = oblique_grid(
            (12, 14, 13), (1.0, 1.1, 0.8), (10, 20, 30), centre=tuple(grid.world(np.array([4, 11, 10])))
        )
    array = rng.standard_normal(grid.shape)
    where = np.clip(grid.index(centres(new)), 0, np.array(grid.shape) - 1)
    expected = ndimage.map_coordinates(array, np.moveaxis(where, -1, 0), order=order, mode="mirror")
    np.testing.assert_allclose(
        array_to_grid(array, grid, new, interpolator=interpolator), expected, atol=1e-10
    )


@pytest.mark.parametrize("oblique", [False, True])
def test_cubic_is_keys_kernel(oblique: bool) -> None:
    """Only a = -1/2 is exact for parabolas; half way between samples it weighs (-1, 9, 9, -1) / 16."""
    grid = axial_grid((40, 40, 40), (1.0, 1.0, 1.0), (0, 0, 0))
    middle = (19.5, 19.5, 19.5)
    new = oblique_grid((9, 9, 9), (0.7, 0.9, 1.1), (25, 40, -10) if oblique else (0, 0, 0), centre=middle)
    parabola = (centres(grid) - middle) ** 2 @ np.array([1.0, -2.0, 0.5])
    expected = (centres(new) - middle) ** 2 @ np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(array_to_grid(parabola, grid, new, interpolator="cubic"), expected, atol=1e-9)
    line = axial_grid((1, 1, 4), origin=(0, 0, 0))
    half = axial_grid((1, 1, 1), origin=(1.5, 0, 0))
    weights = [array_to_grid(one[None, None], line, half, interpolator="cubic").item() for one in np.eye(4)]
    assert weights == pytest.approx([-1 / 16, 9 / 16, 9 / 16, -1 / 16], abs=1e-12)


@pytest.mark.parametrize("angles", [(0, 0, 0), (10, 20, 30)])
def test_nearest_equals_scipys(angles: tuple[float, float, float]) -> None:
    grid = axial_grid((9, 24, 21), (2.5, 0.8, 0.9))
    new = oblique_grid(
        (12, 14, 13), (1.03, 1.1, 0.77), angles, centre=tuple(grid.world(np.array([4, 11, 10])))
    )
    array = np.random.default_rng(12).integers(-1000, 3000, grid.shape).astype(np.int16)
    where = np.clip(grid.index(centres(new)), 0, np.array(grid.shape) - 1)
    expected = ndimage.map_coordinates(array, np.moveaxis(where, -1, 0), order=0, mode="nearest")
    np.testing.assert_array_equal(array_to_grid(array, grid, new, interpolator="nearest"), expected)


@pytest.mark.parametrize("interpolator", ["nearest", "linear", "cubic", "bspline", "quintic"])
def test_both_ways_to_interpolate_agree(interpolator: Interpolator) -> None:
    """A grid that leans by a ten-millionth goes the way of oblique grids."""
    rng = np.random.default_rng(2)
    grid = axial_grid((8, 20, 17), (2.5, 0.8, 0.9), (0, 0, 0))
    straight = isotropic_grid(grid, 1.03)
    turned = Grid(shape=straight.shape, affine=straight.affine.copy())
    turned.affine[:3, 0] += 1e-7
    array = rng.standard_normal(grid.shape)
    np.testing.assert_allclose(
        array_to_grid(array, grid, straight, interpolator=interpolator),
        array_to_grid(array, grid, turned, interpolator=interpolator),
        atol=1e-4,
    )


@pytest.mark.parametrize("interpolator", INTERPOLATORS)
def test_same_grid_gives_the_same_values(interpolator: Interpolator) -> None:
    rng = np.random.default_rng(3)
    grid = axial_grid((5, 12, 11), (3.0, 0.7, 0.7))
    array = rng.standard_normal(grid.shape)
    np.testing.assert_allclose(array_to_grid(array, grid, grid, interpolator=interpolator), array, atol=1e-10)


@pytest.mark.parametrize("axes", ["SPL", "LIA", "RAS", "IAR", "PSR"])
@pytest.mark.parametrize("interpolator", ["nearest", "linear", "bspline"])
def test_turned_axes_bring_every_voxel_back(axes: str, interpolator: Interpolator) -> None:
    rng = np.random.default_rng(4)
    grid = oblique_grid((5, 7, 6), (2.0, 1.0, 1.5), (3, 5, -4))
    volume = Volume(array=rng.integers(-1000, 1000, grid.shape).astype(np.int16), affine=grid.affine)
    there = to_grid(volume, reoriented(grid, axes), interpolator)
    back = to_grid(there, grid, interpolator)
    assert orientation(there.grid) == axes
    np.testing.assert_allclose(back.array, volume.array, atol=1e-3)


def test_ends_take_the_nearest_value_unless_a_fill_is_given() -> None:
    grid = axial_grid((2, 2, 2), (2.0, 2.0, 2.0), (0, 0, 0))
    wide = axial_grid((1, 1, 9), (1.0, 1.0, 1.0), (-3, 0, 0))
    array = np.zeros(grid.shape, np.float32)
    array[..., 1] = 8
    assert array_to_grid(array, grid, wide)[0, 0].tolist() == [0, 0, 0, 0, 4, 8, 8, 8, 8]
    # Half a voxel outside the outermost centre still belongs to the acquisition.
    assert array_to_grid(array, grid, wide, fill=-1)[0, 0].tolist() == [-1, -1, 0, 0, 4, 8, 8, -1, -1]


@pytest.mark.parametrize("interpolator", INTERPOLATORS)
def test_one_slice_and_one_voxel_can_be_resampled(interpolator: Interpolator) -> None:
    for shape in ((1, 5, 5), (1, 1, 1), (2, 1, 3)):
        grid = axial_grid(shape, (5.0, 0.8, 0.8))
        new = array_to_grid(
            np.full(shape, 7, np.int16), grid, isotropic_grid(grid), interpolator=interpolator
        )
        np.testing.assert_allclose(new, 7, rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int16, np.uint16, np.int32, np.float16, np.float32, float]
)
def test_every_dtype_is_interpolated_without_overflow(dtype: type) -> None:
    grid = axial_grid((4, 4, 4), (1.0, 1.0, 1.0), (0, 0, 0))
    array = np.zeros(grid.shape, dtype)
    array[..., 2:] = 1
    half = axial_grid((1, 1, 1), origin=(1.5, 0, 0))
    assert array_to_grid(array, grid, half)[0, 0, 0] == 0.5
    assert array_to_grid(array, grid, grid, interpolator="nearest").dtype == array.dtype


def test_big_endian_and_fortran_order_do_not_matter() -> None:
    grid = axial_grid((4, 6, 5), (2.0, 1.0, 1.0))
    array = np.random.default_rng(5).integers(0, 999, grid.shape).astype(np.int16)
    expected = array_to_grid(array, grid, isotropic_grid(grid))
    for other in (array.astype(">i2"), np.asfortranarray(array), array[::-1, :, ::-1][::-1, :, ::-1]):
        np.testing.assert_array_equal(array_to_grid(other, grid, isotropic_grid(grid)), expected)


def test_threads_give_the_same_bits() -> None:
    rng = np.random.default_rng(6)
    grid = axial_grid((11, 30, 31), (2.5, 0.8, 0.8))
    array = rng.standard_normal(grid.shape).astype(np.float32)
    tilted = oblique_grid((9, 20, 20), (1, 1, 1), (5, 5, 5), centre=tuple(grid.world(np.array([5, 15, 15]))))
    for interpolator in SMOOTH:
        for new in (isotropic_grid(grid), tilted):
            one, three = (
                array_to_grid(array, grid, new, interpolator=interpolator, threads=t) for t in (1, 3)
            )
            np.testing.assert_array_equal(one, three)


def test_unknown_interpolator_and_oblique_box_are_errors_with_a_remedy() -> None:
    grid = axial_grid((3, 3, 3))
    array = np.zeros(grid.shape)
    with pytest.raises(Misconfigured, match="choose one of"):
        array_to_grid(array, grid, grid, interpolator="sinc")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(Misconfigured, match="oblique"):
        array_to_grid(array, grid, oblique_grid((3, 3, 3), (1, 1, 1), (9, 9, 9)), interpolator="box")
    with pytest.raises(ValueError, match="shape"):
        array_to_grid(array[1:], grid, grid)


def test_grids_without_voxels_or_place_never_reach_the_machine_code() -> None:
    grid = axial_grid((3, 3, 3))
    nowhere = Grid(shape=grid.shape, affine=np.where(grid.affine == 700, np.nan, grid.affine))
    for source, target in ((grid, nowhere), (grid, axial_grid((0, 3, 3))), (axial_grid((3, 0, 3)), grid)):
        with pytest.raises(ValueError, match="no voxels or no place"):
            array_to_grid(np.zeros(source.shape), source, target)


# What a coarser grid cannot carry


@pytest.mark.parametrize("interpolator", SMOOTH)
def test_anti_aliasing_removes_what_the_coarse_grid_would_fold_back(interpolator: Interpolator) -> None:
    """A 2.5 mm wave on a 2 mm grid appears as one of 10 mm; blurred first, it is nearly gone.

    The Gaussian that doubles the voxel width, sigma = sqrt(2^2 - 1) / 2.355, passes exp(-2 (pi sigma f)^2) at
    f = 1 / 2.5, and as much again from its image at 1 - f.
    """
    grid = axial_grid((1, 1, 400), (1.0, 1.0, 1.0), (0, 0, 0))
    wave = np.cos(2 * np.pi * np.arange(400) / 2.5)[None, None]
    coarse = isotropic_grid(grid, (0, 0, 2.0))
    plain = array_to_grid(wave, grid, coarse, interpolator=interpolator)[..., 20:-20]
    smooth = array_to_grid(wave, grid, coarse, interpolator=interpolator, anti_alias=True)[..., 20:-20]
    passed = sum(np.exp(-2 * (np.pi * np.sqrt(3) / 2.35482 * f) ** 2) for f in (0.4, 0.6))
    assert smooth.std() / plain.std() == pytest.approx(passed, rel=0.02)


def test_anti_aliasing_leaves_a_finer_grid_alone() -> None:
    rng = np.random.default_rng(7)
    grid = axial_grid((5, 9, 9), (3.0, 2.0, 2.0))
    array = rng.standard_normal(grid.shape)
    one, other = (array_to_grid(array, grid, isotropic_grid(grid), anti_alias=a) for a in (False, True))
    np.testing.assert_array_equal(one, other)


def test_anti_aliasing_works_between_oblique_grids() -> None:
    rng = np.random.default_rng(8)
    grid = axial_grid((40, 40, 40), (1.0, 1.0, 1.0), (0, 0, 0))
    noise = rng.standard_normal(grid.shape)
    coarse = oblique_grid((8, 8, 8), (3.0, 3.0, 3.0), (20, 30, 10), centre=(19.5, 19.5, 19.5))
    plain = array_to_grid(noise, grid, coarse)
    smooth = array_to_grid(noise, grid, coarse, anti_alias=True)
    assert smooth.std() < 0.5 * plain.std()


def test_blur_has_exactly_the_variance_asked_for() -> None:
    """A point spreads to a kernel of sum 1 and variance sigma² along each axis, also for small sigma."""
    for sigma in (0.3, 0.8, 2.5):
        point = np.zeros((1, 1, 61))
        point[..., 30] = 1
        spread = gaussian_blurred(point, (0, 0, sigma))[0, 0]
        x = np.arange(61) - 30
        assert spread.sum() == pytest.approx(1, abs=1e-9)
        assert (spread * x**2).sum() == pytest.approx(sigma**2, rel=1e-5)


def test_finer_grid_than_the_slices_is_said_in_words() -> None:
    grid = axial_grid((10, 50, 50), (5.0, 0.8, 0.8))
    message = finer_than_source(grid, isotropic_grid(grid, 1.0))
    assert "along z (5 mm sampled, 1 mm asked)" in message
    assert "10 mm" in message
    assert finer_than_source(grid, isotropic_grid(grid, 5.0)) == ""


# Masks and labels


def test_partial_volume_keeps_the_volume_of_a_ball() -> None:
    grid = axial_grid((40, 80, 80), (2.0, 1.0, 1.0))
    ball = Mask(array=ellipsoid(grid, (25, 25, 25)) <= 1, affine=grid.affine, label="ball")
    cases: list[tuple[Interpolator, float]] = [("linear", 1.0), ("box", 1.0), ("box", 3.0)]
    for interpolator, spacing in cases:
        new = mask_to_grid(ball, isotropic_grid(grid, spacing), interpolator=interpolator)
        volume = new.array.sum() * spacing**3
        assert volume == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.02), (interpolator, spacing)
        assert new.label == "ball"


def test_a_half_filled_voxel_belongs_to_the_mask() -> None:
    grid = axial_grid((1, 1, 4), origin=(0, 0, 0))
    mask = Mask(array=np.array([[[False, True, True, False]]]), affine=grid.affine)
    middles = axial_grid((1, 1, 3), origin=(0.5, 0, 0))
    assert mask_to_grid(mask, middles).array.tolist() == [[[True, True, True]]]
    assert mask_to_grid(mask, middles, threshold=0.6).array.tolist() == [[[False, True, False]]]


def test_box_shares_sum_to_the_original_volume() -> None:
    rng = np.random.default_rng(9)
    grid = axial_grid((7, 12, 15), (2.0, 1.0, 0.8))
    array = np.pad(rng.random((5, 8, 11)), ((1, 1), (2, 2), (2, 2)))
    for spacing in (0.7, 1.5, 3.1):
        new = isotropic_grid(grid, spacing)
        share = array_to_grid(array, grid, new, interpolator="box", fill=0)
        assert share.sum() * new.voxel_volume_mm3 == pytest.approx(
            array.sum() * grid.voxel_volume_mm3, rel=1e-9
        )


@pytest.mark.parametrize("smooth", [False, True])
def test_no_label_is_invented(smooth: bool) -> None:
    rng = np.random.default_rng(10)
    grid = axial_grid((6, 10, 10), (3.0, 1.0, 1.0))
    labels = rng.choice(np.array([0, 1, 7, 300], np.uint16), grid.shape)
    new = labels_to_grid(labels, grid, isotropic_grid(grid, 0.9), smooth=smooth)
    assert new.dtype == labels.dtype
    assert set(np.unique(new)) <= {0, 1, 7, 300}
    np.testing.assert_array_equal(labels_to_grid(labels, grid, grid, smooth=smooth), labels)


def test_smooth_labels_differ_from_nearest_ones_and_are_closer_to_a_ball() -> None:
    grid = axial_grid((20, 20, 20), (2.0, 2.0, 2.0))
    fine = isotropic_grid(grid, 0.5)
    labels = (ellipsoid(grid, (15, 15, 15)) <= 1).astype(np.uint8) * 2
    truth = ellipsoid(fine, (15, 15, 15)) <= 1
    wrong = [
        np.count_nonzero((labels_to_grid(labels, grid, fine, smooth=s) == 2) != truth) for s in (True, False)
    ]
    assert wrong[0] < 0.8 * wrong[1]
