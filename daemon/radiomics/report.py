"""Pages about features, each with the certificate that says how far the numbers are IBSI's.

A page holds values of one region, or the agreement of every feature over perturbations. Both show what a
reader would look at first: the region on the image, or where the correlations lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from voxtrial.daemon.harmonize.resample import orientation
from voxtrial.daemon.radiomics.certificate import Certificate
from voxtrial.daemon.radiomics.configuration import Configuration
from voxtrial.daemon.radiomics.crop import box, extent
from voxtrial.daemon.radiomics.extract import Features
from voxtrial.daemon.radiomics.stability import Stability
from voxtrial.daemon.volume import Mask, Volume
from voxtrial.validation.reports import figures, render
from voxtrial.validation.software import versions

SURROUNDINGS_MM = 30.0
"""Image that is shown about the region."""
_AXES = ("slices", "rows", "columns")
_PACKAGES = ("numpy", "scipy", "numba")


def features_page(
    features: Features, volume: Volume, mask: Mask, certificate: Certificate, *, now: datetime
) -> str:
    """Return the features of one region as HTML; the page names the series, never the patient."""
    rows = [
        (row.family, (row.feature, row.ibsi_id, row.aggregation_id, _defined(row.value))) for row in features
    ]
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing_mm)
    facts = {
        "Region": mask.label or "unnamed",
        "Series": volume.source.series_instance_uid or "no DICOM",
        "Voxels (z, y, x)": f"{spacing} mm",
        "Intensity unit": volume.unit,
        "Configuration": f"{features.configuration}, sha256 {features.configuration_digest}",
        "Features": len(features),
    }
    return render.page(
        "features.html",
        _pictures(volume, mask),
        report=_document(
            f"Radiomics of {mask.label or 'a region'}",
            facts,
            features.notes,
            ("Feature", "IBSI", "Aggregation", "Value"),
            rows,
            certificate,
            now,
        ),
    )


def stability_page(
    rows: Sequence[Stability],
    configuration: Configuration,
    facts: dict[str, Any],
    certificate: Certificate,
    *,
    now: datetime,
) -> str:
    """Return the agreement of every feature as HTML.

    Parameters
    ----------
    facts
        What was disturbed and how: shown as it is.
    """
    columns = ("Feature", "IBSI", "Aggregation", "ICC(1,1)", "95 % from", "to")
    shown = [
        (
            row.family,
            (
                row.feature,
                row.ibsi_id,
                row.aggregation_id,
                *map(_defined, (row.icc, row.ci_low, row.ci_high)),
            ),
        )
        for row in rows
    ]
    known = {"Configuration": f"{configuration.name}, sha256 {configuration.digest}", **facts}
    return render.page(
        "features.html",
        {
            "ICC(1,1) of every feature, by family": figures.drawn(
                lambda axes: _correlations(axes, rows), (8, 4)
            )
        },
        report=_document("Stability of radiomics", known, (), columns, shown, certificate, now),
    )


def _document(
    title: str,
    facts: dict[str, Any],
    notes: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[tuple[str, tuple[Any, ...]]],
    certificate: Certificate,
    now: datetime,
) -> dict[str, Any]:
    """Return what the template reads; rows come with their family."""
    return {
        "title": title,
        "created": now.isoformat(timespec="seconds"),
        "software": versions(_PACKAGES),
        "facts": facts,
        "notes": notes,
        "families": [
            {"name": family, "columns": columns, "rows": [row for name, row in rows if name == family]}
            for family in dict.fromkeys(family for family, _ in rows)
        ],
        "certificate": embedded(certificate),
    }


def embedded(certificate: Certificate) -> dict[str, Any]:
    """Return what a report shows of a certificate: one row a family, one column a configuration."""
    summary = certificate.summary()
    datasets = list(dict.fromkeys(row.dataset for row in summary))
    cells = {
        (row.family, row.dataset): f"{row.conforming}/{row.values}"
        + ("" if math.isnan(row.largest_deviation) else f", {row.largest_deviation:.2f}")
        for row in summary
    }
    return {
        "software": certificate.software,
        "source": certificate.source,
        "compared": len(certificate.rows),
        "conforming": sum(row.conforms for row in certificate.rows),
        "missed": [f"{row.dataset} {row.ibsi_id}" for row in certificate.rows if not row.conforms],
        "columns": ["Family", *(dataset.replace("_", " ") for dataset in datasets)],
        "rows": [
            [family.replace("_", " "), *(cells.get((family, dataset), "") for dataset in datasets)]
            for family in dict.fromkeys(row.family for row in summary)
        ],
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _pictures(volume: Volume, mask: Mask) -> dict[str, str]:
    """Draw the region's contour on the image along each axis, where most of the region is cut."""
    near = box(*extent(mask.array), np.ceil(SURROUNDINGS_MM / np.array(volume.spacing_mm)), mask.array.shape)
    image, inside = volume.array[near], mask.array[near]
    low, high = (float(v) for v in np.percentile(image, (1, 99)))
    drawings = {}
    for axis, name in enumerate(_AXES):
        others = tuple(k for k in range(3) if k != axis)
        cut = int(np.argmax(inside.sum(axis=others)))
        plane, outline = np.take(image, cut, axis), np.take(inside, cut, axis)
        height, width = (volume.spacing_mm[k] for k in others)

        head_up = axis > 0 and orientation(volume.grid)[0] == "S"
        style = {"origin": "lower" if head_up else "upper", "aspect": height / width}

        def draw(axes: Axes, plane: Any = plane, outline: Any = outline, style: Any = style) -> None:
            axes.imshow(plane, cmap="gray", vmin=low, vmax=high, interpolation="nearest", **style)
            if min(outline.shape) > 1:
                axes.contour(outline, levels=[0.5], colors=[figures.PALETTE[4]], linewidths=1.2)
            axes.set_axis_off()

        number = near[axis].start + cut
        drawings[f"Across the {name}, number {number} of {volume.array.shape[axis]}"] = figures.drawn(draw)
    return drawings


def _correlations(axes: Axes, rows: Sequence[Stability]) -> None:
    families = list(dict.fromkeys(row.family for row in rows))
    for k, family in enumerate(families):
        values = np.array([row.icc for row in rows if row.family == family and not math.isnan(row.icc)])
        places = k + np.linspace(-0.3, 0.3, len(values))
        axes.plot(places, values, "o", ms=3, color=figures.PALETTE[k % len(figures.PALETTE)])
    axes.axhline(0.9, lw=0.8, color="0.4")
    axes.set_xticks(range(len(families)), [f.replace("_", " ") for f in families], rotation=30, ha="right")
    axes.set(ylabel="ICC(1,1); line: 0.9", ylim=(min(0.0, axes.get_ylim()[0]), 1.02))
