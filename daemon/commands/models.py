"""``voxtrial models``: which models this site holds, and that they are still the ones that were locked."""

from __future__ import annotations

import json
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from voxtrial.daemon.models.store import ModelStore, StoredModel

Config = Annotated[
    Path | None,
    typer.Option("--config", help="voxtrial.toml; without it the defaults and VOXTRIAL_... hold."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

group = typer.Typer(no_args_is_help=True, help="Models: list, show, verify, add.")


class Form(StrEnum):
    """What a folder that is added holds."""

    VOXTRIAL = "voxtrial"
    MESHNET = "meshnet"


def add_to(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="models")


@group.command("list")
def list_models(config: Config = None, as_json: AsJson = False) -> None:
    """List the models: the built-in ones and those that were added."""
    models = [_summary(model) for model in _store(config).list()]
    if as_json:
        typer.echo(json.dumps(models, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "version", "digest", "inputs", "outputs", "", box=None, pad_edge=False)
    for model in models:
        table.add_row(
            model["name"],
            model["version"],
            model["digest"][:12],
            ", ".join(model["inputs"]),
            str(len(model["outputs"])),
            "built-in" if model["builtin"] else "",
        )
    Console().print(table)


@group.command("show")
def show(
    model: Annotated[str, typer.Argument(help="Name, name@version, or digest (eight digits are enough).")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model says of itself: use, inputs, tiling, outputs, operating points, and its card."""
    found = _store(config).get(model)
    if as_json:
        typer.echo(
            json.dumps(_summary(found) | {"manifest": found.manifest.model_dump(mode="json")}, indent=2)
        )
        return
    training = found.manifest.training
    typer.echo(f"{found.manifest.title}\ndigest         {found.digest}\nrecipe digest  {found.recipe_digest}")
    typer.echo(f"folder         {found.folder}\nuse            {found.manifest.identity.intended_use}")
    typer.echo(f"licence        {found.manifest.identity.licence}")
    if training and training.receptive_field_mm:
        extent = " x ".join(f"{mm:g}" for mm in training.receptive_field_mm)
        typer.echo(f"sees           {extent} mm around each voxel (z, y, x)")
    for point in found.manifest.operating_points:
        typer.echo(f"{point.name:14} {point.score} >= {point.threshold:g}, {point.rule}")
    card = found.folder / "card.md"
    typer.echo("\n" + (card if card.is_file() else found.folder / "model.toml").read_text("utf-8"))


@group.command("verify")
def verify(
    model: Annotated[str, typer.Argument(help="Name or digest; without it every model is verified.")] = "",
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Compute the digests again from the bytes on disk; exit status 1 when a model is not what was locked."""
    from voxtrial.daemon.errors import Fatal

    store = _store(config)
    found = [store.get(model)] if model else store.list()
    report = []
    for one in found:
        problem = ""
        try:
            store.verify(one.digest)
        except Fatal as error:
            problem = str(error)
        report.append({"name": one.manifest.title, "digest": one.digest, "problem": problem})
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        for line in report:
            typer.echo(f"{line['digest'][:12]}  {line['name']}: {line['problem'] or 'as locked'}")
    if any(line["problem"] for line in report):
        raise typer.Exit(1)


@group.command("add")
def add(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of the model.")],
    form: Annotated[
        Form,
        typer.Option(
            "--from",
            help="voxtrial: model.toml beside weights. meshnet: JSON description beside safetensors.",
        ),
    ] = Form.VOXTRIAL,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Copy a model into the store, whole or not at all, and print its digest."""
    from voxtrial.daemon.models.meshnet_import import convert

    store = _store(config)
    if form is Form.MESHNET:
        with tempfile.TemporaryDirectory() as converted:
            convert(folder, Path(converted))
            model = store.add(Path(converted))
    else:
        model = store.add(folder)
    typer.echo(
        json.dumps(_summary(model), indent=2) if as_json else f"{model.digest}  {model.manifest.title}"
    )


def _store(config: Path | None) -> ModelStore:
    from voxtrial.daemon import settings
    from voxtrial.daemon.models.store import ModelStore

    return ModelStore(settings.load(config).site.data / "models")


def _summary(model: StoredModel) -> dict[str, Any]:
    identity = model.manifest.identity
    return {
        "name": identity.name,
        "version": identity.version,
        "digest": model.digest,
        "recipe_digest": model.recipe_digest,
        "builtin": model.builtin,
        "folder": str(model.folder),
        "description": identity.description,
        "inputs": [one.role for one in model.manifest.inputs],
        "outputs": [one.name for one in model.manifest.outputs],
    }
