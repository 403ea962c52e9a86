"""A protocol is locked by what it says, not by how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voxtrial.validation.protocol import Protocol, ProtocolError

PLAN = """
name = "plan"
title = "A plan"
model = "nodule-phantom"
[reference]
reader = "consensus"
[[endpoints]]
id = "dice"
title = "Mean Dice"
statistic = "bootstrap_bca"
inputs = { numerator = "dice" }
criterion = "ci_low(estimate) > 0.8"
"""


def loaded(folder: Path, text: str) -> Protocol:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return Protocol.load(path)


def test_layout_and_comments_do_not_change_the_digest(tmp_path: Path) -> None:
    rewritten = PLAN.replace('title = "A plan"\nmodel', '# why\n\ntitle="A plan"\nmodel')
    assert loaded(tmp_path, PLAN).digest == loaded(tmp_path, rewritten).digest


def test_a_default_that_is_written_out_does_not_change_the_digest(tmp_path: Path) -> None:
    written = PLAN.replace('name = "plan"', 'name = "plan"\nsurface_tolerance_mm = 1.0')
    assert loaded(tmp_path, PLAN).digest == loaded(tmp_path, written).digest


@pytest.mark.parametrize(
    ("before", "after"),
    [("0.8", "0.79"), ("consensus", "reader 1"), ('"dice"', '"dice2"'), ("A plan", "B plan")],
)
def test_any_change_of_content_changes_the_digest(tmp_path: Path, before: str, after: str) -> None:
    assert loaded(tmp_path, PLAN).digest != loaded(tmp_path, PLAN.replace(before, after, 1)).digest


def test_canonical_form_reads_back_as_the_same_plan(tmp_path: Path) -> None:
    plan = loaded(tmp_path, PLAN)
    assert Protocol.from_document(plan.document()) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("bootstrap_bca", "bootstrap_bc"), "did you mean bootstrap_bca"),
        (("ci_low(estimate) > 0.8", "estimate is high"), "no criterion"),
        (("[reference]\nreader", "[reference]\nraeder"), "raeder"),
        (('model = "nodule-phantom"\n', ""), "model"),
        (("[reference]", "[reference"), "not valid TOML"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ProtocolError, match=message) as caught:
        loaded(tmp_path, PLAN.replace(*change))
    assert "\n" not in str(caught.value)


def test_two_endpoints_of_one_id_are_refused(tmp_path: Path) -> None:
    twice: Any = PLAN + PLAN[PLAN.index("[[endpoints]]") :]
    with pytest.raises(ProtocolError, match="share an id"):
        loaded(tmp_path, twice)
