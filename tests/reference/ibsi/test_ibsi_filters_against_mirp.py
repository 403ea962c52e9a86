"""Response maps of an arithmetic image at three voxels (corner, middle, face), as MIRP 2.7.0 gives them.

MIRP passed IBSI 2. It calls the mirror boundary that repeats the border voxel ``reflect``. Its spectral
filters continue no image and take the frequencies that we call ``ibsi``; ours of the Fourier coefficients are
held against closed forms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from voxtrial.daemon.radiomics.filters.settings import Filter

VOXELS = ((0, 0, 0), (5, 12, 17), (23, 1, 9))

CASES: list[tuple[dict[str, Any], list[float], float]] = [
    ({"kind": "log", "sigma_mm": 1.5}, [11.40350478, 0.5583264644, 2.606353911], 1e-9),
    ({"kind": "mean", "support": 5}, [22.912, 51.624, 49.464], 1e-9),
    ({"kind": "laws", "kernels": "L5E5S5"}, [0.9721111048, -76.3647279, 18.79414803], 1e-9),
    (
        {"kind": "laws", "kernels": "L5E5S5", "rotation_invariant": "max", "energy_distance": 3},
        [13.82899912, 52.32894456, 51.92816073],
        1e-9,
    ),
    (
        {"kind": "wavelet", "family": "db2", "passes": "LLH"},
        [-28.47887467, -2.653939712, 4.936121885],
        1e-9,
    ),
    (
        {"kind": "wavelet", "family": "coif1", "passes": "HHL", "level": 2},
        [8.488972004, 18.23349391, -37.09627771],
        1e-9,
    ),
    (
        {"kind": "wavelet", "family": "db2", "passes": "LHL", "level": 2},
        [-17.77113239, 29.69277084, -33.41800361],
        1e-9,
    ),
    (
        {"kind": "wavelet", "family": "haar", "passes": "LHH", "rotation_invariant": "mean"},
        [0.04419417382, -19.34231674, -8.927223112],
        1e-9,
    ),
    # The Gaussian window is cut at different lengths.
    (
        {"kind": "gabor", "sigma_mm": 2, "wavelength_mm": 4, "aspect_ratio": 1.5, "theta": math.pi / 6},
        [3.598932337, 206.7230084, 102.7429697],
        1e-7,
    ),
    (
        {
            "kind": "gabor",
            "sigma_mm": 2,
            "wavelength_mm": 4,
            "aspect_ratio": 1.5,
            "rotation_step": math.pi / 4,
            "orthogonal_planes": True,
        },
        [42.86973009, 110.1436273, 94.2803196],
        1e-7,
    ),
    *(
        ({"kind": "simoncelli", "boundary": "periodic", "frequencies": "ibsi", **settings}, expected, 1e-9)
        for settings, expected in (
            ({"level": 1}, [-36.23563512, -6.233048254, -5.940596975]),
            ({"level": 2}, [-6.931484217, -0.5380673045, -0.6461072688]),
            ({"level": 3}, [19.12373577, 21.25987725, 20.21484819]),
            ({"level": 1, "riesz_order": [0, 0, 1]}, [7.912765156, -18.24663761, 9.622098814]),
            ({"level": 2, "riesz_order": [0, 0, 1]}, [5.870351795, -5.839626423, 2.160224481]),
            ({"level": 2, "riesz_order": [1, 1, 0]}, [-2.185145158, 0.5030944977, 0.4833930607]),
        )
    ),
]


@pytest.mark.parametrize(("settings", "expected", "tolerance"), CASES, ids=lambda value: str(value)[:40])
def test_responses_are_those_of_mirp(
    settings: dict[str, Any], expected: list[float], tolerance: float
) -> None:
    z, y, x = np.indices((24, 24, 24))
    image = ((x * x + 7 * y + 13 * z * z + x * y * z) % 101).astype(float)
    response = TypeAdapter(Filter).validate_python(settings).respond(image, (1.0, 1.0, 1.0))
    assert [response[voxel] for voxel in VOXELS] == pytest.approx(expected, rel=tolerance)
