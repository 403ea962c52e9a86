"""Progress bars on long work: on a terminal, on standard error, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")


def is_shown() -> bool:
    """Return whether somebody sees the bars."""
    return Console(stderr=True).is_terminal


def progress() -> Progress:
    """Return a display of bars that stays silent when standard error is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def bar(items: Iterable[Item], description: str, *, total: int | None = None) -> Iterator[Item]:
    """Yield ``items`` while a bar shows how far they are."""
    with progress() as display:
        yield from display.track(items, total=total, description=description)
