"""A report is data first: what it answers, what it admits not to know, and the same bytes every time."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from voxtrial.validation.cohort import Cohort
from voxtrial.validation.protocol import Protocol, ProtocolError
from voxtrial.validation.reports import checklist
from voxtrial.validation.reports.document import build
from voxtrial.validation.reports.render import render, shown

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def cohort(**changes: Any) -> Cohort:
    """Eight patients at two sites; measured volume is exactly 10 % above the reference."""
    rng = np.random.default_rng(7)
    rows = []
    for patient in range(8):
        reference = float(np.exp(rng.normal(6, 1)))
        for site in ("A", "B"):
            rows.append(
                {
                    "record": len(rows) + 1,
                    "subject": f"subject-{patient:03d}",
                    "site": site,
                    "volume_mm3": 1.1 * reference,
                    "reference_volume_mm3": reference,
                    "log_volume": float(np.log(1.1 * reference)),
                    "dice": 0.8 + 0.01 * patient,
                    "ConvolutionKernel": "<b>SHARP</b>",
                }
            )
    flow = [{"study_version": r["record"], "bucket": "analysed", "reason": ""} for r in rows]
    flow += [{"study_version": 99, "bucket": "refused by the geometry gate", "reason": "missing_slice"}]
    values: dict[str, Any] = {
        "studies": pd.DataFrame(rows),
        "flow": pd.DataFrame(flow),
        "model": {"identity": {"version": "1.0", "intended_use": "A test."}},
        "protocol_id": 1,
        "registered_at": NOW,
        "first_outcome_access_at": NOW + timedelta(hours=1),
    }
    return Cohort(**(values | changes))


def protocol(*endpoints: dict[str, Any], **changes: Any) -> Protocol:
    values: dict[str, Any] = {
        "name": "plan",
        "title": "Volumes & masks",
        "model": "m",
        "model_digest": "ab" * 32,
        "reference": {"reader": "consensus"},
        "endpoints": endpoints,
    }
    return Protocol.from_document(values | changes)


RATIO = {
    "id": "ratio",
    "title": "Ratio",
    "statistic": "bland_altman_ratio",
    "inputs": {"x": "volume_mm3", "y": "reference_volume_mm3"},
    "show": ["ratio", "n"],
    "criterion": "value(ratio) < 1.2",
    "primary": True,
    "subgroups": ["site"],
}


def made(folder: Path, frozen: Cohort, plan: Protocol) -> dict[str, Any]:
    return build(frozen, plan, folder, site="Site", now=NOW)


def test_a_known_bias_is_the_number_in_the_report(tmp_path: Path) -> None:
    endpoint = made(tmp_path, cohort(), protocol(RATIO))["endpoints"][0]
    assert endpoint["values"]["ratio"] == pytest.approx(1.1, abs=1e-12)
    assert endpoint["verdict"] == "met"
    assert (endpoint["n"], endpoint["records"]) == (16, list(range(1, 17)))


def test_subgroups_are_computed_and_small_ones_are_named(tmp_path: Path) -> None:
    document = made(tmp_path, cohort(), protocol(RATIO, minimum_subgroup=9))
    assert [(s["level"], s["n"], s["notes"]) for s in document["endpoints"][0]["subgroups"]] == [
        ("A", 8, ["n too small"]),
        ("B", 8, ["n too small"]),
    ]
    ratios = made(tmp_path, cohort(), protocol(RATIO))["endpoints"][0]["subgroups"]
    assert [s["values"]["ratio"] for s in ratios] == [pytest.approx(1.1), pytest.approx(1.1)]


def test_what_the_cohort_does_not_hold_is_not_evaluable_and_says_so(tmp_path: Path) -> None:
    auc = {
        "id": "auc",
        "title": "AUC",
        "statistic": "roc_auc",
        "inputs": {"truth": "reference_class", "score": "score"},
        "criterion": "value(auc) > 0.5",
        "primary": True,
    }
    document = made(tmp_path, cohort(), protocol(RATIO, auc))
    assert document["endpoints"][1]["verdict"] == "not evaluable"
    assert "reference_class" in document["endpoints"][1]["notes"][0]
    assert document["conclusion"] == "not evaluable"


def test_an_empty_cohort_gives_a_report_without_numbers(tmp_path: Path) -> None:
    empty = cohort(studies=pd.DataFrame(), flow=pd.DataFrame(columns=["study_version", "bucket", "reason"]))
    document = made(tmp_path, empty, protocol(RATIO))
    assert document["conclusion"] == "not evaluable"
    render(document, tmp_path)
    assert "no study of the cohort" in (tmp_path / "report.html").read_text()


def test_a_plan_registered_after_the_outcomes_is_a_deviation(tmp_path: Path) -> None:
    late = cohort(first_outcome_access_at=NOW - timedelta(days=1))
    document = made(tmp_path, late, protocol(RATIO))
    assert document["protocol"]["as_registered"] is False
    assert document["protocol"]["deviations"] == ["outcomes were read before the protocol was registered"]


def test_every_received_study_is_in_one_bucket(tmp_path: Path) -> None:
    flow = made(tmp_path, cohort(), protocol(RATIO))["flow"]
    assert flow["received"] == 17 == sum(b["n"] for b in flow["buckets"])
    assert flow["excluded"] == [{"bucket": "refused by the geometry gate", "reason": "missing_slice", "n": 1}]


def test_every_row_of_the_checklist_is_printed_also_the_unanswered_ones(tmp_path: Path) -> None:
    document = made(tmp_path, cohort(), protocol(RATIO))
    assert [row["id"] for row in document["checklist"]] == list(checklist.ROWS)
    assert {row["status"] for row in document["checklist"]} >= {"provided", "not_provided"}
    render(document, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert all(f"<td>{identity}</td>" in page for identity in checklist.ROWS)


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    document = made(tmp_path, cohort(), protocol(RATIO))
    first = render(document, tmp_path / "a")
    second = render(document, tmp_path / "b")
    for form in ("json", "html", "pdf"):
        assert getattr(first, form).read_bytes() == getattr(second, form).read_bytes()


def test_html_and_pdf_hold_nothing_that_the_json_does_not(tmp_path: Path) -> None:
    document = made(tmp_path, cohort(), protocol(RATIO))
    whole = render(document, tmp_path / "a")
    again = render(json.loads(whole.json.read_text()), tmp_path / "b")
    assert whole.html.read_bytes() == again.html.read_bytes()
    assert whole.pdf.read_bytes() == again.pdf.read_bytes()


def test_text_from_headers_cannot_become_markup(tmp_path: Path) -> None:
    render(made(tmp_path, cohort(), protocol(RATIO)), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;SHARP&lt;/b&gt;" in page
    assert "<b>SHARP</b>" not in page


def test_an_unknown_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    wrong = RATIO | {"where": {"sites": "A"}}
    document = made(tmp_path, cohort(), protocol(wrong))
    assert "sites" in document["endpoints"][0]["notes"][0]
    with pytest.raises(ProtocolError, match="volume_mm3"):
        made(
            tmp_path, cohort(), protocol(RATIO | {"inputs": {"x": "volume_mm", "y": "reference_volume_mm3"}})
        )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not defined"),
        (3.0, "3"),
        (0.123456, "0.1235"),
        (1.5e-9, "1.5e-09"),
        ([1.0, None], "1, not defined"),
    ],
)
def test_values_are_printed_with_four_digits(value: object, text: str) -> None:
    assert shown(value) == text


def test_the_digest_of_the_cohort_changes_with_any_value() -> None:
    changed = cohort()
    changed.studies.loc[3, "dice"] += 1e-9
    assert cohort().digest == cohort().digest
    assert cohort().digest != changed.digest
