"""Kill -9 at every transition and at any moment: nothing lost, nothing twice, nothing stuck.

The numbers are printed. CI kills about seventy times on each database; the nightly form more than a thousand
times, in parts that can be run one by one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_daemon import ServedSite
from kill_harness import Site, Verdict, open_rows
from kill_points import EVERY_POINT
from peers import orthanc

KILLS_A_PART = 125
PARTS = range(8)
DAEMON_KILLS_A_PART = 10

pytestmark = pytest.mark.faults


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    site = Site(tmp_path, database_url)
    yield site
    site.close()


@pytest.fixture
def served_site(tmp_path: Path, database_url: str) -> Iterator[ServedSite]:
    with orthanc(tmp_path / "orthanc") as pacs:
        yield ServedSite(tmp_path, database_url, pacs)


@pytest.fixture
def accept(dialect: str, capsys: pytest.CaptureFixture[str]):
    """Print a verdict, and require that it is spotless."""

    def check(verdict: Verdict, still_open: list[str]) -> None:
        with capsys.disabled():
            print(f"\n{dialect}: {verdict}", *still_open, sep="\n    ")
        assert (verdict.lost, verdict.duplicated, verdict.stuck) == (0, 0, 0)

    return check


@pytest.mark.timeout(600)
def test_killed_at_every_transition_before_and_after_the_commit(site: Site, accept) -> None:
    for point in EVERY_POINT:
        site.kill_at(point)
    accept(site.settle(), open_rows(site.engine))


@pytest.mark.timeout(600)
def test_killed_twenty_four_times_at_any_moment(site: Site, accept) -> None:
    site.kill_at_random(24, random.Random(20261121))
    accept(site.settle(), open_rows(site.engine))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_killed_a_thousand_times_at_any_moment(site: Site, part: int, accept) -> None:
    site.kill_at_random(KILLS_A_PART, random.Random(part))
    accept(site.settle(), open_rows(site.engine))


@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.timeout(600)
def test_whole_daemon_killed_three_times_between_scanner_and_pacs(served_site: ServedSite, accept) -> None:
    served_site.kill_at_random(3, random.Random(20261121))
    accept(served_site.settle(), served_site.open_rows())


@pytest.mark.nightly
@pytest.mark.peer("orthanc")
@pytest.mark.peer("dcmtk")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_whole_daemon_killed_eighty_times_between_scanner_and_pacs(
    served_site: ServedSite, part: int, accept
) -> None:
    served_site.kill_at_random(DAEMON_KILLS_A_PART, random.Random(part))
    accept(served_site.settle(), served_site.open_rows())
