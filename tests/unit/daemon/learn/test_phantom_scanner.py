"""Phantoms hold the truth that they claim, and a scanner does to them what its physics says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from voxtrial.daemon.learn.phantoms import LUNG_HU, SOFT_TISSUE_HU, Phantom, chest_phantom
from voxtrial.daemon.learn.scanner import SCANNERS, Scanner, image
from voxtrial.daemon.volume import Grid

QUIET = Scanner(name="Q", pixel_mm=0.5, slice_mm=0.5, kernel="Q", psf_mm=0.6, noise_hu=0.0)


def uniform(shape: tuple[int, int, int], hu: np.ndarray) -> Phantom:
    affine = np.eye(4)[[2, 1, 0, 3]]
    affine[:3, :3] *= 0.5
    return Phantom(
        hu=np.broadcast_to(hu, shape).astype(np.float32),
        labels=np.zeros(shape, np.uint8),
        grid=Grid(shape=shape, affine=affine),
        nodules=(),
    )


def test_same_seed_is_the_same_patient() -> None:
    one, two = (chest_phantom(np.random.default_rng(5), (40.0, 56.0, 56.0), classes=[True]) for _ in range(2))
    assert (one.hu == two.hu).all()
    assert one.nodules == two.nodules


def test_nodules_that_do_not_fit_are_an_error_and_never_missing() -> None:
    with pytest.raises(ValueError, match="2 nodules do not fit"):
        chest_phantom(np.random.default_rng(5), (30.0, 30.0, 30.0), classes=[True, True])


def test_nodules_lie_where_they_say_with_the_volume_they_say() -> None:
    phantom = chest_phantom(np.random.default_rng(1), classes=[True, False], wall=False)
    assert [nodule.malignant for nodule in phantom.nodules] == [True, False]
    for nodule in phantom.nodules:
        mask = phantom.mask(nodule)
        assert mask.array.sum() * 0.125 == pytest.approx(nodule.volume_mm3)
        centre = phantom.grid.world(np.array(ndimage.center_of_mass(mask.array)))
        assert np.abs(centre - nodule.centre_mm).max() < 1.5
        assert nodule.volume_mm3 == pytest.approx(4 / 3 * np.pi * nodule.radius_mm**3, rel=0.25)
        assert phantom.hu[mask.array].mean() == pytest.approx(nodule.density_hu, abs=40)


def test_classes_differ_by_shape_and_not_by_size_or_density() -> None:
    """The same draw as either class: size and density are the same, lobulation and spicules are not."""
    for seed in range(3):
        malignant, benign = (
            chest_phantom(np.random.default_rng(seed), (40.0, 44.0, 44.0), classes=[c], wall=False).nodules[0]
            for c in (True, False)
        )
        assert (malignant.radius_mm, malignant.centre_mm) == (benign.radius_mm, benign.centre_mm)
        assert malignant.density_hu == pytest.approx(benign.density_hu)
        assert malignant.spicules >= 5 > 2 >= benign.spicules


def test_wall_is_soft_tissue_and_lung_is_lung() -> None:
    phantom = chest_phantom(np.random.default_rng(3), (24.0, 60.0, 60.0), classes=[], wall=True)
    assert np.percentile(phantom.hu, 99.5) == pytest.approx(SOFT_TISSUE_HU, abs=5)
    assert np.median(phantom.hu) == pytest.approx(LUNG_HU, abs=10)


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.name)
def test_grid_is_the_scanners_and_shares_the_centre(scanner: Scanner) -> None:
    phantom = uniform((60, 80, 80), np.float32(-850))
    scan = image(phantom, scanner, np.random.default_rng(0))
    assert scan.grid.spacing_mm == pytest.approx((scanner.slice_mm, scanner.pixel_mm, scanner.pixel_mm))
    for grid in (scan.grid, phantom.grid):
        assert grid.world((np.array(grid.shape) - 1) / 2) == pytest.approx([19.75, 19.75, 14.75])
    assert scan.array.dtype == np.int16
    assert scan.array.mean() == pytest.approx(-850, abs=1)
    assert scan.array.std() == pytest.approx(scanner.noise_hu, rel=0.1)


def test_edge_is_spread_over_the_gaussian_of_the_kernel() -> None:
    """METHODS row 14: the 10-90 % rise of a Gaussian edge is 2.563 standard deviations."""
    edge = np.where(np.arange(200) < 100, 0.0, 1000.0)
    for psf in (0.6, 1.4):
        scan = image(uniform((2, 20, 200), edge), replace(QUIET, psf_mm=psf), np.random.default_rng(0))
        profile = scan.array[0, 10].astype(float)
        places = np.interp([100, 900], profile[60:140], np.arange(60, 140) * 0.5)
        assert places[1] - places[0] == pytest.approx(2.563 * psf, rel=0.05)


def test_sharp_kernel_overshoots_and_soft_does_not() -> None:
    edge = np.where(np.arange(200) < 100, 0.0, 1000.0)
    soft = image(uniform((2, 20, 200), edge), QUIET, np.random.default_rng(0)).array
    sharp = image(
        uniform((2, 20, 200), edge), replace(QUIET, enhancement=0.8), np.random.default_rng(0)
    ).array
    assert soft.max() <= 1000
    assert sharp.max() > 1100


def test_thick_slice_is_the_mean_over_its_box() -> None:
    """A ramp along z: the mean over any symmetric box is the value at its centre."""
    ramp = np.arange(40, dtype=float)[:, None, None] * 20
    scan = image(uniform((40, 8, 8), ramp), replace(QUIET, slice_mm=5.0), np.random.default_rng(0))
    assert scan.array[:, 4, 4].tolist() == pytest.approx([90, 290, 490, 690], abs=1)


def test_truth_on_the_scan_is_the_share_of_the_voxel() -> None:
    phantom = chest_phantom(np.random.default_rng(4), (40.0, 40.0, 40.0), classes=[True], radius_mm=(8, 8.5))
    scan = image(phantom, SCANNERS[3], np.random.default_rng(0))
    volume = (scan.truth == 1).sum() * scan.grid.voxel_volume_mm3
    assert volume == pytest.approx(phantom.nodules[0].volume_mm3, rel=0.05)
