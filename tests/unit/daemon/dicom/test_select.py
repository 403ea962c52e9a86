"""Selection: a stated policy, a reason for every series that was not chosen, no silent first one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import lattice_affine, stack
from pydicom.dataset import Dataset

from voxtrial.daemon.dicom import series
from voxtrial.daemon.dicom.select import Selector, choose, select
from voxtrial.daemon.errors import Refused


@pytest.fixture
def study(tmp_path) -> list[series.SeriesFiles]:
    """Thin and thick CT, a tilted CT, an MR, and a thin CT with a missing slice."""

    def make(
        name: str, spacing: float, slices: int, *, tilt: float = 0.0, **attributes: object
    ) -> list[Path]:
        def describe(_: int, ds: Dataset) -> None:
            ds.SeriesDescription = name
            for keyword, value in attributes.items():
                setattr(ds, keyword, value)

        affine = lattice_affine((spacing, 1, 1), tilt_degrees=tilt)
        return stack(tmp_path / name, np.zeros((slices, 2, 2), np.int16), affine, edit=describe, seed=name)

    gap = make("gap", 0.5, 30)
    return series.group(
        [
            *make("thin", 1.0, 20, ConvolutionKernel="B70f"),
            *make("thick", 5.0, 6, ContrastBolusAgent="IOMERON"),
            *make("tilted", 0.7, 9, tilt=15.0),
            *make("t1", 1.0, 12, Modality="MR"),
            *gap[:10],
            *gap[11:],
        ]
    )


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (Selector(modality="CT"), "thin"),
        (Selector(modality="CT", prefer="thickest"), "thick"),
        (Selector(modality="CT", prefer="most_slices"), "thin"),
        (Selector(modality="CT", contrast=True), "thick"),
        (Selector(modality="CT", contrast=False), "thin"),
        (Selector(modality="CT", allow_tilt=True), "tilted"),
        (Selector(modality="CT", kernel="^b70"), "thin"),
        (Selector(modality="CT", not_description="thin"), "thick"),
        (Selector(description="^T[12]$"), "t1"),
        (Selector(modality="CT", minimum_slice_spacing_mm=4), "thick"),
    ],
)
def test_selector_chooses(study, selector, chosen):
    assert select(study, selector).description == chosen


def test_every_other_series_has_a_reason(study):
    reasons = {one.name: (one.rule, one.reason) for one in choose(study, Selector(modality="CT")).rejected}
    assert reasons["t1"] == ("selector", "modality is MR, not CT")
    assert reasons["tilted"][0] == "gantry_tilt"
    assert reasons["gap"][0] == "missing_slice"
    assert reasons["thick"] == ("preference", "thinnest: 6 slices at 5 mm against 20 at 1 mm")
    assert len(reasons) == len(study) - 1


def test_two_equal_series_are_not_guessed_at(study):
    with pytest.raises(Refused, match=r"thin; t1|t1; thin") as caught:
        select(study, Selector(maximum_slice_spacing_mm=1.0, minimum_slices=10))
    assert caught.value.rule == "ambiguous_series"


def test_the_rule_of_the_gate_survives_when_only_one_series_was_meant(study):
    with pytest.raises(Refused) as caught:
        select(study, Selector(description="gap"))
    assert caught.value.rule == "missing_slice"


def test_no_series_names_every_reason(study):
    with pytest.raises(Refused, match="thin: modality is CT, not PT") as caught:
        select(study, Selector(modality="PT"))
    assert caught.value.rule == "no_series"


def test_parts_of_a_series_can_be_chosen(tmp_path):
    def number(k: int, ds: Dataset) -> None:
        ds.AcquisitionNumber = 1 + k % 2
        ds.ImagePositionPatient = [0, 0, k // 2]

    found = series.group(stack(tmp_path, np.zeros((8, 2, 2), np.int16), edit=number))
    assert select(found, Selector(part="Number=2")).part == "AcquisitionNumber=2"
    with pytest.raises(Refused, match="Several series suit"):
        select(found, Selector())
