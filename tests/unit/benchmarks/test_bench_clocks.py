"""The benchmark of the ruler finds threads that a row of one thread hides."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("cpu", "wall", "quiet", "wrong"),
    [
        (1.0, 1.0, "1", []),
        (1.2, 1.0, "", ["more CPU than one thread has"]),
        (1.0, 1.2, "", []),
        (1.0, 1.2, "1", ["waited for other programs"]),
    ],
)
def test_clocks_of_one_thread_must_agree(
    monkeypatch: pytest.MonkeyPatch, cpu: float, wall: float, quiet: str, wrong: list[str]
) -> None:
    """By a tenth; that the CPU falls behind is held against a row on a quiet machine only."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("VOXTRIAL_BENCH_QUIET", quiet)
    import bench_harmonize as bench

    both = bench.Both(cpu=cpu, wall=wall)
    monkeypatch.setattr(bench, "CLOCKS", {"linear": {"ours": both, "SimpleITK": bench.Both(cpu=9, wall=9)}})
    table = bench.Bench("clocks")
    found = bench.check_clocks(table)
    assert len(found) == len(wrong)
    assert all(text in line for text, line in zip(wrong, found, strict=True))
    by_wall = next(row for row in table.rows if row["name"] == "linear, by wall time")
    assert by_wall["ratio"] == pytest.approx(9 / wall)
