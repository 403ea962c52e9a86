"""Every published IBSI 1 value of the digital phantom and of configurations A to E on the CT phantom.

Digital phantom and A to C come from the shared reference data (IBSI reference manual). D and E, in the CSV
beside this file, are the values of the IBSI compliance spreadsheet that belongs to Zwanenburg et al. 2020,
doi:10.1148/radiol.2020191145. Tolerances are IBSI's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts

from voxtrial.daemon.radiomics.certificate import Certificate, Reference, certify, read_reference
from voxtrial.daemon.radiomics.extract import FAMILIES, Features

DATASETS = ("digital_phantom", "config_A", "config_B", "config_C", "config_D", "config_E")

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="session")
def references(shared_data: Path) -> list[Reference]:
    return [
        *read_reference(shared_data / "ibsi" / "reference_values_digital_A_B_C.csv"),
        *read_reference(Path(__file__).parent / "reference_values_D_E.csv"),
    ]


def listed(certificate: Certificate) -> str:
    return "\n".join(
        f"{row.ibsi_id} {row.aggregation_id or '-'} {row.feature}: {row.value} is not "
        f"{row.reference} ± {row.tolerance}"
        for row in certificate.rows
        if not row.conforms
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_values_are_the_published_ones(
    dataset: str, family: str, references: list[Reference], features_of: Callable[[str], Features]
) -> None:
    wanted = [row for row in references if (row.dataset, row.family) == (dataset, family)]
    certificate = certify({dataset: features_of(dataset)}, wanted)
    assert len(certificate.rows) == len(wanted) > 0
    assert not listed(certificate)


def test_the_table_is_complete(references: list[Reference]) -> None:
    """482 values of the digital phantom; A to E as many as IBSI prints with at least moderate consensus."""
    assert Counter(row.dataset for row in references) == {
        "digital_phantom": 482,
        "config_A": 346,
        "config_B": 346,
        "config_C": 209,
        "config_D": 210,
        "config_E": 210,
    }


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_feature_has_a_key_twice(dataset: str, features_of: Callable[[str], Features]) -> None:
    keys = Counter((row.ibsi_id, row.aggregation_id, row.feature) for row in features_of(dataset))
    assert max(keys.values()) == 1


def test_every_computed_value_has_a_published_one(
    references: list[Reference], features_of: Callable[[str], Features]
) -> None:
    """Compactness 1 under configuration C alone has no printed value."""
    printed = {(row.dataset, row.ibsi_id, row.aggregation_id) for row in references}
    unproven = [
        (dataset, row.ibsi_id)
        for dataset in DATASETS
        for row in features_of(dataset)
        if (dataset, row.ibsi_id, row.aggregation_id) not in printed
    ]
    assert unproven == [("config_C", "SKGS")]


def test_identifiers_are_those_of_dicom(features_of: Callable[[str], Features]) -> None:
    """DICOM codes IBSI features by the same identifiers (PS3.16 CID 7467, 7475 to 7479, 7500, 7501).

    It has no codes for the intensities themselves, their peaks and the intensity-volume histogram, and four
    for densities that have no consensus value.
    """
    coded = {code for meanings in concepts["IBSI"].values() for code in meanings}
    uncoded = ("local_intensity", "intensity_statistics", "intensity_volume_histogram")
    ours = {row.ibsi_id for row in features_of("digital_phantom") if row.family not in uncoded}
    assert ours == coded - {"BRI8", "IQYR", "SWZ1", "ZH1A"}
