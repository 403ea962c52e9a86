"""Remove the slow shading of MR coils: N4, fitted on a shrunk image and evaluated at full size.

The mask decides what N4 believes: air carries no tissue and would pull the field, so it is left out by a
stated policy. Shrinking by 4 costs next to no accuracy and saves nine tenths of the time. ITK would take
every core of the machine; the number of threads is an argument.

References
----------
Tustison et al. (2010), N4ITK, doi:10.1109/TMI.2010.2046908.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize import intensity
from voxtrial.daemon.volume import Volume

SHRINK = 4
ITERATIONS = (50, 50, 50, 50)
"""Most iterations on each of four levels of ever finer splines."""
_LEAST = 8
"""Voxels that shrinking leaves along an axis, if it has as many."""


@dataclass(frozen=True, kw_only=True)
class BiasCorrected:
    """Result of N4.

    Parameters
    ----------
    array
        (z, y, x) float32, intensities divided by the field.
    field
        (z, y, x) float32, multiplicative shading; its mean over the mask is 1.
    shrink
        Factor used along (z, y, x).
    """

    array: NDArray[np.float32]
    field: NDArray[np.float32]
    shrink: tuple[int, int, int]


def n4(
    volume: Volume,
    *,
    region: str = "otsu",
    shrink: int = SHRINK,
    iterations: Sequence[int] = ITERATIONS,
    convergence: float = 1e-3,
    threads: int = 1,
) -> BiasCorrected:
    """Estimate and remove a smooth multiplicative field.

    Parameters
    ----------
    region
        Policy of the mask, see :func:`voxtrial.daemon.harmonize.intensity.region`; voxels of 0 or less never
        belong to it, because N4 works on logarithms.
    shrink
        Factor along the finest axis; coarser axes are shrunk less, to about the same millimetres.
    iterations
        Most iterations on each level.
    convergence
        Coefficient of variation of the change at which a level ends.
    threads
        Most threads that ITK may use.

    Raises
    ------
    Refused
        ``empty_region`` when the mask is empty.
    """
    itk = _itk()
    chosen = intensity.region(volume.array, region)
    mask = volume.array > 0 if chosen is None else chosen & (volume.array > 0)
    if not mask.any():
        raise Refused(f'The N4 mask ("{region}") holds no voxel above 0.', rule="empty_region")
    factors = shrink_factors(volume.array.shape, volume.spacing_mm, shrink)
    with _at_most(threads):
        image = _image(volume.array.astype(np.float32), volume.spacing_mm)
        mask_image = _image(mask.astype(np.uint8), volume.spacing_mm)
        backwards = list(factors[::-1])
        corrector = itk.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations(list(iterations))
        corrector.SetConvergenceThreshold(convergence)
        corrector.Execute(itk.Shrink(image, backwards), itk.Shrink(mask_image, backwards))
        log_field = itk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image))
    field = np.exp(log_field - log_field[mask].mean(dtype=float)).astype(np.float32)
    array = (volume.array / field).astype(np.float32)
    return BiasCorrected(array=array, field=field, shrink=factors)


def shrink_factors(shape: Sequence[int], spacing_mm: Sequence[float], shrink: int) -> tuple[int, int, int]:
    """Return the factor of each axis: ``shrink`` on the finest, about the same millimetres on the others."""
    wanted = shrink * min(spacing_mm)
    z, y, x = (
        max(1, min(shrink, round(wanted / s), n // _LEAST)) for n, s in zip(shape, spacing_mm, strict=True)
    )
    return z, y, x


def _image(array: NDArray[Any], spacing_mm: Sequence[float]) -> Any:
    itk = _itk()
    image = itk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing_mm[::-1]])
    return image


def _itk() -> Any:
    """SimpleITK, loaded when it is needed; its functions carry no types."""
    import SimpleITK

    return SimpleITK


@contextmanager
def _at_most(threads: int) -> Iterator[None]:
    """Cap ITK's threads, also of the filters that a filter starts inside."""
    itk = _itk()
    before = itk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    itk.ProcessObject.SetGlobalDefaultNumberOfThreads(max(1, threads))
    try:
        yield
    finally:
        itk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
