"""Rows on standard output: a table for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voxtrial.db.overview import Happening

WIDE = 1000
"""Columns of a table: no cell is cut or wrapped, so that a row is one line for grep."""
PAUSE_SECONDS = 1.0
LONG_PAUSE_SECONDS = 60.0


def show(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: all their fields as one JSON array, or some columns as a table."""
    if as_json:
        sys.stdout.write(json.dumps(list(rows), indent=2, default=str) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    Console(width=WIDE, soft_wrap=True).print(table, crop=False)


def show_fields(fields: Mapping[str, Any]) -> None:
    """Print the fields of one row, those that say something."""
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        if value not in ("", None, [], {}):
            sys.stdout.write(f"{name.replace('_', ' '):<{width}}  {_shown(value)}\n")


def show_one(
    fields: Mapping[str, Any],
    happenings: Sequence[Happening],
    *,
    as_json: bool,
    only_json: Sequence[str] = (),
) -> None:
    """Print one row and its timeline; ``only_json`` names fields that are too long for people."""
    if as_json:
        timeline = [asdict(happening) for happening in happenings]
        sys.stdout.write(json.dumps({**fields, "timeline": timeline}, indent=2, default=str) + "\n")
        return
    show_fields({name: value for name, value in fields.items() if name not in only_json})
    sys.stdout.write("\n")
    draw_timeline(happenings)


def draw_timeline(happenings: Sequence[Happening]) -> None:
    """Draw what happened, downwards in time; the gap between two events is how long it took."""
    for before, now in zip([None, *happenings[:-1]], happenings, strict=True):
        pause = (now.at - before.at).total_seconds() if before else 0.0
        if pause >= PAUSE_SECONDS:
            sys.stdout.write(f"{'':>14}│ {_duration(pause)}\n")
        what = f"{now.before} → {now.after}" if now.before else now.after
        why = f"  ({now.reason})" if now.reason else ""
        by = f"  by {now.actor}" if now.actor else ""
        sys.stdout.write(f"{now.at.astimezone():%m-%d %H:%M:%S}● {now.subject}: {what}{why}{by}\n")


def _duration(seconds: float) -> str:
    if seconds < LONG_PAUSE_SECONDS:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
