"""``voxtrial radiomics-stability``: which features survive another position, noise, size and contour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtrial.daemon.errors import Misconfigured

if TYPE_CHECKING:
    from voxtrial.daemon.radiomics.stability import Stability
    from voxtrial.daemon.volume import Mask, Volume

COLUMNS = ("config", "family", "feature", "ibsi_id", "aggregation_id", "icc", "ci_low", "ci_high")


def radiomics_stability(
    cases: Annotated[
        Path,
        typer.Argument(help="CSV with the columns image, mask and, optionally, roi.", show_default=False),
    ],
    config: Annotated[str, typer.Option(help="IBSI configuration A, B, C, D or E, or a TOML file.")] = "C",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write; standard output without it.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the added noise; the median noise of the images without it."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of noise and contours.")] = 0,
    report: Annotated[
        Path | None, typer.Option(help="HTML page to write: ICC by family, IBSI conformance.")
    ] = None,
) -> None:
    """Disturb every case twelve times and give each feature its intraclass correlation.

    The disturbances: none, three shifts by parts of a voxel, turns by 5 degrees either way, noise twice, 10 %
    smaller and larger, two random contours. The correlation is ICC(1,1) with a 95 % interval; it is nan for a
    feature that is undefined for some case or the same for all.
    """
    import numpy as np

    from voxtrial.daemon.radiomics.configuration import load
    from voxtrial.daemon.radiomics.stability import noise_level, stability, usual_perturbations

    configuration = load(config)
    read = _read_cases(cases)
    if noise is None:
        noise = float(np.median([noise_level(volume) for volume, _ in read]))
    perturbations = usual_perturbations(noise)
    with _progress(len(read) * len(perturbations)) as show:
        found = stability(
            read, perturbations, configuration, np.random.default_rng(seed), report_progress=show
        )
    if report is not None:
        from voxtrial.daemon.commands.radiomics import write_text
        from voxtrial.daemon.radiomics.certificate import shipped
        from voxtrial.daemon.radiomics.report import stability_page

        facts = {"Cases": len(read), "Perturbations": len(perturbations), "Added noise": noise, "Seed": seed}
        page = stability_page(found, configuration, facts, shipped(), now=datetime.now(UTC))
        write_text(page, report, "Report")
    text = _as_csv(configuration.name, found)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        stable = sum(row.icc >= 0.9 for row in found)
        typer.echo(f"{stable} of {len(found)} features have an ICC of 0.9 or more; all in {output}", err=True)


def _read_cases(path: Path) -> list[tuple[Volume, Mask]]:
    import csv

    from voxtrial.daemon.commands.radiomics import read_image, read_region

    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        read = []
        for row in rows:
            volume = read_image(path.parent / row["image"])
            read.append((volume, read_region(path.parent / row["mask"], volume, row.get("roi") or None)))
    except OSError as error:
        raise Misconfigured(f"List of cases {path} cannot be read: {error}.") from error
    except KeyError as error:
        raise Misconfigured(f"List of cases {path} has no column {error}.") from error
    return read


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error when that is a terminal; yield what tells it how many are done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("extractions", total=total)
        yield lambda done: progress.update(task, completed=done)


def _as_csv(configuration: str, rows: Sequence[Stability]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow((configuration, *(getattr(row, column) for column in COLUMNS[1:])))
    return text.getvalue()
