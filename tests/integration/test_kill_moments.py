"""Kill -9 at any moment: nothing lost, nothing twice, nothing stuck.

The numbers are printed. CI kills 27 times on each database beside the kills at every transition
(``test_kill_transitions.py``); the nightly form more than a thousand times, in parts that can be run one by
one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_daemon import ServedSite
from kill_harness import Site
from kill_verdict import NO_FAULTS, open_rows
from peers import orthanc

KILLS_A_PART = 125
PARTS = range(8)
DAEMON_KILLS_A_PART = 10

pytestmark = pytest.mark.faults


@pytest.fixture
def served_site(tmp_path: Path, database_url: str) -> Iterator[ServedSite]:
    with orthanc(tmp_path / "orthanc") as pacs:
        yield ServedSite(tmp_path, database_url, pacs)


@pytest.mark.timeout(600)
def test_killed_twenty_four_times_at_any_moment(site: Site, told) -> None:
    site.kill_at_random(24, random.Random(20261121))
    assert told(site.settle(), open_rows(site.engine)).faults == NO_FAULTS


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_killed_a_thousand_times_at_any_moment(site: Site, part: int, told) -> None:
    site.kill_at_random(KILLS_A_PART, random.Random(part))
    assert told(site.settle(), open_rows(site.engine)).faults == NO_FAULTS


@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.timeout(600)
def test_whole_daemon_killed_three_times_between_scanner_and_pacs(served_site: ServedSite, told) -> None:
    served_site.kill_at_random(3, random.Random(20261121))
    assert told(served_site.settle(), served_site.open_rows()).faults == NO_FAULTS


@pytest.mark.nightly
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_whole_daemon_killed_eighty_times_between_scanner_and_pacs(
    served_site: ServedSite, part: int, told
) -> None:
    served_site.kill_at_random(DAEMON_KILLS_A_PART, random.Random(part))
    assert told(served_site.settle(), served_site.open_rows()).faults == NO_FAULTS
