"""Every stored case of the shared reference data, computed through the registry within its own tolerance.

Expected values come from R packages and brute force; each case names its oracle, version and call.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SHARED_DATA

from voxtrial.validation import registry

CASES = sorted((SHARED_DATA / "stats" / "cases").glob("*.json"))


def disagreement(got: object, expected: object, abs_tol: float, rel_tol: float) -> str:
    """Return why a value is outside its tolerance, or an empty string."""
    if expected is None or got is None:
        return "" if got is None and expected is None else f"{got} instead of {expected}"
    if isinstance(expected, list):
        if not isinstance(got, list) or len(got) != len(expected):
            return f"{got} instead of {len(expected)} values {expected}"
        reasons = [disagreement(g, e, abs_tol, rel_tol) for g, e in zip(got, expected, strict=True)]
        return "; ".join(f"[{i}] {reason}" for i, reason in enumerate(reasons) if reason)
    if abs(got - expected) <= abs_tol + rel_tol * abs(expected):
        return ""
    return f"{got!r} instead of {expected!r} (off by {got - expected:.3g})"


@pytest.mark.shared_data
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_case(path: Path) -> None:
    result = registry.run_case(path)
    reasons = {}
    for name, expected in json.loads(path.read_text())["expected"].items():
        if name not in result.values:
            reasons[name] = "missing"
            continue
        reason = disagreement(
            result.values[name], expected["value"], expected["abs_tol"], expected["rel_tol"]
        )
        if reason:
            reasons[name] = reason
    assert not reasons
    json.loads(result.as_json())


@pytest.mark.shared_data
@pytest.mark.parametrize("case", ["combat_parametric", "combat_mean_only"])
def test_combat_agrees_with_the_whole_matrix_of_sva(case: str) -> None:
    """Elementwise to 1e-5, the tolerance that the case states for its expected matrix."""
    stats = SHARED_DATA / "stats"
    values = registry.run_case(stats / "cases" / f"{case}.json").values
    expected = pd.read_csv(stats / "data" / f"{case}_expected.csv").drop(columns="id")
    for feature in expected.columns:
        np.testing.assert_allclose(values[f"harmonized_{feature}"], expected[feature], atol=1e-5)
