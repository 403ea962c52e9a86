"""``voxtrial run`` and ``replay``: one job without a daemon, and one job again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from voxtrial.daemon.commands.site import AsJson, ConfigFile


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("run")(run)
    app.command("replay")(replay)


def run(
    model: Annotated[
        str, typer.Argument(help="Name or digest of a model, or its folder.", show_default=False)
    ],
    source: Annotated[
        Path, typer.Argument(help="Folder of DICOM files of one study.", exists=True, file_okay=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder that SEG and SR are written into.")] = Path(
        "results"
    ),
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Run one model over one study, without a daemon: DICOM folder in, Segmentation and report out."""
    from rich.console import Console

    from voxtrial.daemon.models.store import ModelStore, open_folder
    from voxtrial.daemon.settings import load
    from voxtrial.daemon.single import run_folder

    settings = load(config)
    stored = (
        open_folder(Path(model))
        if Path(model).is_dir()
        else ModelStore(settings.site.data / "models").get(model)
    )
    console = Console(stderr=True)
    with console.status("") as status:
        output = run_folder(
            stored,
            source,
            out,
            site=settings.site.name,
            threads=settings.compute.threads,
            report_step=status.update,
        )
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "objects": [{"kind": o.kind, "path": o.path, "sha256": o.sha256} for o in output.objects],
                    "measurements": [
                        {"roi": m.roi, "name": m.concept_meaning, "value": m.value, "unit": m.unit}
                        for m in output.measurements
                    ],
                    "seconds": output.seconds,
                },
                indent=2,
            )
        )
        return
    for measured in output.measurements:
        typer.echo(f"finding {measured.roi}: {measured.concept_meaning} {measured.value:.4g} {measured.unit}")
    if not output.measurements:
        typer.echo("No finding; the report says so.")
    for stored_object in output.objects:
        typer.echo(f"{stored_object.kind} {stored_object.path}")


def replay(
    job: Annotated[int, typer.Argument(help="Number of the job.", show_default=False)],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Run a finished job again from the stored bytes: the same objects, or the difference.

    Exit status 1 when an object differs.
    """
    from voxtrial.daemon.commands.site import database
    from voxtrial.daemon.single import replay_job
    from voxtrial.db.engine import sessions

    with database(config) as (settings, engine), sessions(engine)() as session:
        comparisons = replay_job(session, job, settings)
    if as_json:
        typer.echo(json.dumps([c.as_json() for c in comparisons], indent=2))
    else:
        for compared in comparisons:
            verdict = "same bytes" if compared.same else f"DIFFERS: {compared.difference}"
            typer.echo(f"{compared.kind} {compared.sop_instance_uid}: {verdict}")
    if not all(c.same for c in comparisons):
        raise typer.Exit(1)
