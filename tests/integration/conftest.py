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
def told(
    dialect: str, record_property: Callable[[str, object], None]
) -> Callable[[Verdict, list[str]], Verdict]:
    """Return a verdict, kept with what is open for the end of the run, where it is printed."""

    def keep(verdict: Verdict, still_open: list[str]) -> Verdict:
        record_property(REPORTED, "\n    ".join([f"{dialect}: {verdict}", *still_open]))
        return verdict

    return keep
