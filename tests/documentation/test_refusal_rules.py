"""Every rule that can refuse an input is explained to the operator."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_every_rule_of_the_reader_is_explained():
    sources = (REPOSITORY / "daemon/dicom").glob("*.py")
    rules = {
        rule for path in sources for rule in re.findall(r'rule="(\w+)"', path.read_text(encoding="utf-8"))
    }
    page = (REPOSITORY / "docs/explanation/reading.md").read_text(encoding="utf-8")
    assert len(rules) > 30
    assert {rule for rule in rules if f"`{rule}`" not in page} == set()
