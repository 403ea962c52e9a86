"""What a report says about grids and sharpness of several sites."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from voxtrial.validation import comparability
from voxtrial.validation.comparability import differing_sites


def provenance(sigma_mm: float | None, warning: str = "") -> dict[str, Any]:
    """Return the audit of one study: 2.5 x 0.8 x 0.8 mm to 1 mm, 21 voxels seen."""
    step = {"step": "psf", "found": {"own_sigma_mm": sigma_mm, "blur_mm": 0.0}}
    return {
        "harmonization": {
            "ct": {
                "before": {"spacing_mm": [2.5, 0.8, 0.8], "receptive_field_mm": [52.5, 16.8, 16.8]},
                "after": {"spacing_mm": [1.0, 1.0, 1.0], "receptive_field_mm": [21.0, 21.0, 21.0]},
                "steps": [] if sigma_mm is None else [step],
                "warnings": [warning] if warning else [],
            }
        }
    }


def studies(*rows: tuple[str, dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([{"site": site, **comparability.facts(one)} for site, one in rows])


def test_sites_that_differ_are_named() -> None:
    """10-90 % rise is 2.563 sigma; 0.6 mm becomes 1.4 mm by a blur of sqrt(1.96 - 0.36) = 1.26 mm."""
    sentence = differing_sites({"north": 0.6, "south": 1.4, "west": 0.9})
    assert "1.54 mm at north" in sentence
    assert "3.59 mm at south" in sentence
    assert "1.26 mm" in sentence
    assert differing_sites({"north": 1.0, "south": 1.1}) == ""
    assert differing_sites({"north": 1.0}) == ""


def test_table_shows_grids_and_what_the_model_sees_before_and_after() -> None:
    table = comparability.by_site(studies(("A", provenance(0.6)), ("A", provenance(0.8)), ("B", {})))
    assert table[0] == {
        "site": "A",
        "native_spacing_mm": "2.5 x 0.8 x 0.8",
        "native_field_mm": "52.5 x 16.8 x 16.8",
        "harmonized_spacing_mm": "1 x 1 x 1",
        "harmonized_field_mm": "21 x 21 x 21",
        "edge_rise_mm": pytest.approx(2.563 * 0.7, abs=1e-3),
        "n": 2,
    }
    assert (table[1]["site"], table[1]["n"], table[1]["edge_rise_mm"]) == ("B", 1, None)


def test_every_input_of_a_model_shows_its_grid() -> None:
    """The sharpness is that of the input whose recipe measures it."""
    both = {"harmonization": {**provenance(None)["harmonization"]}}
    both["harmonization"]["pet"] = provenance(0.6)["harmonization"]["ct"] | {
        "before": {"spacing_mm": [3.0, 4.0, 4.0]}
    }
    row = comparability.facts(both)
    assert row["native_spacing_mm"] == "ct 2.5 x 0.8 x 0.8; pet 3 x 4 x 4"
    assert row["edge_rise_mm"] == pytest.approx(2.563 * 0.6, abs=1e-3)


def test_reader_is_told_of_sharpness_and_of_warnings() -> None:
    told = comparability.sentences(
        studies(("A", provenance(0.6, "Finer.")), ("B", provenance(1.4, "Finer.")), ("B", provenance(1.4)))
    )
    assert "at A and 3.59 mm at B" in told[0]
    assert told[1] == "2 studies: Finer."


def test_studies_without_an_audit_say_nothing() -> None:
    bare = studies(("A", {}), ("B", {}))
    assert comparability.by_site(bare) == comparability.sentences(bare) == []


def test_recipe_that_measures_no_sharpness_gives_grids_alone() -> None:
    table = studies(("A", provenance(None)), ("B", provenance(None)))
    assert comparability.sentences(table) == []
    assert [row["edge_rise_mm"] for row in comparability.by_site(table)] == [None, None]
