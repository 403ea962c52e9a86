"""A benchmark says whether its targets are met, and the hospital day fails when a study is not confirmed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from kill_verdict import Verdict

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark of the hospital day."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_day

    return bench_day


def test_target_is_of_the_ratio_where_there_is_a_peer_and_of_the_value_where_there_is_none(
    day: ModuleType,
) -> None:
    bench = day.Bench("example")
    bench.add("half of the peer", 5.0, "s", peer="peer", peer_value=10.0, target=0.4)
    bench.add("peer without a figure", 5.0, "s", peer="peer", peer_value=None, target=0.4)
    bench.add("none is allowed", 0, "1", target=0)
    bench.add("one too many", 1, "1", target=0)
    bench.add("without a target", 1, "1")
    assert [row["met"] for row in bench.rows] == [False, None, True, False, None]
    assert bench.missed == ["half of the peer", "one too many"]


@pytest.mark.parametrize(
    ("verdict", "confirmed", "missed"),
    [
        (Verdict(), 1000, []),
        (Verdict(), 999, ["studies confirmed"]),
        (Verdict(lost=1), 1000, ["studies lost"]),
        (Verdict(duplicated=1, stuck=1), 1000, ["studies duplicated", "studies stuck"]),
    ],
)
def test_day_is_not_met_when_a_study_is_lost_doubled_stuck_or_unconfirmed(
    day: ModuleType, verdict: Verdict, confirmed: int, missed: list[str]
) -> None:
    bench = day.Bench("day")
    day.count(bench, verdict, confirmed)
    assert bench.missed == missed


@pytest.mark.parametrize(("verdict", "met"), [(Verdict(), True), (Verdict(stuck=1), False)])
def test_day_ends_with_a_status_that_says_whether_it_was_met(
    day: ModuleType, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, met: bool
) -> None:
    """The exit status of ``make bench-day``; the day itself is replaced by its outcome."""

    def report(site: object, backlog: object) -> object:
        bench = day.Bench("day")
        day.count(bench, verdict, day.STUDIES)
        return bench

    monkeypatch.setattr(day, "live_through", lambda site: {})
    monkeypatch.setattr(day, "report", report)
    if met:
        day.main()
    else:
        with pytest.raises(SystemExit, match="studies stuck"):
            day.main()
