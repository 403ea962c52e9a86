"""Every number with the raw table that it came from, in the form that recomputes it.

An endpoint becomes ``cases/ENDPOINT.json`` and ``data/ENDPOINT.csv``; the report prints what
``voxtrial statistic run cases/ENDPOINT.json`` prints, because both read the same files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voxtrial.validation import registry
from voxtrial.validation.protocol import Endpoint, ProtocolError
from voxtrial.validation.tables import StatisticError, nearest


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One computed endpoint with the files behind it."""

    values: dict[str, Any]
    notes: tuple[str, ...]
    case: str
    """Path of the case, relative to the evidence folder."""
    table_sha256: str
    records: tuple[int, ...]
    """Study versions behind the numbers."""
    rows: int


def compute(endpoint: Endpoint, studies: pd.DataFrame, folder: Path, *, suffix: str = "") -> Evidence:
    """Write the endpoint's table and case below ``folder`` and compute it from what was written.

    Parameters
    ----------
    studies
        The cohort's table: one row an analysed study.
    suffix
        Added to the file names: the subgroup.

    Raises
    ------
    ProtocolError
        The endpoint names a column that the cohort does not have.
    """
    selected = _where(studies, endpoint)
    table = _spread(selected, endpoint) if endpoint.table == "by_site" else selected
    name = f"{endpoint.id}{suffix}"
    case, data = folder / "cases" / f"{name}.json", folder / "data" / f"{name}.csv"
    for path in (case, data):
        path.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(table.to_csv(index=False, float_format="%.17g"), encoding="utf-8")
    case.write_text(
        json.dumps(
            {
                "id": name,
                "statistic": endpoint.statistic,
                "data": {endpoint.role: f"data/{name}.csv"},
                "inputs": endpoint.inputs,
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    try:
        result = registry.run_case(case)
    except StatisticError as error:
        raise ProtocolError(f"Endpoint {endpoint.id}: {error}") from error
    return Evidence(
        values=result.values,
        notes=result.notes,
        case=str(case.relative_to(folder)),
        table_sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
        records=tuple(int(r) for r in selected.get("record", [])),
        rows=len(table),
    )


def _where(studies: pd.DataFrame, endpoint: Endpoint) -> pd.DataFrame:
    kept = studies
    for column, value in endpoint.where.items():
        if column not in studies.columns:
            hint = nearest(column, map(str, studies.columns))
            raise ProtocolError(f"Endpoint {endpoint.id}: the cohort has no column {column!r}{hint}")
        kept = kept[kept[column] == value]
    return kept


def _spread(studies: pd.DataFrame, endpoint: Endpoint) -> pd.DataFrame:
    """Return one row a subject with a column for each site; subjects seen at every site only."""
    if endpoint.column not in studies.columns:
        hint = nearest(endpoint.column, map(str, studies.columns))
        raise ProtocolError(f"Endpoint {endpoint.id}: the cohort has no column {endpoint.column!r}{hint}")
    wide = studies.pivot_table(index="subject", columns="site", values=endpoint.column, aggfunc="mean")
    return wide.dropna().reset_index()
