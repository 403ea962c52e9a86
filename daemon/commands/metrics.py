"""``voxtrial metrics``: how two masks of the same image agree, in mm, with every definition named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtrial.daemon.errors import Refused

if TYPE_CHECKING:
    from voxtrial.daemon.volume import Grid, Mask


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("metrics")(metrics)


def metrics(
    reference: Annotated[Path, typer.Argument(help="Reference: SEG, RTSTRUCT or NIfTI.", show_default=False)],
    prediction: Annotated[
        Path, typer.Argument(help="Prediction: SEG, RTSTRUCT or NIfTI.", show_default=False)
    ],
    image: Annotated[
        Path | None,
        typer.Option(
            help="Image that both segment (folder of one series, or NIfTI): its grid is used. Needed for an "
            "RTSTRUCT without a NIfTI beside it; else the grid of the NIfTI or of the SEG frames is used."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Region to compare, by its name in both files; may be given several times."),
    ] = None,
    tolerance: Annotated[
        list[float], typer.Option(help="Tolerance of the surface Dice, mm; may be given several times.")
    ] = [2.0],  # noqa: B006 - typer copies it; a tuple would change the option's type
    minimum_iou: Annotated[
        float, typer.Option(help="Intersection over union from which on a lesion counts as found.")
    ] = 0.1,
    missing_is_empty: Annotated[
        bool, typer.Option("--missing-is-empty", help="Take a region that a file lacks as empty.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, one for each region.")
    ] = False,
) -> None:
    """Compare two masks: overlap, surface distances, surface Dice, volume error, lesions found.

    Regions are paired by name; where both files hold a single region, these are compared whatever their
    names. Distances are in mm. A value that does not exist (a distance to an empty mask) is null, and a note
    says why.
    """
    from voxtrial.daemon.dicom import masks

    for path in (reference, prediction, *([image] if image else [])):
        if not path.exists():
            raise Refused(f"There is no file {path}.", rule="no_such_file")
    grid, frame = _grid(reference, prediction, image)
    found = [masks.read(path, grid, frame_of_reference_uid=frame) for path in (reference, prediction)]
    for ours, theirs in _pairs(found[0], found[1], label, missing_is_empty):
        row = {
            "reference": ours.label,
            "prediction": theirs.label,
            "spacing_mm": grid.spacing_mm,
            **_compared(ours, theirs, tolerance, minimum_iou),
        }
        if as_json:
            typer.echo(json.dumps(row, ensure_ascii=False, allow_nan=False))
        else:
            _show(row)


def _grid(reference: Path, prediction: Path, image: Path | None) -> tuple[Grid, str]:
    """Return the grid to compare on, and its frame of reference where an image gives one."""
    from voxtrial.daemon.dicom import nifti, pixels, seg_grid

    if image is not None:
        volume = nifti.read_volume(image) if nifti.is_nifti(image) else pixels.read_folder(image)
        return volume.grid, volume.source.frame_of_reference_uid
    for path in (reference, prediction):
        if nifti.is_nifti(path):
            return nifti.read_volume(path).grid, ""
    segmentations = [path for path in (reference, prediction) if seg_grid.is_segmentation(path)]
    if not segmentations:
        raise Refused(
            "Contours have no grid of their own; give the image with --image.", rule="missing_geometry"
        )
    return seg_grid.common_grid(segmentations), ""


def _pairs(
    reference: Sequence[Mask],
    prediction: Sequence[Mask],
    wanted: Sequence[str] | None,
    missing_is_empty: bool,
) -> list[tuple[Mask, Mask]]:
    if not wanted and len(reference) == len(prediction) == 1:
        return [(reference[0], prediction[0])]
    by_name = [{mask.label: mask for mask in masks} for masks in (reference, prediction)]
    names = list(wanted or (by_name[0] | by_name[1]))
    pairs = []
    for name in names:
        ours, theirs = (side.get(name) for side in by_name)
        if ours is None and theirs is None:
            raise Refused(f"Neither file has a region {name!r}; {_listed(by_name)}", rule="no_such_region")
        if ours is None or theirs is None:
            if not missing_is_empty:
                side = "reference" if ours is None else "prediction"
                message = (
                    f"The {side} has no region {name!r}; {_listed(by_name)} (--missing-is-empty compares)"
                )
                raise Refused(message, rule="no_such_region")
            ours, theirs = ours or _empty_like(theirs), theirs or _empty_like(ours)
        pairs.append((ours, theirs))
    if not pairs:
        raise Refused("Neither file holds a region.", rule="empty_mask")
    return pairs


def _listed(by_name: Sequence[dict[str, Mask]]) -> str:
    return f"the reference has {sorted(by_name[0])}, the prediction {sorted(by_name[1])}."


def _empty_like(mask: Mask | None) -> Mask:
    from dataclasses import replace

    assert mask is not None
    return replace(mask, array=mask.array & False)


def _compared(
    reference: Mask, prediction: Mask, tolerances_mm: Sequence[float], minimum_iou: float
) -> dict[str, Any]:
    from voxtrial.validation.registry import presentable
    from voxtrial.validation.segmentation.lesions import lesion_detection
    from voxtrial.validation.segmentation.mask_agreement import segmentation_agreement

    spacing = reference.spacing_mm
    agreement = segmentation_agreement(reference.array, prediction.array, spacing, tolerances_mm)
    lesions = lesion_detection(reference.array, prediction.array, spacing, minimum_iou=minimum_iou)
    values, notes = presentable(agreement)
    found, lesion_notes = presentable(lesions)
    return {
        "values": values,
        "lesions": found,
        "notes": [*notes, *(f"lesions: {note}" for note in lesion_notes)],
    }


def _show(row: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    spacing = " x ".join(f"{step:g}" for step in row["spacing_mm"])
    title = f"{row['prediction']} against {row['reference']} (spacing {spacing} mm)"
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for part in ("values", "lesions"):
        for name, value in row[part].items():
            if not isinstance(value, list):
                table.add_row(name, "not defined" if value is None else f"{value:.6g}")
        table.add_section()
    console = Console()
    console.print(table)
    for note in row["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)
