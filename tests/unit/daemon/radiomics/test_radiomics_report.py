"""Pages about features: every number, the picture, and the certificate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from phantoms import axial_grid, ellipsoid

from voxtrial.daemon.radiomics import certificate
from voxtrial.daemon.radiomics.configuration import load
from voxtrial.daemon.radiomics.extract import Features, extract
from voxtrial.daemon.radiomics.report import embedded, features_page, stability_page
from voxtrial.daemon.radiomics.stability import Stability
from voxtrial.daemon.volume import Mask, Source, Volume

NOW = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def case() -> tuple[Volume, Mask, Features]:
    grid = axial_grid((24, 30, 30), (3.0, 2.0, 2.0))
    rng = np.random.default_rng(0)
    array = rng.normal(40, 20, grid.shape).astype(np.int16)
    source = Source(patient_id="SECRET-17", series_instance_uid="1.2.3.4")
    volume = Volume(array=array, affine=grid.affine, unit="[hnsf'U]", source=source)
    inside = ellipsoid(grid, (18.0, 16.0, 14.0)) <= 1
    mask = Mask(array=inside, affine=grid.affine, label="<b>GTV</b>")
    return volume, mask, extract(volume, mask, load("C"))


def test_page_shows_every_feature_the_region_and_the_certificate(case: tuple[Volume, Mask, Features]) -> None:
    volume, mask, features = case
    page = features_page(features, volume, mask, certificate.shipped(), now=NOW)
    assert all(f"<td>{row.ibsi_id}</td>" in page for row in features)
    assert page.count("<figure>") == 3
    rows = len(certificate.shipped().rows)
    assert f"{rows} of {rows}</b> published values are met" in page
    assert features.configuration_digest in page
    assert "1.2.3.4" in page


def test_page_names_no_patient_and_takes_no_markup_from_names(case: tuple[Volume, Mask, Features]) -> None:
    volume, mask, features = case
    page = features_page(features, volume, mask, certificate.shipped(), now=NOW)
    assert "SECRET-17" not in page
    assert "&lt;b&gt;GTV&lt;/b&gt;" in page
    assert "<b>GTV</b>" not in page


def test_the_same_features_give_the_same_bytes(case: tuple[Volume, Mask, Features]) -> None:
    volume, mask, features = case
    first, second = (features_page(features, volume, mask, certificate.shipped(), now=NOW) for _ in range(2))
    assert first == second


def test_undefined_feature_is_shown_as_not_defined(case: tuple[Volume, Mask, Features]) -> None:
    volume, mask, features = case
    undefined = replace(features, rows=(replace(features.rows[0], value=float("nan")),))
    assert "not defined" in features_page(undefined, volume, mask, certificate.shipped(), now=NOW)


def test_a_value_that_misses_is_named() -> None:
    """One reference moved by ten tolerances: its dataset and identifier stand on the page."""
    shipped = certificate.shipped()
    judged = next(row for row in shipped.rows if row.tolerance)
    wrong = replace(judged, reference=judged.reference + 10 * (judged.tolerance or 0))
    spoiled = replace(shipped, rows=tuple(wrong if row is judged else row for row in shipped.rows))
    found = embedded(spoiled)
    assert found["conforming"] == found["compared"] - 1
    assert found["missed"] == [f"{judged.dataset} {judged.ibsi_id}"]


def test_stability_page_embeds_the_certificate_too() -> None:
    rows = [
        Stability(
            family="glcm",
            feature="Contrast",
            ibsi_id="ACUI",
            aggregation_id="IAZD",
            icc=icc,
            ci_low=low,
            ci_high=1.0,
        )
        for icc, low in ((0.97, 0.9), (float("nan"), float("nan")))
    ]
    page = stability_page(rows, load("C"), {"Cases": 4}, certificate.shipped(), now=NOW)
    assert "0.97" in page
    assert "not defined" in page
    assert 'id="certificate"' in page
