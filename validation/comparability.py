"""Whether studies of several sites were measured with one ruler: grids before and after, and sharpness.

The facts come from the audit that every job writes into its provenance. Equal grids do not make images
equal: where sites differ in the spread of their edges, a reader is told so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    audits = list(provenance.get("harmonization", {}).values())
    if not audits:
        return {}
    first = audits[0]
    row: dict[str, Any] = {
        column: " x ".join(f"{number:.3g}" for number in first[state].get(name, ()))
        for column, (state, name) in GRIDS.items()
    }
    found = [step["found"] for step in first.get("steps", ()) if step["step"] == "psf"]
    row["edge_spread_mm"] = found[0].get("own_sigma_mm") if found else None
    row["harmonization_warnings"] = " ".join(w for audit in audits for w in audit.get("warnings", ()))
    return row


def by_site(studies: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each site and pair of grids: number of studies and median edge spread, mm."""
    if "native_spacing_mm" not in studies.columns:
        return []
    rows = []
    told = studies.fillna(dict.fromkeys(GRIDS, ""))
    for key, group in told.groupby(["site", *GRIDS], sort=True):
        spreads = pd.to_numeric(group["edge_spread_mm"]).dropna()
        rows.append(
            {
                **dict(zip(["site", *GRIDS], key, strict=True)),
                "edge_spread_mm": None if spreads.empty else float(spreads.median()),
                "n": len(group),
            }
        )
    return rows


def sentences(studies: pd.DataFrame) -> list[str]:
    """Return what a reader must know: sites that differ in sharpness, and what the recipes warned of."""
    if "native_spacing_mm" not in studies.columns:
        return []
    measured = studies.assign(edge=pd.to_numeric(studies["edge_spread_mm"])).dropna(subset=["edge"])
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
        f"texture are not comparable unless the sharper is blurred by {math.sqrt(high**2 - low**2):.2f} mm."
    )
