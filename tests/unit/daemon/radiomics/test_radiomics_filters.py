"""IBSI 2 filters against closed forms: impulses, constants, checkerboards, plane waves, Gaussians."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import axial_grid, sphere
from scipy import ndimage

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.resample import array_to_grid, isotropic_grid, mask_to_grid
from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation, Interpolation
from voxtrial.daemon.radiomics.extract import extract
from voxtrial.daemon.radiomics.filters.convolution import Boundary, convolve, padded, separable
from voxtrial.daemon.radiomics.filters.gabor import gabor
from voxtrial.daemon.radiomics.filters.laplacian_of_gaussian import laplacian_of_gaussian
from voxtrial.daemon.radiomics.filters.laws import KERNELS, energy, laws
from voxtrial.daemon.radiomics.filters.mean import mean
from voxtrial.daemon.radiomics.filters.rotation import invariant, turns
from voxtrial.daemon.radiomics.filters.spectral import riesz, simoncelli, simoncelli_transfer
from voxtrial.daemon.radiomics.filters.wavelet import LOW_PASS, high_pass, spread, wavelet
from voxtrial.daemon.volume import Mask, Volume

Array = NDArray[np.float64]
ISOTROPIC = (1.0, 1.0, 1.0)
BOUNDARIES: tuple[Boundary, ...] = ("zero", "nearest", "periodic", "mirror")

EVERY_FILTER: dict[str, Callable[[Array, Boundary], Array]] = {
    "mean": lambda a, b: mean(a, 5, b),
    "log": lambda a, b: laplacian_of_gaussian(a, 1.5, ISOTROPIC, b),
    "laws": lambda a, b: laws(a, "L5E5S5", b),
    "gabor": lambda a, b: gabor(
        a, sigma_mm=2, wavelength_mm=4, aspect_ratio=0.5, spacing_mm=1, boundary=b, orthogonal_planes=True
    ),
    "wavelet": lambda a, b: wavelet(a, "db2", "LLH", 2, b),
    "simoncelli": lambda a, b: simoncelli(a, 2, b),
    "riesz": lambda a, b: simoncelli(a, 1, b, riesz_order=(0, 1, 1)),
}


def impulse(n: int = 33) -> Array:
    array = np.zeros((n, n, n))
    array[n // 2, n // 2, n // 2] = 1
    return array


def checkerboard(n: int = 16) -> Array:
    """Return (-1)^(x + y + z)."""
    return 1.0 - 2.0 * (np.indices((n, n, n)).sum(axis=0) % 2)


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


def test_gabor_of_a_plane_wave_of_its_own_wavelength() -> None:
    """Of cos(2 pi x / w) one half meets the kernel: half the integral of the window, pi s² / g."""
    x = np.arange(96.0)
    wave = np.broadcast_to(np.cos(2 * math.pi * x / 6), (1, 96, 96))
    response = gabor(
        wave, sigma_mm=5, wavelength_mm=6, aspect_ratio=0.8, spacing_mm=1, boundary="periodic", theta=0
    )
    assert response == pytest.approx(math.pi * 25 / 0.8, rel=1e-6)
    across = gabor(
        wave,
        sigma_mm=5,
        wavelength_mm=6,
        aspect_ratio=0.8,
        spacing_mm=1,
        boundary="periodic",
        theta=math.pi / 2,
    )
    assert across.max() < 1e-4 * response.min()


def test_gabor_averaged_over_directions_and_planes_does_not_know_them() -> None:
    array = np.random.default_rng(5).normal(size=(20, 20, 20))

    def respond(a: Array) -> Array:
        return gabor(
            a,
            sigma_mm=2,
            wavelength_mm=4,
            aspect_ratio=1.5,
            spacing_mm=1,
            boundary="mirror",
            rotation_step=math.pi / 4,
            orthogonal_planes=True,
        )

    turned = np.ascontiguousarray(array.transpose(2, 0, 1)[:, ::-1])
    assert respond(turned) == pytest.approx(respond(array).transpose(2, 0, 1)[:, ::-1])


def test_gabor_steps_must_close_the_circle() -> None:
    with pytest.raises(Misconfigured, match="does not divide the full circle"):
        gabor(
            impulse(9),
            sigma_mm=1,
            wavelength_mm=2,
            aspect_ratio=1,
            spacing_mm=1,
            boundary="zero",
            rotation_step=1.0,
        )


@pytest.mark.parametrize("family", LOW_PASS)
def test_wavelets_are_orthonormal_with_their_vanishing_moments(family: str) -> None:
    """Sum of taps sqrt 2, unit energy, orthogonal to their even shifts; the high pass kills polynomials."""
    low = LOW_PASS[family]  # type: ignore[index]  # parametrised by the keys
    high = high_pass(low)
    assert low.sum() == pytest.approx(math.sqrt(2))
    for taps in (low, high):
        autocorrelation = np.correlate(taps, taps, "full")[len(taps) - 1 :: 2]
        assert autocorrelation == pytest.approx([1] + [0] * (len(taps) // 2 - 1), abs=1e-12)
    assert np.correlate(low, high, "full")[len(low) - 1 :: 2] == pytest.approx(0, abs=1e-12)
    moments = {"haar": 1, "db2": 2, "db3": 3, "coif1": 2}[family]
    k = np.arange(len(high), dtype=float)
    assert [(k**m * high).sum() for m in range(moments)] == pytest.approx([0] * moments, abs=1e-10)


def test_haar_separates_a_constant_from_a_checkerboard() -> None:
    """Each low pass multiplies a constant by sqrt 2, each high pass the alternation by -sqrt 2."""
    constant = np.full((8, 8, 8), 3.0)
    assert wavelet(constant, "haar", "LLL", 1, "periodic") == pytest.approx(3 * 2**1.5)
    assert wavelet(constant, "haar", "LLL", 2, "periodic") == pytest.approx(3 * 2**3)
    response = wavelet(checkerboard(8), "haar", "HHH", 1, "periodic")
    assert np.abs(response) == pytest.approx(2**1.5)
    assert wavelet(checkerboard(8), "haar", "LLH", 1, "periodic") == pytest.approx(0)


def test_passes_are_along_x_y_z_and_two_stay_in_the_slice() -> None:
    stripes = np.broadcast_to((-1.0) ** np.arange(8), (8, 8, 8))
    assert np.abs(wavelet(stripes, "haar", "HLL", 1, "periodic")) == pytest.approx(2**1.5)
    assert wavelet(stripes, "haar", "LLH", 1, "periodic") == pytest.approx(0)
    assert np.abs(wavelet(stripes, "haar", "HL", 1, "periodic")) == pytest.approx(2)


def test_second_level_kernels_have_holes() -> None:
    assert spread(np.array([1.0, 2, 3]), 3).tolist() == [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]


@pytest.mark.parametrize(("level", "cycles"), [(1, 0.25), (1, 0.1875), (2, 0.125), (3, 0.0625), (2, 0.25)])
def test_simoncelli_scales_a_plane_wave_by_its_transfer(level: int, cycles: float) -> None:
    """cos(pi/2 log2(2 f / b)) between b/4 and b, b = 0.5, 0.25, 0.125 cycles a voxel at levels 1, 2, 3."""
    x = np.arange(32.0)
    wave = np.broadcast_to(np.cos(2 * math.pi * cycles * x), (4, 4, 32))
    band = 0.5**level
    gain = math.cos(math.pi / 2 * math.log2(2 * cycles / band)) if band / 4 < cycles < band else 0
    assert simoncelli(wave, level, "periodic") == pytest.approx(wave * gain, abs=1e-12)


def test_simoncelli_levels_share_the_energy() -> None:
    """cos² and sin² of neighbouring levels: squares sum to one between the coarsest and the finest band."""
    frequency = np.linspace(0.02, 0.25, 50)
    total = sum(simoncelli_transfer(frequency, level) ** 2 for level in range(1, 8))
    assert total == pytest.approx(1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_riesz_turns_a_cosine_into_a_sine_along_its_axis(axis: int) -> None:
    """-i f/|f| times (e^i + e^-i)/2 is (e^i - e^-i)/2i: a sine, and nothing along the other axes."""
    phase = 2 * math.pi * 3 / 16 * np.indices((16, 16, 16))[axis]
    for component in range(3):
        order = [int(component == a) for a in range(3)]
        response = riesz(np.cos(phase), order, "periodic")
        assert response == pytest.approx(np.sin(phase) if component == axis else 0 * phase, abs=1e-12)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_riesz_components_preserve_the_energy(total: int) -> None:
    """The multinomial weights make the squares sum to one; white noise without mean and Nyquist waves."""
    array = np.random.default_rng(7).normal(size=(15, 15, 15))
    array -= array.mean()
    orders = [o for o in itertools.product(range(total + 1), repeat=3) if sum(o) == total]
    parts = sum((riesz(array, order, "periodic") ** 2).sum() for order in orders)
    assert parts == pytest.approx((array**2).sum())


def test_impossible_riesz_orders_and_levels_are_named() -> None:
    with pytest.raises(Misconfigured, match=r"Riesz order is \(0, 0, 0\)"):
        riesz(impulse(9), (0, 0, 0), "zero")
    with pytest.raises(Misconfigured, match="levels count from 1"):
        simoncelli(impulse(9), 0, "zero")


def test_there_are_24_turns_in_space_and_4_in_the_slice() -> None:
    assert len(list(turns(in_plane=False))) == len(set(turns(in_plane=False))) == 24
    assert len(list(turns(in_plane=True))) == 4
    chiral = np.arange(27.0).reshape(3, 3, 3)
    images = {np.flip(chiral.transpose(o), f).tobytes() for o, f in turns(in_plane=False)}
    assert len(images) == 24
    assert chiral[::-1].tobytes() not in images


@pytest.mark.parametrize("pooling", ["mean", "max", "min"])
def test_a_pooled_response_turns_with_the_image(pooling: str) -> None:
    array = np.random.default_rng(8).normal(size=(12, 12, 12))

    def respond(a: Array) -> Array:
        return invariant(a, lambda turned: laws(turned, "L5E5S5", "mirror"), pooling)  # type: ignore[arg-type]  # parametrised

    plain = respond(array)
    assert not np.allclose(plain, laws(array, "L5E5S5", "mirror"))
    for order, flips in turns(in_plane=False):
        turned = respond(np.ascontiguousarray(np.flip(array.transpose(order), flips)))
        assert turned == pytest.approx(np.flip(plain.transpose(order), flips))


def test_pooled_extremes_enclose_the_mean() -> None:
    array = np.random.default_rng(9).normal(size=(8, 9, 9))
    low, middle, high = (
        invariant(array, lambda a: laws(a, "E5S5", "mirror"), pooling, in_plane=True)
        for pooling in ("min", "mean", "max")
    )
    assert (low <= middle).all()
    assert (middle <= high).all()
    four = [np.rot90(laws(np.rot90(array, k, (1, 2)), "E5S5", "mirror"), -k, (1, 2)) for k in range(4)]
    assert high == pytest.approx(np.max(four, axis=0))


SHAPE = (18, 30, 30)
TUMOUR = Configuration(
    name="filtered",
    interpolation=Interpolation(spacing_mm=(2, 2, 2)),
    discretisation=Discretisation(fixed_bin_number=16),
)


def tumour() -> tuple[Volume, Mask]:
    array = np.random.default_rng(10).normal(40, 20, SHAPE)
    affine = axial_grid(SHAPE, (3.0, 1.5, 1.5)).affine
    inside = sphere(SHAPE, (3.0, 1.5, 1.5), 10)
    return Volume(array=array, affine=affine), Mask(array=inside, affine=affine)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "mean", "support": 3},
        {"kind": "log", "sigma_mm": 3.0},
        {"kind": "laws", "kernels": "L5E5S5", "rotation_invariant": "max", "energy_distance": 3},
        {"kind": "gabor", "sigma_mm": 4, "wavelength_mm": 4, "rotation_step": math.pi / 2},
        {"kind": "wavelet", "family": "coif1", "passes": "LLH", "rotation_invariant": "mean"},
        {"kind": "simoncelli", "level": 2, "riesz_order": [0, 1, 0]},
    ],
    ids=lambda settings: settings["kind"],
)
def test_features_are_those_of_the_response_map(settings: dict[str, object]) -> None:
    """The maximum under the mask is that of the map, made of the whole interpolated image."""
    volume, mask = tumour()
    configuration = Configuration.model_validate({**TUMOUR.model_dump(), "filter": settings})
    assert configuration.filter is not None
    found = extract(volume, mask, configuration)
    assert len(found) == 210
    grid = isotropic_grid(volume.grid, 2.0)
    image = array_to_grid(volume.array, volume.grid, grid)
    response = configuration.filter.respond(image, grid.spacing_mm)
    inside = mask_to_grid(mask, grid).array
    assert found.value("84IY") == pytest.approx(response[inside].max())
    assert found.value("Q4LE") == pytest.approx(response[inside].mean())
    assert found.value("RNU0") == extract(volume, mask, TUMOUR).value("RNU0")
    assert configuration.digest != TUMOUR.digest


def test_the_range_chooses_voxels_by_the_image_and_not_by_the_map() -> None:
    """A derivative has no HU: bins of a fixed size begin at the smallest response."""
    volume, mask = tumour()
    settings = {
        **TUMOUR.model_dump(),
        "filter": {"kind": "log", "sigma_mm": 3.0},
        "resegmentation": {"range": [40, 400]},
        "discretisation": {"fixed_bin_size": 0.5},
    }
    found = extract(volume, mask, Configuration.model_validate(settings))
    assert found.value("1GSF") < 0 < found.value("84IY")
    assert found.value("1PR8") == 1


def test_turning_needs_cubes() -> None:
    volume, mask = tumour()
    settings = {
        "name": "flat",
        "discretisation": {"fixed_bin_number": 16},
        "filter": {"kind": "laws", "kernels": "L5E5S5", "rotation_invariant": "max"},
    }
    with pytest.raises(Refused, match=r"equal sides; these have 3 x 1\.5 x 1\.5 mm") as caught:
        extract(volume, mask, Configuration.model_validate(settings))
    assert caught.value.rule == "anisotropic_voxels"
