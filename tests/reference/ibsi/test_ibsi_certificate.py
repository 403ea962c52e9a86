"""The certificate that ships: what it says, that it is of this code, and that it can say no."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.radiomics.certificate import Certificate, Comparison, certify, read_reference, shipped
from voxtrial.daemon.radiomics.extract import Feature, Features

HEADER = "dataset,family,feature,ibsi_id,aggregation_id,value,tolerance\n"


def comparison(value: float | None, reference: float, tolerance: float | None) -> Comparison:
    return Comparison(
        dataset="config_A",
        family="glcm",
        feature="Contrast",
        ibsi_id="ACUI",
        aggregation_id="BTW3",
        value=value,
        reference=reference,
        tolerance=tolerance,
    )


@pytest.mark.parametrize(
    ("value", "reference", "tolerance", "conforms"),
    [
        (5.2849, 5.28, None, True),  # the three printed digits agree
        (5.2851, 5.28, None, False),
        (7.594, 7.85, 0.26, True),  # 7.59 is 0.26 away
        (7.584, 7.85, 0.26, False),
        (-0.01214, -0.0121, None, True),
        (None, 1.0, 0.1, False),  # a feature that we lack
        (math.nan, 1.0, 0.1, False),
    ],
)
def test_a_value_conforms_to_its_printed_digits(
    value: float | None, reference: float, tolerance: float | None, conforms: bool
) -> None:
    assert comparison(value, reference, tolerance).conforms is conforms


def test_the_summary_counts_by_family_in_units_of_the_tolerance() -> None:
    rows = (comparison(1.1, 1.0, 0.2), comparison(2.0, 1.0, 0.5), comparison(1.0, 1.0, None))
    (line,) = Certificate(software="x", source="y", rows=rows).summary()
    assert (line.values, line.conforming) == (3, 2)
    assert line.largest_deviation == pytest.approx(2)


def test_a_missing_feature_is_in_the_certificate(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        HEADER + "config_A,glcm,Contrast,ACUI,BTW3,7.85,0.26\nconfig_B,glcm,Contrast,ACUI,BTW3,1,\n"
    )
    row = Feature(family="glcm", feature="Contrast", ibsi_id="ACUI", aggregation_id="SUJT", value=7.85)
    features = Features(configuration="A", configuration_digest="", rows=(row,))
    certificate = certify({"config_A": features}, read_reference(table))
    assert [row.value for row in certificate.rows] == [None]
    assert not certificate.conforms


def test_a_table_without_its_columns_or_with_a_key_twice_is_named(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("dataset,value\nconfig_A,1\n")
    with pytest.raises(Misconfigured, match="has no column 'family'"):
        read_reference(table)
    table.write_text(HEADER + "config_A,glcm,Contrast,ACUI,BTW3,7.85,0.26\n" * 2)
    with pytest.raises(Misconfigured, match="twice"):
        read_reference(table)


@pytest.mark.shared_data
def test_the_shipped_certificate_is_of_this_code(
    shared_data: Path, features_of: Callable[[str], Features]
) -> None:
    """Remake it with ``voxtrial radiomics-certificate`` when this fails, and say in changes/ what changed."""
    references = [
        *read_reference(shared_data / "ibsi" / "reference_values_digital_A_B_C.csv"),
        *read_reference(Path(__file__).parent / "reference_values_D_E.csv"),
    ]
    certificate = shipped()
    datasets = dict.fromkeys(row.dataset for row in references)
    anew = certify({dataset: features_of(dataset) for dataset in datasets}, references)
    assert [row.reference for row in certificate.rows] == [row.reference for row in anew.rows]
    values = [row.value for row in anew.rows]
    assert [row.value for row in certificate.rows] == pytest.approx(values, rel=1e-8)


def test_the_shipped_certificate_has_no_deviation() -> None:
    certificate = shipped()
    assert certificate.conforms
    assert len(certificate.rows) == 482 + 346 + 346 + 209 + 210 + 210
    assert len(certificate.summary()) == 6 * 11


def test_the_command_shows_it_and_writes_it_whole(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["radiomics-certificate", "-o", str(tmp_path / "certificate.json")])
    assert result.exit_code == 0
    assert "1803 of 1803 values conform." in result.stdout
    document = json.loads((tmp_path / "certificate.json").read_text(encoding="utf-8"))
    assert document["conforming"] == document["values"] == len(document["rows"])


@pytest.mark.shared_data
def test_the_command_says_no_when_a_value_does_not_conform(shared_data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(HEADER + "digital_phantom,morphology,Volume (mesh),RNU0,,600,4\n")
    folder = shared_data / "ibsi" / "digital_phantom" / "nifti"
    phantom = [str(folder / "image" / "phantom.nii.gz"), str(folder / "mask" / "mask.nii.gz")]
    arguments = ["radiomics-certificate", "--reference", str(table), "--digital-phantom", *phantom]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "0 of 1 values conform." in result.stdout
