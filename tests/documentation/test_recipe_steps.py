"""Every step, parameter and refusal of a recipe is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from voxtrial.daemon.harmonize.envelope import MEASURED
from voxtrial.daemon.harmonize.intensity import REGIONS
from voxtrial.daemon.harmonize.recipe import KNOWN_STEPS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/harmonization.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", KNOWN_STEPS)
def test_step_is_listed_with_all_its_parameters(step: str) -> None:
    (row,) = re.findall(rf"^\| `{step}` \|.*$", PAGE, re.MULTILINE)
    parameters = set(KNOWN_STEPS[step].model_fields) - {"step", "reason"}
    assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == parameters


@pytest.mark.parametrize(("room", "page"), [("harmonize", "harmonization"), ("measure", "measurement")])
def test_every_refusal_is_explained(room: str, page: str) -> None:
    text = (ROOT / f"docs/explanation/{page}.md").read_text(encoding="utf-8")
    sources = (ROOT / "daemon" / room).glob("*.py")
    rules = {r for path in sources for r in re.findall(r'rule="(\w+)"', path.read_text(encoding="utf-8"))}
    assert len(rules) > 5
    assert {rule for rule in rules if f"`{rule}`" not in text} == set()


def test_every_region_and_measured_fact_is_named() -> None:
    assert {name for name in (*REGIONS, *MEASURED) if f"`{name}`" not in PAGE} == set()
