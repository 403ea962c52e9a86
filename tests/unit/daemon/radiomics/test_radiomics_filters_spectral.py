"""Gabor, wavelet, Simoncelli and Riesz filters against plane waves, checkerboards and their energy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from filter_examples import Array, checkerboard, impulse

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.filters.gabor import gabor
from voxtrial.daemon.radiomics.filters.spectral import riesz, simoncelli, simoncelli_transfer
from voxtrial.daemon.radiomics.filters.wavelet import LOW_PASS, high_pass, spread, wavelet


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
