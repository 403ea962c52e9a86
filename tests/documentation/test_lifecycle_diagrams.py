"""The diagrams of the life cycle draw what the state machine allows, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from state_machine import MACHINES, Transition, every_transition

PAGE = Path(__file__).parents[2] / "docs/explanation/job-lifecycle.md"


def test_diagrams_have_the_edges_of_the_state_machine() -> None:
    """One diagram for a study version, a job and a delivery, in this order; each edge stands once."""
    diagrams = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    drawn = [
        Transition(subject, before.replace("[*]", ""), after)
        for subject, diagram in zip(MACHINES, diagrams, strict=True)
        for before, after in re.findall(r"^ +(\S+) --> (\w+): .+$", diagram, re.MULTILINE)
    ]
    assert sorted(drawn) == sorted(every_transition())
