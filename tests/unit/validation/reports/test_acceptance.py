"""Criteria are predicates: what they judge, and what they refuse to judge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtrial.validation.reports.acceptance import CriterionError, parse


@pytest.mark.parametrize(
    ("text", "values", "verdict"),
    [
        ("ci_low(sensitivity) > 0.80", {"sensitivity_ci_low": 0.81}, "met"),
        ("ci_low(sensitivity) > 0.80", {"sensitivity_ci_low": 0.80}, "not met"),
        ("ci_low(sensitivity) >= 0.80", {"sensitivity_ci_low": 0.80}, "met"),
        ("ci_low(auc) > 0.6", {"auc": 0.9, "ci_low": 0.61}, "met"),
        ("ci_low(estimate) > 0.6", {"estimate": 0.9, "bca_low": 0.59}, "not met"),
        ("value(dice) > 0.9", {"dice": 0.95}, "met"),
        ("dice > 0.9", {"dice": 0.95}, "met"),
        ("abs(bias) < 5", {"bias": -4.9}, "met"),
        ("abs(bias) < 5", {"bias": -5.1}, "not met"),
        (
            "ci_low(ratio) > 0.9 and ci_high(ratio) < 1.1",
            {"ratio_ci_low": 0.95, "ratio_ci_high": 1.2},
            "not met",
        ),
        (
            "ci_low(ratio) > 0.9 and ci_high(ratio) < 1.1",
            {"ratio_ci_low": 0.95, "ratio_ci_high": 1.05},
            "met",
        ),
        ("ci_low(icc) > 0.9", {"icc_ci_low": None}, "not evaluable"),
        ("ci_low(icc) > 0.9", {}, "not evaluable"),
        ("ci_low(a) > 0.9 and b < 1", {"a_ci_low": None, "b": 2}, "not met"),
        ("x < -1.5e-3", {"x": -0.002}, "met"),
    ],
)
def test_criterion_is_judged(text: str, values: dict[str, float | None], verdict: str) -> None:
    assert parse(text).verdict(values) == verdict


@pytest.mark.parametrize(
    "text", ["", "dice", "dice = 0.9", "ci_mid(dice) > 1", "dice > high", "__import__('os') > 1"]
)
def test_what_is_no_criterion_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CriterionError, match="write for example"):
        parse(text)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_criterion_agrees_with_the_comparison_that_it_writes(value: float, limit: float) -> None:
    verdict = parse(f"value(x) > {limit!r}").verdict({"x": value})
    assert verdict == ("met" if value > limit else "not met")
