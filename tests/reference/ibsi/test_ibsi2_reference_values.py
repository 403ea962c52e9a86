"""Features of filtered images of the CT phantom against the consensus of IBSI 2, configuration B.

Values and tolerances: Whybra et al. 2024, The Image Biomarker Standardization Initiative: standardized
convolutional filters for reproducible radiomics, doi:10.1148/radiol.231319 (phase 2, 3D: 1 mm, tricubic
spline, range -1000 to 400). The quartile coefficient of dispersion of 8.B is not among them. Filters that are
defined on Fourier coefficients repeat the image.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from voxtrial.daemon.radiomics.certificate import Comparison
from voxtrial.daemon.radiomics.configuration import Configuration
from voxtrial.daemon.radiomics.extract import extract
from voxtrial.daemon.volume import Mask, Volume

FILTERS: dict[str, dict[str, Any] | None] = {
    "1.B": None,
    "2.B": {"kind": "mean", "support": 5},
    "3.B": {"kind": "log", "sigma_mm": 1.5, "truncation": 4},
    "4.B": {"kind": "laws", "kernels": "L5E5E5", "rotation_invariant": "max", "energy_distance": 7},
    "5.B": {
        "kind": "gabor",
        "sigma_mm": 5,
        "wavelength_mm": 2,
        "aspect_ratio": 1.5,
        "rotation_step": math.pi / 8,
        "orthogonal_planes": True,
    },
    "6.B": {"kind": "wavelet", "family": "db3", "passes": "LLH", "rotation_invariant": "mean"},
    "7.B": {"kind": "wavelet", "family": "db3", "passes": "HHH", "level": 2, "rotation_invariant": "mean"},
    "8.B": {"kind": "simoncelli", "level": 1, "boundary": "periodic", "frequencies": "ibsi"},
    "9.B": {"kind": "simoncelli", "level": 2, "boundary": "periodic", "frequencies": "ibsi"},
}

SLOW = ("5.B", "6.B", "7.B")
"""Half a minute and more each."""

with (Path(__file__).parent / "reference_values_IBSI2_B.csv").open(encoding="utf-8") as file:
    PUBLISHED = list(csv.DictReader(file))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.nightly) if n in SLOW else n for n in FILTERS]
)
def test_features_of_the_filtered_phantom_meet_the_consensus(
    ct_phantom: tuple[Volume, Mask], name: str
) -> None:
    """Within the tolerance, after rounding to the three digits that are published."""
    settings: dict[str, Any] = {
        "name": name,
        "interpolation": {"spacing_mm": (1, 1, 1), "method": "bspline", "round_intensities": True},
        "resegmentation": {"range": (-1000, 400)},
        "discretisation": {"fixed_bin_number": 32},
    }
    if FILTERS[name] is not None:
        settings["filter"] = FILTERS[name]
    configuration = Configuration.model_validate(settings)
    features = extract(*ct_phantom, configuration, families=["intensity_statistics"])
    rows = [row for row in PUBLISHED if row["filter"] == name]
    assert len(rows) == (17 if name == "8.B" else 18)
    compared = [
        Comparison(
            dataset=name,
            family="intensity_statistics",
            feature=row["ibsi_id"],
            ibsi_id=row["ibsi_id"],
            aggregation_id="",
            value=features.value(row["ibsi_id"]),
            reference=float(row["value"]),
            tolerance=float(row["tolerance"]),
        )
        for row in rows
    ]
    assert not {row.ibsi_id: row for row in compared if not row.conforms}
