"""Rotation invariance, and features that are counted on a response map."""

from __future__ import annotations

import math

import numpy as np
import pytest
from filter_examples import Array
from phantoms import axial_grid, sphere

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.resample import array_to_grid, isotropic_grid, mask_to_grid
from voxtrial.daemon.radiomics.configuration import Configuration, Discretisation, Interpolation
from voxtrial.daemon.radiomics.extract import extract
from voxtrial.daemon.radiomics.filters.laws import laws
from voxtrial.daemon.radiomics.filters.rotation import invariant, turns
from voxtrial.daemon.volume import Mask, Volume


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
