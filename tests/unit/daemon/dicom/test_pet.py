"""Units and times of classic and enhanced PET."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import enhanced_ct, stack
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
)

from voxtrial.daemon.dicom import pixels, series
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.harmonize.suv import suv, uptake
from voxtrial.daemon.volume import Volume

STORED = np.full((4, 3, 2), 8, np.int16)


def mapping(unit: str, slope: float = 0.5) -> Dataset:
    """Real world value mapping to a UCUM unit."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
    item = Dataset()
    item.MeasurementUnitsCodeSequence = [code]
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 100
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, 0.0
    return item


def enhanced_pet(path: Path, *units: str, classic: str = "") -> Volume:
    """Read an Enhanced PET of four frames whose mapping has one of ``units`` each, or none.

    ``classic`` is the value of Units, where it has one.

    75 kg, 370 MBq of F-18 at 08:30, corrected to 09:30: by hand 253.31 MBq are left.
    """

    def edit(ds: Dataset) -> None:
        ds.Modality = "PT"
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedPETImageStorage
        ds.PatientWeight = "75"
        if classic:
            ds.Units = classic
        ds.AttenuationCorrected = ds.DecayCorrected = "YES"
        ds.DecayCorrectionDateTime = "20260105093000"
        tracer = Dataset()
        tracer.RadiopharmaceuticalStartDateTime = "20260105083000"
        tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = "370000000", "6586.2"
        ds.RadiopharmaceuticalInformationSequence = [tracer]

    def edit_frame(number: int, group: Dataset) -> None:
        if units:
            group.RealWorldValueMappingSequence = [mapping(units[number % len(units)])]

    path = enhanced_ct(path, STORED, edit=edit, edit_frame=edit_frame)
    return pixels.read(series.group([path])[0])


@pytest.mark.parametrize(
    ("unit", "found"),
    [
        ("Bq/ml", "Bq/ml"),
        ("{SUVbw}g/ml", "{SUVbw}g/ml"),
        ("g/ml{SUVbw}", "{SUVbw}g/ml"),
        ("g/ml{SUVlbm}", "1"),
        ("{counts}", "1"),
    ],
)
def test_enhanced_pet_is_in_the_unit_of_its_real_world_values(tmp_path: Path, unit: str, found: str) -> None:
    """A stored 8 is 8 * 0.5 = 4 in that unit, whatever the rescale slope (1) says."""
    volume = enhanced_pet(tmp_path / "pet.dcm", unit)
    assert volume.unit == found
    assert np.unique(volume.array).tolist() == [4]


@pytest.mark.parametrize(
    ("unit", "classic", "found"),
    [("Bq/ml", "CNTS", "Bq/ml"), ("{counts}", "BQML", "1"), ("kBq/g", "BQML", "1")],
)
def test_mapping_decides_the_unit_where_units_says_another(
    tmp_path: Path, unit: str, classic: str, found: str
) -> None:
    """The values are those of the mapping, 8 * 0.5 = 4, so its unit is theirs."""
    volume = enhanced_pet(tmp_path / "pet.dcm", unit, classic=classic)
    assert (volume.unit, np.unique(volume.array).tolist()) == (found, [4])


def test_enhanced_pet_becomes_suv(tmp_path: Path) -> None:
    volume = enhanced_pet(tmp_path / "pet.dcm", "Bq/ml")
    assert suv(volume).array.max() == pytest.approx(4 * 75_000 / 253.31e6, rel=1e-4)


@pytest.mark.parametrize(("unit", "rule"), [("{counts}", "missing_suv_fact"), ("", "not_suv_units")])
def test_enhanced_pet_that_does_not_say_what_it_is_has_no_suv(tmp_path: Path, unit: str, rule: str) -> None:
    volume = enhanced_pet(tmp_path / "pet.dcm", *([unit] if unit else []))
    assert volume.unit == "1"
    with pytest.raises(Refused) as refusal:
        suv(volume)
    assert refusal.value.rule == rule


def test_pet_in_two_units_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="BQML and CNTS") as refusal:
        enhanced_pet(tmp_path / "pet.dcm", "Bq/ml", "{counts}")
    assert refusal.value.rule == "mixed_units"


