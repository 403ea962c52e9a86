"""IBSI 2 filters by convolution (mean, LoG, Laws) and their borders: impulses, constants, Gaussians."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from filter_examples import BOUNDARIES, EVERY_FILTER, ISOTROPIC, checkerboard, impulse
from scipy import ndimage

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.convolution import Boundary, convolve, padded, separable
from voxtrial.daemon.radiomics.filters.laplacian_of_gaussian import laplacian_of_gaussian
from voxtrial.daemon.radiomics.filters.laws import KERNELS, energy, laws
from voxtrial.daemon.radiomics.filters.mean import mean


@pytest.mark.parametrize(
    ("boundary", "expected"),
    [
        ("zero", [0, 0, 1, 2, 3, 0, 0]),
        ("nearest", [1, 1, 1, 2, 3, 3, 3]),
        ("periodic", [2, 3, 1, 2, 3, 1, 2]),
        ("mirror", [2, 1, 1, 2, 3, 3, 2]),
    ],
)
def test_what_lies_outside_the_image(boundary: Boundary, expected: list[float]) -> None:
    assert padded(np.array([1.0, 2, 3]), [2], boundary).tolist() == expected


def test_an_unknown_boundary_is_named() -> None:
    with pytest.raises(Misconfigured, match='boundary is "reflect"; choose one of zero, nearest'):
        padded(np.zeros(3), [1], "reflect")  # type: ignore[arg-type]  # what a user may write


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("size", [3, 15])
def test_convolution_is_scipy_s(boundary: Boundary, size: int) -> None:
    """Small kernels are added by shifts, large ones multiplied in the spectrum; SciPy does neither."""
    modes = {"zero": "constant", "nearest": "nearest", "periodic": "wrap", "mirror": "reflect"}
    rng = np.random.default_rng(1)
    array, kernel = rng.normal(size=(18, 20, 17)), rng.normal(size=(size, size, 3))
    expected = ndimage.convolve(array, kernel, mode=modes[boundary])
    assert convolve(array, kernel, boundary) == pytest.approx(expected, abs=1e-9)


def test_a_kernel_of_even_length_has_a_zero_appended() -> None:
    """Taps (a, b, 0) about the middle b: the response at k is a f(k+1) + b f(k)."""
    response = separable(np.array([0.0, 1, 10, 100]), [np.array([2.0, 3.0])], "zero")
    assert response.tolist() == [2, 23, 230, 300]


@pytest.mark.parametrize("boundary", ["nearest", "periodic", "mirror"])
@pytest.mark.parametrize(
    ("name", "gain"),
    [("mean", 1.0), ("log", 0.0), ("laws", 0.0), ("wavelet", 0.0), ("simoncelli", 0.0), ("riesz", 0.0)],
)
def test_a_constant_image_gives_the_sum_of_the_kernel(name: str, gain: float, boundary: Boundary) -> None:
    """The truncated Laplacian of Gaussian sums to zero within 1e-3 only."""
    response = EVERY_FILTER[name](np.full((12, 13, 14), 7.0), boundary)
    assert response == pytest.approx(7 * gain, abs=7e-3 if name == "log" else 1e-10)


@pytest.mark.parametrize("name", EVERY_FILTER)
def test_boundaries_matter_at_the_border_and_nowhere_else(name: str) -> None:
    """Band-limited filters have tails: half an image away they are small, not zero."""
    array = np.random.default_rng(2).normal(0, 10, (48, 48, 48))
    responses = [EVERY_FILTER[name](array, boundary) for boundary in BOUNDARIES]
    scale = responses[3].std()
    for one, other in itertools.combinations(responses, 2):
        assert np.abs(one - other).max() > 0.01 * scale
        assert abs(one[24, 24, 24] - other[24, 24, 24]) < 0.05 * scale


@pytest.mark.parametrize("name", EVERY_FILTER)
def test_a_moved_image_gives_a_moved_response(name: str) -> None:
    array = np.random.default_rng(3).normal(size=(16, 16, 16))
    moved = EVERY_FILTER[name](np.roll(array, (2, -3, 5), (0, 1, 2)), "periodic")
    assert moved == pytest.approx(np.roll(EVERY_FILTER[name](array, "periodic"), (2, -3, 5), (0, 1, 2)))


def test_mean_of_an_impulse_is_a_cube() -> None:
    response = mean(impulse(9), 3, "zero")
    assert response[3:6, 3:6, 3:6] == pytest.approx(1 / 27)
    assert response.sum() == pytest.approx(1)
    in_plane = mean(impulse(9), 3, "zero", in_plane=True)
    assert in_plane[4, 3:6, 3:6] == pytest.approx(1 / 9)
    assert in_plane[3].sum() == 0


def test_mean_of_an_even_number_of_voxels_has_no_middle() -> None:
    with pytest.raises(Misconfigured, match="support of the mean filter is 4"):
        mean(impulse(9), 4, "zero")


def test_log_of_a_parabola_is_its_laplacian() -> None:
    """x² + 2 y² + 3 z²: the Laplacian is 12 everywhere, also blurred."""
    z, y, x = np.meshgrid(*[np.arange(-20.0, 21)] * 3, indexing="ij")
    response = laplacian_of_gaussian(x**2 + 2 * y**2 + 3 * z**2, 2.0, ISOTROPIC, "nearest", truncation=6)
    assert response[20, 20, 20] == pytest.approx(12, rel=1e-4)


def test_log_of_a_gaussian_is_that_of_the_wider_one() -> None:
    """Blurring t by s gives u² = s² + t², whose Laplacian at the centre is -3 / u² (2 pi u²)^(-3/2)."""
    z, y, x = np.meshgrid(*[np.arange(-24.0, 25)] * 3, indexing="ij")
    t2, s = 6.0, 2.0
    blob = np.exp(-(x**2 + y**2 + z**2) / (2 * t2)) / (2 * math.pi * t2) ** 1.5
    response = laplacian_of_gaussian(blob, s, ISOTROPIC, "zero", truncation=6)
    u2 = s**2 + t2
    assert response[24, 24, 24] == pytest.approx(-3 / u2 * (2 * math.pi * u2) ** -1.5, rel=1e-4)


def test_log_scale_is_in_millimetres() -> None:
    """3 mm are 1.5 voxels of 2 mm: the same response on the same voxels."""
    array = np.random.default_rng(4).normal(size=(20, 20, 20))
    in_mm = laplacian_of_gaussian(array, 3.0, (2.0, 2.0, 2.0), "mirror")
    assert in_mm == pytest.approx(laplacian_of_gaussian(array, 1.5, ISOTROPIC, "mirror"))


def test_laws_kernels_have_unit_energy_and_all_but_level_sum_to_zero() -> None:
    for name, kernel in KERNELS.items():
        assert np.linalg.norm(kernel) == pytest.approx(1)
        assert bool(abs(kernel.sum()) > 1e-12) is name.startswith("L")


def test_laws_response_to_an_impulse_is_the_outer_product() -> None:
    """E along x, S along y, L along z, in the order of the name; a response mirrors nothing."""
    response = laws(impulse(9), "E3S3L3", "zero")
    expected = np.einsum("k,j,i->kji", KERNELS["L3"], KERNELS["S3"], KERNELS["E3"])
    assert response[3:6, 3:6, 3:6] == pytest.approx(expected)


def test_laws_spot_of_a_checkerboard_is_largest() -> None:
    """S3 = (-1, 2, -1) / sqrt 6 on (-1)^x gives 4 / sqrt 6 along each axis."""
    response = laws(checkerboard(), "S3S3S3", "periodic")
    assert response == pytest.approx(checkerboard() * (4 / math.sqrt(6)) ** 3)
    assert energy(response, 3, "periodic") == pytest.approx((4 / math.sqrt(6)) ** 3)
    # An edge has no response to what alternates.
    assert laws(checkerboard(), "E3L3L3", "periodic") == pytest.approx(0)


def test_unknown_laws_kernels_are_named() -> None:
    with pytest.raises(Misconfigured, match='kernels are "L5X5"'):
        laws(impulse(9), "L5X5", "zero")
