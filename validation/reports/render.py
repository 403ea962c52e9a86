"""Document to JSON, HTML and PDF/A: the same document gives the same bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst
from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from voxtrial.validation.reports.figures import draw_all

_TEMPLATES = files("voxtrial.validation.reports") / "templates"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Where the three forms of one report are."""

    json: Path
    html: Path
    pdf: Path


def render(document: Mapping[str, Any], folder: Path) -> Rendered:
    """Write ``report.json``, ``report.html`` and ``report.pdf`` (PDF/A-2b) into ``folder``.

    The JSON is written first and read back: HTML and PDF hold nothing that the JSON does not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = Rendered(json=folder / "report.json", html=folder / "report.html", pdf=folder / "report.pdf")
    out.json.write_text(canonical(document), encoding="utf-8")
    document = json.loads(out.json.read_text(encoding="utf-8"))
    figures = draw_all(document["figures"])
    out.html.write_text(page("report.html", figures, report=document), encoding="utf-8")
    out.pdf.write_bytes(_pdf(document, figures))
    return out


def canonical(document: Mapping[str, Any]) -> str:
    """Return the document as the JSON text whose digest stands for the report; keys keep their order."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def shown(value: Any) -> str:
    """Return a value as a report prints it: four significant digits, "not defined" for None."""
    if value is None:
        return "not defined"
    if isinstance(value, list):
        return ", ".join(shown(v) for v in value[:12]) + (" …" if len(value) > 12 else "")
    if isinstance(value, float):
        if value == int(value) and abs(value) < 1e6:
            return str(int(value))
        return f"{value:.4g}"
    return str(value)


def page(template: str, figures: Mapping[str, str], **values: Any) -> str:
    """Return a page of the house from the file ``template``.

    Parameters
    ----------
    figures
        SVG by title, our own drawings.
    values
        What the template reads besides ``figures``.
    """
    environment = Environment(
        loader=FunctionLoader(lambda name: (_TEMPLATES / name).read_text(encoding="utf-8")),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    drawings = {name: Markup(svg[svg.index("<svg") :]) for name, svg in figures.items()}  # noqa: S704 - our own drawing
    return environment.get_template(template).render(figures=drawings, **values)


def _pdf(document: Mapping[str, Any], figures: Mapping[str, str]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "report.typ").write_text(
            (_TEMPLATES / "report.typ").read_text(encoding="utf-8"), encoding="utf-8"
        )
        printed = {**document, "figure_files": [], "printed": _printed(document)}
        for number, (title, svg) in enumerate(figures.items()):
            (root / f"figure{number}.svg").write_text(svg, encoding="utf-8")
            printed["figure_files"].append({"title": title, "file": f"figure{number}.svg"})
        (root / "report.json").write_text(json.dumps(printed), encoding="utf-8")
        content: bytes = typst.compile(
            str(root / "report.typ"),
            root=str(root),
            format="pdf",
            pdf_standards=["a-2b"],
            timestamp=int(datetime.fromisoformat(document["created"]).timestamp()),
        )
    return content


def _printed(document: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Return the values of every endpoint as printed text, so that both forms print the same digits."""
    return {
        endpoint["id"]: [[name, shown(value)] for name, value in endpoint["values"].items()]
        for endpoint in document["endpoints"]
    }
