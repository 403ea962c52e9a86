"""Eight simulated CT scanners: the same patient with another point spread, kernel, slice and noise.

A scan is the phantom's HU averaged over the slice profile, blurred (and for sharp kernels edge-enhanced) in
the plane, sampled on the scanner's own grid, with noise of the kernel's own texture, rounded to whole HU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxtrial.daemon.harmonize.resample import mask_to_grid
from voxtrial.daemon.learn.phantoms import Phantom
from voxtrial.daemon.volume import Grid, Source, Volume

HU_UNIT = "[hnsf'U]"


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """One way of imaging.

    Parameters
    ----------
    pixel_mm, slice_mm
        Spacing in the plane; distance and thickness of the slices (box profile).
    psf_mm
        Standard deviation of the Gaussian point spread in the plane.
    enhancement
        Gain of the edge enhancement: ``(1 + g) * blurred - g * more blurred``.
    noise_hu
        Standard deviation of the noise.
    grain_mm
        Standard deviation of the Gaussian that colours the noise in the plane.
    """

    name: str
    pixel_mm: float
    slice_mm: float
    kernel: str
    psf_mm: float
    enhancement: float = 0.0
    noise_hu: float = 20.0
    grain_mm: float = 0.7
    manufacturer: str = "Voxtrial"

    @property
    def model_name(self) -> str:
        """Name that the headers of its images carry."""
        return f"Simulated CT {self.name}"


SCANNERS: tuple[Scanner, ...] = (
    Scanner(name="S0", pixel_mm=1.0, slice_mm=1.0, kernel="STANDARD", psf_mm=0.6, noise_hu=20),
    Scanner(
        name="S1",
        pixel_mm=0.7,
        slice_mm=1.0,
        kernel="SHARP",
        psf_mm=0.45,
        enhancement=0.8,
        noise_hu=40,
        grain_mm=0.4,
    ),
    Scanner(name="S2", pixel_mm=0.7, slice_mm=2.0, kernel="SOFT", psf_mm=0.85, noise_hu=12, grain_mm=0.9),
    Scanner(name="S3", pixel_mm=0.8, slice_mm=3.0, kernel="STANDARD", psf_mm=0.6, noise_hu=15),
    Scanner(name="S4", pixel_mm=0.8, slice_mm=5.0, kernel="STANDARD", psf_mm=0.6, noise_hu=12),
    Scanner(
        name="S5",
        pixel_mm=0.6,
        slice_mm=5.0,
        kernel="SHARP",
        psf_mm=0.45,
        enhancement=0.8,
        noise_hu=30,
        grain_mm=0.4,
    ),
    Scanner(name="S6", pixel_mm=1.0, slice_mm=1.0, kernel="VERY SOFT", psf_mm=1.4, noise_hu=8, grain_mm=1.4),
    Scanner(
        name="S7",
        pixel_mm=1.0,
        slice_mm=1.0,
        kernel="SHARP",
        psf_mm=0.45,
        enhancement=0.8,
        noise_hu=60,
        grain_mm=0.4,
    ),
)


@dataclass(frozen=True, kw_only=True)
class SimulatedScan:
    """What a scanner made of a phantom.

    Parameters
    ----------
    array
        (z, y, x) int16, HU.
    truth
        (z, y, x) uint8: the nodule that fills at least half of the voxel.
    facts
        By DICOM keyword, as the headers of a real scanner would say.
    """

    array: NDArray[np.int16]
    truth: NDArray[np.uint8]
    grid: Grid
    facts: dict[str, str | float]

    @property
    def volume(self) -> Volume:
        """The scan as the pipeline sees it."""
        source = Source(modality="CT", acquisition=dict(self.facts))
        return Volume(array=self.array, affine=self.grid.affine, unit=HU_UNIT, source=source)


def random_scanner(rng: np.random.Generator) -> Scanner:
    """Return a scanner between the eight: 0.6 to 1 mm in the plane, slices of 1 to 5 mm, any kernel."""
    slice_mm = float(rng.choice([1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 5.0]))
    sharp = rng.random() < 0.4
    return Scanner(
        name="RANDOM",
        pixel_mm=float(rng.uniform(0.6, 1.0)),
        slice_mm=slice_mm,
        kernel="RANDOM",
        psf_mm=float(rng.uniform(0.45, 0.55) if sharp else rng.uniform(0.55, 1.45)),
        enhancement=float(rng.uniform(0.4, 1.0)) if sharp else 0.0,
        noise_hu=float(rng.uniform(8, 65) if sharp else rng.uniform(6, 30)),
        grain_mm=float(rng.uniform(0.4, 0.6) if sharp else rng.uniform(0.6, 1.4)),
    )


def image(phantom: Phantom, scanner: Scanner, rng: np.random.Generator) -> SimulatedScan:
    """Image ``phantom`` with ``scanner``; the field of view is the phantom, its grid shares the centre."""
    grid = _scan_grid(phantom.grid, scanner)
    step = phantom.grid.spacing_mm[0]
    z_at, y_at, x_at = (
        np.asarray((np.arange(n) - (n - 1) / 2) * s / step + (m - 1) / 2, np.float64)
        for n, s, m in zip(grid.shape, grid.spacing_mm, phantom.grid.shape, strict=True)
    )
    slices = np.tensordot(_box(z_at, phantom.grid.shape[0], scanner.slice_mm / step), phantom.hu, axes=(1, 0))

    def blurred(sigma_mm: float) -> NDArray[np.float32]:
        rows = _gaussian(y_at, slices.shape[1], sigma_mm / step)
        columns = _gaussian(x_at, slices.shape[2], sigma_mm / step)
        return np.asarray(rows @ slices @ columns.T, np.float32)

    clean = blurred(scanner.psf_mm)
    if scanner.enhancement:
        clean += scanner.enhancement * (clean - blurred(scanner.psf_mm + 0.9))
    hu = clean + _noise(rng, grid, scanner)
    truth = np.zeros(grid.shape, np.uint8)
    for nodule in phantom.nodules:
        truth[mask_to_grid(phantom.mask(nodule), grid, interpolator="box").array] = nodule.label
    facts: dict[str, str | float] = {
        "Manufacturer": scanner.manufacturer,
        "ManufacturerModelName": scanner.model_name,
        "ConvolutionKernel": scanner.kernel,
        "SliceThickness": scanner.slice_mm,
        "KVP": 120.0,
    }
    return SimulatedScan(
        array=np.clip(np.rint(hu), -1024, 3071).astype(np.int16), truth=truth, grid=grid, facts=facts
    )


def _scan_grid(truth: Grid, scanner: Scanner) -> Grid:
    """Return the scanner's grid: whole voxels inside the phantom, about its centre."""
    spacing = np.array([scanner.slice_mm, scanner.pixel_mm, scanner.pixel_mm])
    extent = np.array(truth.shape) * np.array(truth.spacing_mm)
    z, y, x = (int(n) for n in np.floor(extent / spacing + 1e-6))
    direction = truth.affine[:3, :3] / np.array(truth.spacing_mm)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    middle = truth.world((np.array(truth.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array([z, y, x]) - 1) / 2)
    return Grid(shape=(z, y, x), affine=affine)


def _box(at: NDArray[np.float64], n: int, width: float) -> NDArray[np.float32]:
    """Return (samples, n): the share of each truth voxel in a slice of ``width`` truth voxels."""
    edge = np.abs(at[:, None] - np.arange(n))
    weight = np.clip((width + 1) / 2 - edge, 0, min(width, 1.0))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), np.float32)


def _gaussian(at: NDArray[np.float64], n: int, sigma: float) -> NDArray[np.float32]:
    """Return (samples, n): normalised Gaussian weights about each sample."""
    weight = np.exp(-0.5 * ((at[:, None] - np.arange(n)) / sigma) ** 2)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), np.float32)


def _noise(rng: np.random.Generator, grid: Grid, scanner: Scanner) -> NDArray[np.float32]:
    """Return noise of the scanner's standard deviation and grain."""
    white = rng.standard_normal(grid.shape, np.float32)
    grain = scanner.grain_mm / scanner.pixel_mm
    coloured = ndimage.gaussian_filter(white, (0.0, grain, grain))
    return np.asarray(coloured * (scanner.noise_hu / coloured.std()), np.float32)
