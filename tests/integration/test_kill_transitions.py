"""Kill -9 at every transition of the state machine: nothing lost, nothing twice, nothing stuck.

The numbers are printed. ``test_kill_moments.py`` kills at any moment.
"""

from __future__ import annotations

from collections import Counter

import pytest
from kill_harness import Site
from kill_verdict import NO_FAULTS, open_rows
from kill_ways import EVERY_POINT
from state_machine import MACHINES, every_transition

pytestmark = pytest.mark.faults


def test_every_transition_of_the_state_machine_is_aimed_at_before_and_after_its_commit() -> None:
    """The transitions are read from the tables of the code: a new one fails here until a way leads to it."""
    aimed: dict[object, set[str]] = {transition: set() for transition in every_transition()}
    for point in EVERY_POINT:
        aimed[point.transition].add(point.moment)
    assert Counter(map(frozenset, aimed.values())) == {frozenset({"before", "after"}): len(aimed)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("subject", MACHINES)
def test_killed_at_every_transition_before_and_after_the_commit(site: Site, subject: str, told) -> None:
    """Each victim proves where it died: other connections saw the old state, or the new one."""
    for point in EVERY_POINT:
        if point.transition.subject == subject:
            site.kill_at(point)
    assert told(site.verdict(), open_rows(site.engine)).faults == NO_FAULTS
