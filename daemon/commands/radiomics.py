"""``voxtrial radiomics``: IBSI features of a region in one image, and the proof that they are IBSI's."""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtrial.daemon.commands.radiomics_stability import radiomics_stability
from voxtrial.daemon.errors import Refused

if TYPE_CHECKING:
    from voxtrial.daemon.radiomics.certificate import Certificate, Summary
    from voxtrial.daemon.radiomics.configuration import Configuration
    from voxtrial.daemon.radiomics.extract import Features
    from voxtrial.daemon.volume import Mask, Volume

COLUMNS = ("config", "family", "feature", "ibsi_id", "aggregation_id", "value")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("radiomics")(radiomics)
    app.command("radiomics-certificate")(radiomics_certificate)
    app.command("radiomics-stability")(radiomics_stability)


def radiomics(
    image: Annotated[
        Path, typer.Argument(help="Folder with one DICOM series, or NIfTI.", show_default=False)
    ],
    mask: Annotated[Path, typer.Argument(help="RTSTRUCT, SEG or NIfTI.", show_default=False)],
    config: Annotated[str, typer.Option(help="IBSI configuration A, B, C, D or E, or a TOML file.")] = "C",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output without it.")
    ] = None,
    roi: Annotated[
        str | None, typer.Option(help="Name of the region, when the mask file holds several.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON with digest and notes instead of CSV.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML page to write: region on the image, features, IBSI conformance."),
    ] = None,
) -> None:
    """Compute all IBSI 1 features of one region, each with its IBSI identifier.

    CSV columns are config, family, feature, ibsi_id, aggregation_id and value. A feature that the region does
    not have (the correlation of a constant) is nan, in JSON null, and a note says so.
    """
    from voxtrial.daemon.radiomics.configuration import load

    configuration = load(config)
    volume = read_image(image)
    region = read_region(mask, volume, roi)
    features = _extract_with_progress(volume, region, configuration)
    text = _as_json(features, region) if as_json else _as_csv(features)
    write_text(text, output, f"{len(features)} features")
    if report is not None:
        from voxtrial.daemon.radiomics.certificate import shipped
        from voxtrial.daemon.radiomics.report import features_page

        page = features_page(features, volume, region, shipped(), now=datetime.now(UTC))
        write_text(page, report, "Report")
    if not as_json:
        for note in features.notes:
            typer.echo(f"note: {note}", err=True)


def radiomics_certificate(
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="CSV of published values: dataset, family, feature, ibsi_id, aggregation_id, value, "
            "tolerance. May be given several times.",
            show_default=False,
        ),
    ] = None,
    digital_phantom: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="IMAGE and MASK of the IBSI digital phantom.", show_default=False),
    ] = None,
    ct_phantom: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="IMAGE and MASK of the IBSI CT phantom.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file to write the whole certificate to.")
    ] = None,
) -> None:
    """Show how our features conform to the published IBSI 1 values, family by family.

    Without phantoms this is the certificate that was made for this version. With --reference and phantoms
    (https://github.com/theibsi/data_sets) it is computed anew. The exit status is 1 when a value does not
    conform.
    """
    from voxtrial.daemon.radiomics import certificate

    if digital_phantom is None and ct_phantom is None:
        found = certificate.shipped()
    elif not reference:
        raise typer.BadParameter("phantoms need --reference, a table of the published values")
    else:
        published = [row for path in reference for row in certificate.read_reference(path)]
        found = certificate.certify(_features_of_phantoms(digital_phantom, ct_phantom), published)
    typer.echo(_table(found))
    if output is not None:
        write_text(found.as_json(), output, "Certificate")
    if not found.conforms:
        raise typer.Exit(1)


def read_image(path: Path) -> Volume:
    """Return the image of a NIfTI file or of a folder with one DICOM series."""
    from voxtrial.daemon.dicom import nifti, pixels

    if not path.exists():
        raise Refused(f"There is no image {path}.", rule="no_such_file")
    return nifti.read_volume(path) if nifti.is_nifti(path) else pixels.read_folder(path)


