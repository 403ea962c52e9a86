"""A site whose processes are killed, and what is asked of it in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kill_harness import Site
from kill_verdict import REPORTED, Verdict


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    """A site without a study, on SQLite and on PostgreSQL in turn."""
    site = Site(tmp_path, database_url)
    yield site
    site.close()


@pytest.fixture
def accept(
    dialect: str, record_property: Callable[[str, object], None]
) -> Callable[[Verdict, list[str]], None]:
    """Keep a verdict and what is open for the end of the run, and require that the verdict is spotless."""

    def check(verdict: Verdict, still_open: list[str]) -> None:
        record_property(REPORTED, "\n    ".join([f"{dialect}: {verdict}", *still_open]))
        assert (verdict.lost, verdict.duplicated, verdict.stuck) == (0, 0, 0)

    return check
