"""Write the reference pages from the code: settings, commands, states. ``make docs`` runs it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
import typer.main
from pydantic import BaseModel

from voxtrial.daemon.cli import app
from voxtrial.daemon.models.manifest import Manifest
from voxtrial.daemon.network.conformance import statement
from voxtrial.daemon.settings import Settings
from voxtrial.db import states

DOCS = Path(__file__).parents[2] / "docs"
HEADER = "<!-- Written by `make docs` from the code. -->\n\n"


def settings_page() -> str:
    """Return every key of the configuration with its default and what it does."""
    lines = [HEADER + "# Settings\n"]
    for name, section in _sections(Settings):
        lines.append(
            f"\n## [{name}]\n\n{(section.__doc__ or '').strip()}\n\n| key | default | |\n|---|---|---|\n"
        )
        for key, field in section.model_fields.items():
            if _section_of(field.annotation) is not None and name != "":
                shown = "a table"
            else:
                shown = "required" if field.is_required() else f"`{field.default!r}`"
            lines.append(f"| `{key}` | {shown} | {field.description or ''} |\n")
    return "".join(lines)


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None:
            yield f"{prefix}{key}", section
            yield from _sections(section, f"{prefix}{key}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None


def commands_page() -> str:
    """Return the help of every command."""
    lines = [HEADER + "# Commands\n"]
    for name, command in _commands(typer.main.get_command(app), "voxtrial"):
        lines.append(f"\n## {name}\n\n{_unwrapped(command.help)}\n\n")
        context = typer.Context(command, info_name=name)
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record is None:
                shown, text = parameter.make_metavar(context), getattr(parameter, "help", "") or ""
            else:
                shown, text = record
            lines.append(f"- `{shown}` {' '.join(text.split())}\n")
    return "".join(lines)


def _unwrapped(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for key, child in sorted(children.items()):
        yield from _commands(child, f"{name} {key}")


def states_page() -> str:
    """Return every state with who moves it on, and where it can go."""
    tables: Mapping[str, Mapping[Any, frozenset[Any]]] = {
        "Study version": states.STUDY_TRANSITIONS,
        "Job": states.JOB_TRANSITIONS,
        "Delivery": states.DELIVERY_TRANSITIONS,
    }
    lines = [HEADER + "# States\n"]
    for title, table in tables.items():
        lines.append(f"\n## {title}\n\n| state | next |\n|---|---|\n")
        for before, after in table.items():
            lines.append(f"| {before} | {', '.join(sorted(after)) or 'final'} |\n")
    return "".join(lines)


def model_page() -> str:
    """Return every key of ``model.toml``."""
    lines = [HEADER + "# model.toml\n"]
    for name, section in _sections(Manifest):
        purpose = inspect.cleandoc(section.__doc__ or "")
        lines.append(f"\n## {name}\n\n{purpose}\n\n| key | default | |\n|---|---|---|\n")
        for key, field in section.model_fields.items():
            default = "empty" if field.default_factory else f"`{field.default!r}`"
            shown = "required" if field.is_required() else default
            lines.append(f"| `{key}` | {shown} | {field.description or ''} |\n")
    return "".join(lines)


def conformance_page() -> str:
    """Return the conformance statement of the default configuration."""
    return HEADER + statement(Settings())


PAGES = {
    "conformance/dicom.md": conformance_page,
    "reference/commands.md": commands_page,
    "reference/model_toml.md": model_page,
    "reference/settings.md": settings_page,
    "reference/states.md": states_page,
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (DOCS / file).parent.mkdir(parents=True, exist_ok=True)
        (DOCS / file).write_text(page(), encoding="utf-8")
