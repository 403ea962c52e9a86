"""Whether studies of several sites were measured with one ruler: grids before and after, and sharpness.

The facts come from the audit that every job writes into its provenance. Equal grids do not make images
equal: where sites differ in the rise of their edges, a reader is told so. Where a model takes several inputs,
each is named by its role.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

RISE = 2 * 1.2815515655446004
"""10-90 % rise of a Gaussian edge in units of sigma: twice the 90th percentile of the standard normal."""

GRIDS = {
    "native_spacing_mm": ("before", "spacing_mm"),
    "native_field_mm": ("before", "receptive_field_mm"),
    "harmonized_spacing_mm": ("after", "spacing_mm"),
    "harmonized_field_mm": ("after", "receptive_field_mm"),
}
"""Column of the cohort, and where the audit holds it: spacing, and what the model sees, along z, y, x."""


def facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of one study from the provenance of its job; empty where it has no audit."""
    audits = sorted(provenance.get("harmonization", {}).items())
    if not audits:
        return {}
    row: dict[str, Any] = {
        column: "; ".join(_triple(role, audit[state].get(name, ()), len(audits)) for role, audit in audits)
        for column, (state, name) in GRIDS.items()
    }
    row["edge_rise_mm"] = next((rise for _, audit in audits if (rise := _edge_rise_mm(audit))), None)
    row["harmonization_warnings"] = " ".join(w for _, audit in audits for w in audit.get("warnings", ()))
    return row


def _triple(role: str, numbers: Sequence[float], roles: int) -> str:
    """Return ``numbers`` as one value of the cohort, with the role of the input where there are several."""
    shown = " x ".join(f"{number:.3g}" for number in numbers)
    return f"{role} {shown}" if roles > 1 else shown


def _edge_rise_mm(audit: Mapping[str, Any]) -> float | None:
    """Return the 10-90 % rise of the edges of one input, mm; None where its recipe does not measure it."""
    found = [step["found"] for step in audit.get("steps", ()) if step["step"] == "psf"]
    sigma = found[0].get("own_sigma_mm") if found else None
    return None if sigma is None else RISE * sigma


def blur_between_mm(sharp_sigma_mm: float, soft_sigma_mm: float) -> float:
    """Return sigma of the Gaussian blur, mm, that takes a sharper edge to a softer one.

    Variances of Gaussians add under convolution: sqrt(soft² - sharp²).
    """
    return math.sqrt(max(soft_sigma_mm**2 - sharp_sigma_mm**2, 0.0))


def by_site(studies: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each site and pair of grids: their number and median 10-90 % rise of edges, mm."""
    if "native_spacing_mm" not in studies.columns:
        return []
    rows = []
    told = studies.fillna(dict.fromkeys(GRIDS, ""))
    for key, group in told.groupby(["site", *GRIDS], sort=True):
        spreads = pd.to_numeric(group["edge_rise_mm"]).dropna()
        rows.append(
            {
                **dict(zip(["site", *GRIDS], key, strict=True)),
                "edge_rise_mm": None if spreads.empty else float(spreads.median()),
                "n": len(group),
            }
        )
    return rows


def sentences(studies: pd.DataFrame) -> list[str]:
    """Return what a reader must know: sites that differ in sharpness, and what the recipes warned of."""
    if "native_spacing_mm" not in studies.columns:
        return []
    measured = studies.assign(edge=pd.to_numeric(studies["edge_rise_mm"]) / RISE).dropna(subset=["edge"])
    medians = measured.groupby("site")["edge"].median()
    differing = differing_sites({str(site): float(median) for site, median in medians.items()})
    warned = studies["harmonization_warnings"].fillna("")
    counted = warned[warned != ""].value_counts(sort=False).sort_index()
    return [*([differing] if differing else []), *(f"{n} studies: {text}" for text, n in counted.items())]


def differing_sites(sigma_mm_by_site: Mapping[str, float], *, tolerance: float = 0.2) -> str:
    """Say in one sentence that sites differ in sharpness by more than ``tolerance``; else say nothing."""
    if len(sigma_mm_by_site) < 2:
        return ""
    sharp = min(sigma_mm_by_site, key=lambda site: sigma_mm_by_site[site])
    soft = max(sigma_mm_by_site, key=lambda site: sigma_mm_by_site[site])
    low, high = sigma_mm_by_site[sharp], sigma_mm_by_site[soft]
    if high <= low * (1 + tolerance):
        return ""
    return (
        f"Edges rise over {RISE * low:.2f} mm at {sharp} and {RISE * high:.2f} mm at {soft}: intensity and "
        f"texture are not comparable unless the sharper is blurred by {blur_between_mm(low, high):.2f} mm."
    )