def read_region(path: Path, volume: Volume, roi: str | None) -> Mask:
    """Return the one region of an RTSTRUCT, SEG or NIfTI file, or the one called ``roi``."""
    from voxtrial.daemon.dicom import masks

    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        if len(files) != 1:
            raise Refused(f"Folder {path} holds {len(files)} files; name the mask.", rule="ambiguous_mask")
        path = files[0]
    if not path.exists():
        raise Refused(f"There is no mask {path}.", rule="no_such_file")
    frame = volume.source.frame_of_reference_uid
    found = masks.read(path, volume.grid, frame_of_reference_uid=frame)
    if not found:
        raise Refused(f"{path.name} holds no region; features need at least one voxel.", rule="empty_mask")
    names = ", ".join(mask.label for mask in found)
    chosen = [mask for mask in found if roi is None or mask.label == roi]
    if not chosen:
        raise Refused(f"{path.name} has no region {roi}; it has {names}.", rule="no_such_region")
    if len(chosen) > 1:
        message = f"{path.name} holds {len(chosen)} regions ({names}); choose one with --roi."
        raise Refused(message, rule="ambiguous_mask")
    return chosen[0]


def _extract_with_progress(volume: Volume, mask: Mask, configuration: Configuration) -> Features:
    """Extract with a bar on standard error, one step a family, when that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    from voxtrial.daemon.radiomics.extract import FAMILIES, extract

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("features", total=len(FAMILIES))

        def step(family: str) -> None:
            progress.update(task, advance=1, description=family)

        return extract(volume, mask, configuration, report_progress=step)


def _features_of_phantoms(
    digital_phantom: tuple[Path, Path] | None, ct_phantom: tuple[Path, Path] | None
) -> dict[str, Features]:
    from voxtrial.daemon.radiomics.certificate import DIGITAL_PHANTOM
    from voxtrial.daemon.radiomics.configuration import SHIPPED, load

    wanted = [("digital_phantom", digital_phantom, DIGITAL_PHANTOM)]
    wanted += [(f"config_{name}", ct_phantom, load(name)) for name in SHIPPED]
    computed = {}
    for dataset, paths, configuration in wanted:
        if paths is not None:
            volume = read_image(paths[0])
            region = read_region(paths[1], volume, None)
            computed[dataset] = _extract_with_progress(volume, region, configuration)
    return computed


def _as_csv(features: Features) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in features:
        writer.writerow(
            (features.configuration, row.family, row.feature, row.ibsi_id, row.aggregation_id, row.value)
        )
    return text.getvalue()


def _as_json(features: Features, region: Mask) -> str:
    import json

    rows = [
        {
            "family": row.family,
            "feature": row.feature,
            "ibsi_id": row.ibsi_id,
            "aggregation_id": row.aggregation_id,
            "value": None if math.isnan(row.value) else row.value,
        }
        for row in features
    ]
    document = {
        "config": features.configuration,
        "config_digest": features.configuration_digest,
        "region": region.label,
        "notes": features.notes,
        "features": rows,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _table(certificate: Certificate) -> str:
    lines = [
        certificate.software,
        f"against {certificate.source}",
        f"{'dataset':<16}{'family':<28}{'conforming':>12}  largest deviation / tolerance",
    ]
    lines += [
        f"{row.dataset:<16}{row.family:<28}{f'{row.conforming}/{row.values}':>12}  {_shown(row)}"
        for row in certificate.summary()
    ]
    conforming = sum(row.conforms for row in certificate.rows)
    return "\n".join([*lines, f"{conforming} of {len(certificate.rows)} values conform."])


def _shown(row: Summary) -> str:
    return "no tolerance" if math.isnan(row.largest_deviation) else f"{row.largest_deviation:.2f}"


def write_text(text: str, output: Path | None, what: str) -> None:
    """Write ``text`` to a file and say so, or to standard output."""
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
        typer.echo(f"{what} in {output}", err=True)
