"""N4 on a phantom of three tissues under a known field."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid, ellipsoid

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.bias import n4, shrink_factors
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.volume import Volume

GRID = axial_grid((32, 48, 48), (1.5, 1.3, 1.3))
RADIUS = ellipsoid(GRID, (22, 28, 28))
TISSUES = (RADIUS < 0.5, (RADIUS >= 0.5) & (RADIUS < 0.8), (RADIUS >= 0.8) & (RADIUS < 1))
_Z, _Y, _X = np.meshgrid(*(np.linspace(-1, 1, n) for n in GRID.shape), indexing="ij")
FIELD = np.exp(0.3 * _X + 0.2 * _Y * _Z - 0.25 * _Z**2)


def shaded() -> Volume:
    clean = np.select(TISSUES, (300.0, 200.0, 100.0), 0.0)
    noise = np.random.default_rng(0).normal(0, 2, GRID.shape)
    return Volume(array=(clean * FIELD + noise).astype(np.float32), affine=GRID.affine)


def variation(array: np.ndarray, tissue: np.ndarray) -> float:
    return float(array[tissue].std() / array[tissue].mean())


def test_each_tissue_becomes_uniform_and_the_field_is_found() -> None:
    """Coefficients of variation fall to a sixth at least, and log fields correlate above 0.99."""
    volume = shaded()
    result = n4(volume, shrink=2)
    for tissue in TISSUES[:2]:
        assert variation(volume.array, tissue) > 0.06
        assert variation(result.array, tissue) < 0.016
    assert variation(result.array, TISSUES[2]) < variation(volume.array, TISSUES[2]) / 5
    body = RADIUS < 1
    assert np.corrcoef(np.log(result.field[body]), np.log(FIELD[body]))[0, 1] > 0.99
    np.testing.assert_allclose(result.array * result.field, volume.array, rtol=1e-5, atol=1e-3)


def test_default_shrink_of_four_is_nearly_as_good() -> None:
    result = n4(shaded())
    assert result.shrink == (3, 4, 4)
    assert variation(result.array, TISSUES[1]) < 0.02


def test_thick_slices_are_not_shrunk_away() -> None:
    assert shrink_factors((20, 256, 256), (5.0, 1.0, 1.0), 4) == (1, 4, 4)
    assert shrink_factors((5, 256, 256), (1.0, 1.0, 1.0), 4) == (1, 4, 4)
    assert shrink_factors((160, 256, 256), (1.0, 1.0, 1.0), 4) == (4, 4, 4)


def test_thread_cap_is_lifted_again() -> None:
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    n4(shaded(), iterations=(2,), threads=1)
    assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_itk_runs_on_the_threads_it_is_given(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the filter itself says before it begins, where ITK would take more."""
    import SimpleITK

    told: list[int] = []

    class Telling(SimpleITK.N4BiasFieldCorrectionImageFilter):
        def Execute(self, *images: SimpleITK.Image) -> SimpleITK.Image:
            told.extend((self.GetNumberOfThreads(), self.GetGlobalDefaultNumberOfThreads()))
            return super().Execute(*images)

    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(5)
    monkeypatch.setattr(SimpleITK, "N4BiasFieldCorrectionImageFilter", Telling)
    try:
        n4(shaded(), iterations=(2,), threads=threads)
        assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == 5
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert told == [threads, threads]


def test_mask_keeps_air_out_of_the_field() -> None:
    """Air of a constant 8 has no shading: with it in the mask N4 finds less of the field in the body."""
    volume = shaded()
    body = RADIUS < 1
    airy = volume.with_array(np.where(body, volume.array, np.float32(8)))

    def agreement(region: str) -> float:
        field = n4(airy, region=region).field
        return float(np.corrcoef(np.log(field[body]), np.log(FIELD[body]))[0, 1])

    assert agreement("otsu") > 0.99
    assert agreement("all") < agreement("otsu") - 0.01


def test_empty_mask_is_refused() -> None:
    volume = shaded()
    with pytest.raises(Refused, match="no voxel above 0"):
        n4(volume.with_array(-np.abs(volume.array)), region="all")


def test_step_records_the_range_of_the_field() -> None:
    result = Recipe.from_steps([{"step": "n4", "iterations": [10, 10]}]).apply(shaded())
    found = result.record[0].found
    assert float(found["field_low"]) < 1 < float(found["field_high"])
