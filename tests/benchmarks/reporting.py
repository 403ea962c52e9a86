"""One table and one JSON file for each benchmark, with the machine and the versions beside the numbers."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

BUILD = Path(__file__).parents[2] / "build" / "bench"


def interleaved(runs: dict[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """Run every callable once a round, in turn, after one warm-up; return the median seconds of each."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Bench:
    """Rows of one benchmark.

    ``ratio`` is value / peer_value. A target is met when the ratio is at most the target, or at least it
    where ``higher_is_better``. Where there is no peer, the target is one of the value itself.
    """

    def __init__(self, name: str, packages: Sequence[str] = ()) -> None:
        self.name = name
        self.packages = ("voxtrial", *packages)
        self.rows: list[dict[str, object]] = []

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        peer: str = "",
        peer_value: float | None = None,
        target: float | None = None,
        higher_is_better: bool = False,
        ratio: float | None = None,
    ) -> None:
        """Add a row; ``ratio`` overrides value / peer_value, e.g. for a speed-up (peer_value / value)."""
        if ratio is None and peer_value:
            ratio = value / peer_value
        met = None
        measured = value if ratio is None and not peer else ratio
        if measured is not None and target is not None:
            met = measured >= target if higher_is_better else measured <= target
        self.rows.append(
            {
                "name": name,
                "value": value,
                "unit": unit,
                "peer": peer,
                "peer_value": peer_value,
                "ratio": ratio,
                "target": target,
                "met": met,
            }
        )

    def add_speedup(
        self, name: str, seconds: float, peer: str, peer_seconds: float, target: float | None
    ) -> None:
        """Add a row whose ratio says how many times faster than the peer we are."""
        self.add(
            name,
            seconds,
            "s",
            peer=peer,
            peer_value=peer_seconds,
            target=target,
            higher_is_better=True,
            ratio=peer_seconds / seconds,
        )

    @property
    def missed(self) -> list[str]:
        """Names of the rows whose target is not met."""
        return [str(row["name"]) for row in self.rows if row["met"] is False]

    def finish(self) -> Path:
        """Print the table, write ``build/bench/NAME.json`` and return its path."""
        table = Table(title=f"bench-{self.name}")
        for column in ("name", "value", "unit", "peer", "peer value", "ratio", "target", "met"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(*(_shown(value) for value in row.values()))
        Console(width=140).print(table)
        BUILD.mkdir(parents=True, exist_ok=True)
        path = BUILD / f"{self.name}.json"
        document = {
            "machine": {
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "system": platform.platform(),
                "load": os.getloadavg(),
            },
            "versions": {"python": platform.python_version(), **_versions(self.packages)},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows": self.rows,
        }
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return path


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
