"""SUV by body weight against calculations by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import axial_grid

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.harmonize.suv import decayed_dose_bq, suv, uptake
from voxtrial.daemon.volume import Source, Volume

# 75 kg, 370 MBq of F-18 (half-life 109.77 min = 6586.2 s) at 08:30:00, series at 09:30:00: 3600 s later
# 370e6 * 2^(-3600/6586.2) = 253.31 MBq are left.
FDG: dict[str, Any] = {
    "Units": "BQML",
    "DecayCorrection": "START",
    "CorrectedImage": ("NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"),
    "PatientWeight": 75.0,
    "RadionuclideTotalDose": 370e6,
    "RadionuclideHalfLife": 6586.2,
    "RadiopharmaceuticalStartTime": "083000.00",
    "SeriesDate": "20260105",
    "SeriesTime": "093000",
    "AcquisitionDate": "20260105",
    "AcquisitionTime": "093000",
}


def test_fluorine_by_hand() -> None:
    left = 370e6 * 0.5 ** (60 / 109.77)
    assert left == pytest.approx(253.31e6, rel=1e-4)
    assert uptake(FDG).factor == pytest.approx(75_000 / left, rel=1e-12)
    # A uniform body that keeps the tracer has SUV 1: 370 MBq decayed, in 75 kg.
    assert 253.31e6 / 75_000 * uptake(FDG).factor == pytest.approx(1, rel=1e-4)
    assert "3600 s" in uptake(FDG).basis


def test_dose_halves_with_each_half_life() -> None:
    assert decayed_dose_bq(400.0, 6586.2, 2 * 6586.2) == pytest.approx(100)


def test_admin_correction_takes_the_dose_as_injected() -> None:
    assert uptake(FDG | {"DecayCorrection": "ADMIN"}).factor == pytest.approx(75_000 / 370e6)


def test_philips_counts_with_suv_factor() -> None:
    """(7053,xx00) is SUV for each count; neither weight nor dose matters."""
    facts = {"Units": "CNTS", "PhilipsSUVScaleFactor": 0.000381}
    assert uptake(facts).factor == 0.000381


def test_philips_counts_with_activity_factor() -> None:
    """(7053,xx09) is Bq/ml for each count, then as any other."""
    facts = FDG | {
        "Units": "CNTS",
        "PhilipsActivityConcentrationScaleFactor": 1.7,
        "PhilipsSUVScaleFactor": 0,
    }
    assert uptake(facts).factor == pytest.approx(1.7 * uptake(FDG).factor)


def test_stored_suv_is_left_alone() -> None:
    assert uptake({"Units": "GML"}).factor == 1
    assert uptake({"Units": "GML", "SUVType": "BW"}).factor == 1


def test_series_time_renewed_after_the_scan_gives_way_to_the_acquisition() -> None:
    late = FDG | {"SeriesTime": "141500"}
    assert uptake(late).factor == pytest.approx(uptake(FDG).factor)
    assert "AcquisitionTime" in uptake(late).basis


def test_ge_names_the_time_of_the_scan_where_series_time_was_renewed() -> None:
    """QIBA: GE's private scan time goes before acquisition times, but not before a SeriesTime that holds.

    The scan began at 09:30, the first slice that is left was acquired at 09:36: 3600 s, not 3960 s.
    """
    ge = FDG | {"GEScanDateTime": "20260105093000.00", "AcquisitionTime": "093600"}
    assert uptake(ge | {"SeriesTime": "141500"}).factor == pytest.approx(uptake(FDG).factor)
    assert "SeriesTime" in uptake(ge | {"SeriesTime": "093000"}).basis


ENHANCED: dict[str, Any] = {
    "Units": "BQML",
    "PatientWeight": 75.0,
    "RadionuclideTotalDose": 370e6,
    "RadionuclideHalfLife": 6586.2,
    "RadiopharmaceuticalStartDateTime": "20260105083000",
    "AttenuationCorrected": "YES",
    "DecayCorrected": "YES",
    "DecayCorrectionDateTime": "20260105093000",
    "SeriesDate": "20260105",
    "SeriesTime": "110000",
}


def test_enhanced_image_names_the_moment_it_is_corrected_to() -> None:
    """The same patient as above: 3600 s after the injection, whatever SeriesTime says."""
    assert uptake(ENHANCED).factor == pytest.approx(uptake(FDG).factor)
    assert "DecayCorrectionDateTime" in uptake(ENHANCED).basis


def test_injection_before_midnight() -> None:
    night = FDG | {
        "RadiopharmaceuticalStartTime": "233000",
        "SeriesTime": "003000",
        "AcquisitionTime": "003000",
    }
    assert uptake(night).factor == pytest.approx(uptake(FDG).factor)


def test_start_date_time_with_fraction_and_offset_wins() -> None:
    exact = FDG | {"RadiopharmaceuticalStartDateTime": "20260105083000.5"}
    assert "3599.5 s" in uptake(exact).basis
    zoned = FDG | {"RadiopharmaceuticalStartDateTime": "20260105093000+0100"}
    assert "3600 s" in uptake(zoned).basis


@settings(deadline=None)
@given(st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)), st.integers(0, 20 * 3600))
def test_factor_grows_as_the_dose_decays(start: datetime, seconds: int) -> None:
    start = start.replace(microsecond=0)
    injected = start - timedelta(seconds=seconds)
    facts = FDG | {
        "SeriesDate": f"{start:%Y%m%d}",
        "SeriesTime": f"{start:%H%M%S}",
        "AcquisitionDate": "",
        "RadiopharmaceuticalStartDateTime": f"{injected:%Y%m%d%H%M%S}",
    }
    assert uptake(facts).factor == pytest.approx(75_000 / 370e6 * 2 ** (seconds / 6586.2), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"Units": "PROPCPS"}, "not_suv_units"),
        ({"Units": "GML", "SUVType": "LBM"}, "suv_type"),
        ({"Units": "CNTS"}, "missing_suv_fact"),
        ({"PatientWeight": None}, "missing_suv_fact"),
        ({"PatientWeight": 0}, "missing_suv_fact"),
        ({"RadionuclideTotalDose": ""}, "missing_suv_fact"),
        ({"RadionuclideHalfLife": "unknown"}, "missing_suv_fact"),
        ({"RadiopharmaceuticalStartTime": ""}, "missing_suv_fact"),
        ({"SeriesDate": "", "AcquisitionDate": ""}, "missing_suv_fact"),
        ({"DecayCorrection": "NONE"}, "not_decay_corrected"),
        ({"DecayCorrection": ""}, "not_decay_corrected"),
        ({"CorrectedImage": ("DTIM", "DECY")}, "not_decay_corrected"),
        ({"CorrectedImage": "ATTN"}, "not_decay_corrected"),
        ({"RadiopharmaceuticalStartDateTime": "20250105083000"}, "suv_times"),
        ({"RadiopharmaceuticalStartDateTime": "20260105103000"}, "suv_times"),
        ({"SeriesTime": "25"}, "suv_times"),
        ({"DecayCorrected": "NO"}, "not_decay_corrected"),
        ({"AttenuationCorrected": "NO"}, "not_decay_corrected"),
    ],
)
def test_missing_or_contradicting_facts_are_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(Refused) as refusal:
        uptake(FDG | change)
    assert refusal.value.rule == rule


def test_enhanced_image_without_the_moment_of_its_correction_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        uptake({k: v for k, v in ENHANCED.items() if k != "DecayCorrectionDateTime"})
    assert refusal.value.rule == "not_decay_corrected"


def test_recipe_step_makes_suv_of_activity() -> None:
    grid = axial_grid((2, 3, 4))
    volume = Volume(
        array=np.full(grid.shape, 5000, np.int16),
        affine=grid.affine,
        unit="Bq/ml",
        source=Source(modality="PT", acquisition=FDG),
    )
    result = Recipe.from_steps([{"step": "suv"}]).apply(volume)
    np.testing.assert_allclose(result.volume.array, 5000 * 75_000 / (370e6 * 0.5 ** (60 / 109.77)), rtol=1e-6)
    assert result.volume.unit == suv(volume).unit == "{SUVbw}g/ml"
    assert "3600 s" in str(result.record[0].found["basis"])