def test_pet_in_two_units_that_are_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="kBq/g and mol/l") as refusal:
        enhanced_pet(tmp_path / "pet.dcm", "kBq/g", "mol/l")
    assert refusal.value.rule == "mixed_units"


def test_scan_begins_with_the_slice_acquired_first(tmp_path: Path) -> None:
    """Beds from the feet up: the last slice of the sorted volume is acquired first, at 09:30:00."""

    def bed(k: int, ds: Dataset) -> None:
        ds.Modality, ds.Units = "PT", "BQML"
        ds.AcquisitionDate, ds.AcquisitionTime = "20260105", f"09{34 - k:02d}00.00"

    volume = pixels.read(series.group(stack(tmp_path, np.zeros((5, 4, 4), np.int16), edit=bed))[0])
    assert volume.source.acquisition["AcquisitionTime"] == "093000.00"


RAW = {"Units": "BQML", "DecayCorrection": "START", "CorrectedImage": ["ATTN", "DECY"], "PatientWeight": "75"}


def classic_pet(
    folder: Path, syntax: str, private: dict[tuple[str, int, int], str], **facts: object
) -> Volume:
    """Read a raw PET of four slices: 370 MBq of F-18 at 08:30:00, the series at 09:30:00.

    ``private`` elements, by creator, group and offset, stand in the second block that the group has.
    """

    def edit(_: int, ds: Dataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
        ds.file_meta.TransferSyntaxUID = syntax
        ds.Modality, ds.SeriesDate, ds.SeriesTime = "PT", "20260105", "093000"
        ds.AcquisitionDate, ds.AcquisitionTime = "20260105", "093600"
        tracer = Dataset()
        tracer.RadiopharmaceuticalStartTime = "083000.00"
        tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = "370000000", "6586.2"
        ds.RadiopharmaceuticalInformationSequence = [tracer]
        for name, value in (RAW | facts).items():
            setattr(ds, name, value)
        for (creator, group, offset), value in private.items():
            ds.private_block(group, "ANOTHER MAKER", create=True).add_new(1, "LO", "first block")
            vr = "DT" if offset == 0x0D else "DS"
            ds.private_block(group, creator, create=True).add_new(offset, vr, value)

    return pixels.read(series.group(stack(folder, STORED, edit=edit))[0])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_raw_pet_from_files_becomes_suv(tmp_path: Path, syntax: str) -> None:
    """8 Bq/ml, 3600 s after 370 MBq: by hand 253.31 MBq are left in 75 kg."""
    volume = classic_pet(tmp_path, syntax, {})
    assert volume.unit == "Bq/ml"
    assert suv(volume).array.max() == pytest.approx(8 * 75_000 / 253.31e6, rel=1e-4)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_private_factors_of_philips_are_found_in_any_block(tmp_path: Path, syntax: str) -> None:
    """(7053,1100) is SUV a count, (7053,1109) Bq/ml a count; stored counts are 8."""
    philips = "Philips PET Private Group"
    direct = classic_pet(tmp_path / "a", syntax, {(philips, 0x7053, 0x00): "0.000381"}, Units="CNTS")
    assert suv(direct).array.max() == pytest.approx(8 * 0.000381, rel=1e-6)
    activity = {(philips, 0x7053, 0x00): "0", (philips, 0x7053, 0x09): "1.7"}
    through = classic_pet(tmp_path / "b", syntax, activity, Units="CNTS")
    assert suv(through).array.max() == pytest.approx(8 * 1.7 * 75_000 / 253.31e6, rel=1e-4)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_private_scan_time_of_ge_is_found(tmp_path: Path, syntax: str) -> None:
    """SeriesTime was renewed after the scan; it began at 09:30 and not with the first slice that is left."""
    began = {("GEMS_PETD_01", 0x0009, 0x0D): "20260105093000.00"}
    volume = classic_pet(tmp_path, syntax, began, SeriesTime="141500")
    assert uptake(volume.source.acquisition).factor == pytest.approx(75_000 / 253.31e6, rel=1e-4)
