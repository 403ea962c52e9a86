"""Make one report from one registered protocol, record it, and show its verdicts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from voxtrial.db import audit
from voxtrial.db.base import utc_now
from voxtrial.validation import cohort
from voxtrial.validation.protocol import Protocol
from voxtrial.validation.reports import document
from voxtrial.validation.reports.render import Rendered, render, shown

_STYLES = {"met": "bold green", "not met": "bold red", "not evaluable": "bold yellow"}


def make_report(
    session: Session, protocol: str, *, data: Path, site: str, folder: Path, actor: str
) -> Rendered:
    """Compute, render and record the report of a registered protocol.

    Parameters
    ----------
    protocol
        Name or digest.
    data
        Folder below which the daemon keeps regions.
    folder
        Folder of the report; its evidence goes below it.

    Raises
    ------
    ProtocolError
        The protocol is not registered, or an endpoint cannot be read.
    """
    row = cohort.find(session, protocol)
    frozen = cohort.load(session, row, data)
    plan = Protocol.from_document(row.document)
    rendered = render(document.build(frozen, plan, folder, site=site, now=utc_now()), folder)
    digest = hashlib.sha256(rendered.json.read_bytes()).hexdigest()
    cohort.record_run(session, frozen, digest, rendered.json)
    audit.record(session, actor=actor, action="report made", subject=row.name, sha256=digest)
    return rendered


def print_verdicts(rendered: Rendered) -> None:
    """Print the verdict table and where the report is."""
    report = json.loads(rendered.json.read_text(encoding="utf-8"))
    table = Table(title=report["title"])
    for column in ("endpoint", "criterion", "values", "n", "verdict"):
        table.add_column(column, overflow="fold")
    for endpoint in report["endpoints"]:
        values = ", ".join(f"{k} {shown(v)}" for k, v in list(endpoint["values"].items())[:4])
        verdict = endpoint["verdict"]
        styled = f"[{_STYLES[verdict]}]{verdict}[/]" if verdict else ""
        table.add_row(
            endpoint["title"],
            endpoint["criterion"],
            values or "; ".join(endpoint["notes"]),
            str(endpoint.get("n", "")),
            styled,
        )
    console = Console()
    console.print(table)
    console.print(f"Conclusion: {report['conclusion']} ({report['flow']['received']} studies received)")
    for path in (rendered.html, rendered.pdf, rendered.json):
        console.print(str(path), soft_wrap=True)
