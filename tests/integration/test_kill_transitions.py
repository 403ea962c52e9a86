"""Kill -9 at every transition and at any moment: nothing lost, nothing twice, nothing stuck.

The numbers are printed; the nightly form kills a thousand times on each database.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_harness import EVERY_POINT, Site


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    site = Site(tmp_path, database_url)
    yield site
    site.close()


def judge(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = site.settle()
    with capsys.disabled():
        print(f"\n{site.engine.dialect.name}: {verdict}")
    assert (verdict.lost, verdict.duplicated, verdict.stuck) == (0, 0, 0)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_killed_at_every_transition_before_and_after_the_commit(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    for point in EVERY_POINT:
        site.kill_at(point)
    judge(site, capsys)


@pytest.mark.faults
@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_killed_a_thousand_times_at_any_moment(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.kill_at_random(1000, random.Random(20261121))
    judge(site, capsys)
