"""A report as data: one JSON document that HTML and PDF are rendered from, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voxtrial.validation import comparability, lint
from voxtrial.validation.cohort import ANALYSED, Cohort
from voxtrial.validation.protocol import Endpoint, Protocol, digest
from voxtrial.validation.reports import checklist
from voxtrial.validation.reports.checklist import Answer
from voxtrial.validation.reports.evidence import Evidence, compute
from voxtrial.validation.software import versions

FORMAT = "voxtrial-report-1"
_ANALYSIS_PACKAGES = ("numpy", "scipy", "pandas", "statsmodels", "lifelines", "scikit-learn")


def build(cohort: Cohort, protocol: Protocol, folder: Path, *, site: str, now: datetime) -> dict[str, Any]:
    """Compute every endpoint and return the report as JSON values.

    Parameters
    ----------
    folder
        Folder of the report; the evidence is written below ``folder/evidence``.
    site
        Who runs the analysis.
    now
        Time of the report.
    """
    evidence = folder / "evidence"
    endpoints = [_endpoint(e, cohort.studies, protocol, evidence) for e in protocol.endpoints]
    flow = _flow(cohort)
    verdicts = [_verdict(e) for e in endpoints if e["criterion"]]
    document: dict[str, Any] = {
        "format": FORMAT,
        "id": digest([protocol.digest, cohort.digest, version("voxtrial")])[:16],
        "title": protocol.title,
        "site": site,
        "created": now.isoformat(timespec="seconds"),
        "software": versions(_ANALYSIS_PACKAGES),
        "protocol": _protocol(cohort, protocol),
        "model": _model(cohort, protocol),
        "cohort": {"digest": cohort.digest, "analysed": len(cohort.studies)},
        "flow": flow,
        "acquisition": _acquisition(cohort.studies),
        "harmonization": {
            "grids": comparability.by_site(cohort.studies),
            "notes": comparability.sentences(cohort.studies),
        },
        "missing": _missing(cohort.studies),
        "endpoints": endpoints,
        "verdicts": verdicts,
        "conclusion": _conclusion(endpoints, protocol),
        "figures": _figures(cohort.studies),
        "failures": _failures(cohort.studies),
        "warnings": _warnings(protocol, endpoints, cohort.studies),
    }
    document["checklist"] = checklist.answers(
        _answers(document, protocol),
        {e["id"]: (e["statistic"], e["evaluable"]) for e in endpoints},
    )
    return document


def _protocol(cohort: Cohort, protocol: Protocol) -> dict[str, Any]:
    in_time = cohort.registered_at <= cohort.first_outcome_access_at
    return {
        "name": protocol.name,
        "version": protocol.version,
        "digest": protocol.digest,
        "registered_at": cohort.registered_at.isoformat(timespec="seconds"),
        "first_outcome_access_at": cohort.first_outcome_access_at.isoformat(timespec="seconds"),
        "as_registered": in_time,
        "deviations": [] if in_time else ["outcomes were read before the protocol was registered"],
        "document": protocol.document(),
    }


def _model(cohort: Cohort, protocol: Protocol) -> dict[str, Any]:
    identity = cohort.model.get("identity", {})
    return {
        "name": protocol.model,
        "digest": protocol.model_digest,
        "version": identity.get("version", ""),
        "intended_use": identity.get("intended_use", ""),
        "training": cohort.model.get("training") or {},
    }


def _flow(cohort: Cohort) -> dict[str, Any]:
    counts = cohort.flow["bucket"].value_counts(sort=False).to_dict()
    reasons = [
        {"bucket": str(bucket), "reason": str(reason), "n": len(group)}
        for (bucket, reason), group in cohort.flow.groupby(["bucket", "reason"], sort=True)
        if bucket != ANALYSED
    ]
    buckets = [{"bucket": str(bucket), "n": int(n)} for bucket, n in sorted(counts.items())]
    received = len(cohort.flow)
    if sum(counts.values()) != received:
        raise AssertionError("the participant flow does not add up")
    return {"received": received, "buckets": buckets, "excluded": reasons}


def _endpoint(endpoint: Endpoint, studies: pd.DataFrame, protocol: Protocol, folder: Path) -> dict[str, Any]:
    if missing := _missing_columns(endpoint, studies):
        return {
            **_heading(endpoint),
            "values": {},
            "notes": [f"not evaluable: {missing}"],
            "evaluable": False,
            "verdict": "not evaluable" if endpoint.criterion else "",
            "subgroups": [],
        }
    result = compute(endpoint, studies, folder)
    verdict = endpoint.acceptance.verdict(result.values) if endpoint.acceptance else ""
    return {
        **_heading(endpoint),
        **_numbers(endpoint, result),
        "verdict": verdict,
        "subgroups": [
            row
            for factor in endpoint.subgroups
            for row in _subgroups(endpoint, factor, studies, protocol, folder)
        ],
    }


def _heading(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "title": endpoint.title,
        "statistic": endpoint.statistic,
        "unit": endpoint.unit,
        "primary": endpoint.primary,
        "criterion": endpoint.criterion,
    }


def _numbers(endpoint: Endpoint, result: Evidence) -> dict[str, Any]:
    shown = endpoint.show or tuple(result.values)
    return {
        "values": {name: result.values.get(name) for name in shown},
        "notes": list(result.notes),
        "evaluable": any(result.values.get(name) is not None for name in shown),
        "n": result.rows,
        "records": list(result.records),
        "case": f"evidence/{result.case}",
        "table_sha256": result.table_sha256,
        "recompute": f"voxtrial statistic run evidence/{result.case}",
    }


def _missing_columns(endpoint: Endpoint, studies: pd.DataFrame) -> str:
    """Return why the cohort cannot feed the endpoint; empty when it can."""
    if studies.empty:
        return "no study of the cohort has both a result and a reference"
    wanted = [*endpoint.where, *([endpoint.column] if endpoint.column else [])]
    if endpoint.table == "studies":
        wanted += [v for v in endpoint.inputs.values() if isinstance(v, str) and v in _COLUMNS]
    absent = [c for c in wanted if c not in studies.columns or studies[c].isna().all()]
    return f"the cohort holds no {', '.join(absent)}" if absent else ""


_COLUMNS = frozenset(
    {
        "dice",
        "jaccard",
        "hd95_mm",
        "masd_mm",
        "surface_dice",
        "volume_mm3",
        "reference_volume_mm3",
        "volume_error_percent",
        "log_volume",
        "score",
        "positive",
        "negative",
        "reference_class",
    }
)


def _subgroups(
    endpoint: Endpoint, factor: str, studies: pd.DataFrame, protocol: Protocol, folder: Path
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if factor not in studies.columns:
        return rows
    for level, group in studies.groupby(studies[factor].astype(str), sort=True):
        head = {"factor": factor, "level": str(level)}
        if len(group) < protocol.minimum_subgroup:
            rows.append({**head, "n": len(group), "values": {}, "notes": ["n too small"]})
            continue
        safe = "".join(c if c.isalnum() else "_" for c in str(level))
        result = compute(endpoint, group, folder, suffix=f".{factor}.{safe}")
        rows.append({**head, **_numbers(endpoint, result)})
    return rows


def _warnings(
    protocol: Protocol, computed: Sequence[dict[str, Any]], studies: pd.DataFrame
) -> list[dict[str, str]]:
    """Return where a number of this report may mislead (Metrics Reloaded)."""
    rows = []
    for endpoint, result in zip(protocol.endpoints, computed, strict=True):
        if not result["evaluable"]:
            continue
        values = result["values"]
        low = next((v for k, v in values.items() if k.endswith(("ci_low", "bca_low", "_n_low"))), None)
        high = next((v for k, v in values.items() if k.endswith(("ci_high", "bca_high", "_n_high"))), None)
        rows.append(
            {
                "id": endpoint.id,
                "metric": endpoint.inputs.get("numerator", endpoint.statistic),
                "n": result["n"],
                "ci": None if low is None or high is None else (low, high),
                "unit": protocol.unit_of_analysis,
                "clusters": int(studies["subject"].nunique()),
                "clustered_ci": endpoint.table == "by_site" or "cluster" in endpoint.inputs,
                "aggregate": "mean" if endpoint.statistic.startswith("bootstrap") else None,
                "n_undefined": _undefined(endpoint, studies),
                "sd": _spread(endpoint, studies),
                "spacing_mm": "of each source series",
            }
        )
    return [{"rule": m.rule, "endpoint": m.row, "message": m.message} for m in lint.check(rows)]


def _spread(endpoint: Endpoint, studies: pd.DataFrame) -> float | None:
    """Return the standard deviation over studies of the column that the endpoint averages."""
    column = endpoint.inputs.get("numerator")
    return float(studies[column].std()) if column in studies.columns and len(studies) > 1 else None


def _undefined(endpoint: Endpoint, studies: pd.DataFrame) -> int:
    """Return how many studies have no value in the column that the endpoint averages."""
    column = endpoint.inputs.get("numerator")
    return int(studies[column].isna().sum()) if column in studies.columns else 0


def _verdict(endpoint: dict[str, Any]) -> dict[str, Any]:
    return {key: endpoint[key] for key in ("id", "title", "criterion", "verdict", "primary")}


def _conclusion(endpoints: Sequence[dict[str, Any]], protocol: Protocol) -> str:
    """Return the verdict of the study: every primary endpoint must be met."""
    primary = [e["verdict"] for e in endpoints if e["primary"] and e["criterion"]]
    if not primary:
        return "descriptive: no primary endpoint has a criterion"
    if protocol.multiplicity == "none" and all(v == "met" for v in primary):
        return "met"
    return "not met" if "not met" in primary else "not evaluable" if "not evaluable" in primary else "met"


def _acquisition(studies: pd.DataFrame) -> list[dict[str, Any]]:
    factors = [
        c
        for c in ("site", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "SliceThickness")
        if c in studies.columns
    ]
    if not factors:
        return []
    counts = studies[factors].fillna("").astype(str).value_counts(sort=False).sort_index().reset_index()
    return [{str(k): v for k, v in row.items()} for row in counts.to_dict("records")]


def _missing(studies: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {"variable": name, "missing": int(studies[name].isna().sum()), "n": len(studies)}
        for name in studies.columns
        if name in _COLUMNS
    ]


def _failures(studies: pd.DataFrame, worst: int = 10) -> list[dict[str, Any]]:
    """Return the worst overlaps and every wrong call, by record: a person looks at these first."""
    rows: list[dict[str, Any]] = []
    if "dice" in studies.columns:
        for _, case in studies.nsmallest(worst, "dice").iterrows():
            rows.append(
                {
                    "record": int(case["record"]),
                    "site": case["site"],
                    "what": "lowest Dice",
                    "value": case["dice"],
                }
            )
    if {"positive", "reference_class"} <= set(studies.columns):
        wrong = studies[studies["positive"] != studies["reference_class"]]
        for _, case in wrong.iterrows():
            kind = "false positive" if case["positive"] else "false negative"
            rows.append(
                {"record": int(case["record"]), "site": case["site"], "what": kind, "value": case["score"]}
            )
    return rows


def _figures(studies: pd.DataFrame) -> dict[str, Any]:
    """Return the points that the figures are drawn from."""
    figures: dict[str, Any] = {}

    def column(name: str) -> list[Any]:
        return [None if pd.isna(v) else v for v in studies[name].tolist()]

    if {"volume_mm3", "reference_volume_mm3"} <= set(studies.columns):
        figures["volume"] = {
            "reference_mm3": column("reference_volume_mm3"),
            "measured_mm3": column("volume_mm3"),
            "site": column("site"),
        }
    if "dice" in studies.columns:
        figures["dice"] = {"dice": column("dice"), "site": column("site")}
    if {"score", "reference_class"} <= set(studies.columns):
        figures["roc"] = _roc_points(studies)
    return figures


def _roc_points(studies: pd.DataFrame) -> dict[str, list[float]]:
    complete = studies.dropna(subset=["score", "reference_class"])
    order = np.argsort(-complete["score"].to_numpy(float), kind="stable")
    truth = complete["reference_class"].to_numpy(int)[order]
    scores = complete["score"].to_numpy(float)[order]
    last = np.append(np.diff(scores) != 0, True)
    positives, negatives = max(int(truth.sum()), 1), max(int((1 - truth).sum()), 1)
    return {
        "false_positive_rate": [0.0, *(np.cumsum(1 - truth)[last] / negatives).tolist()],
        "true_positive_rate": [0.0, *(np.cumsum(truth)[last] / positives).tolist()],
    }


def _answers(document: dict[str, Any], protocol: Protocol) -> dict[str, Answer]:
    """Return the checklist rows that the document itself answers."""
    given = {
        "A1": Answer(status="provided", detail=f"report {document['id']}, {document['created']}"),
        "A5": Answer(status="provided", detail=f"sha256 {protocol.model_digest}"),
        "A9": Answer(status="provided", detail="each endpoint names its table, digest and command"),
        "B1": Answer(status="provided", detail=f"sha256 {protocol.digest}"),
        "B2": Answer(status="provided", detail="; ".join(v["criterion"] for v in document["verdicts"])),
        "B5": Answer(status="provided", detail=f"reader {protocol.reference.reader}"),
        "C1": Answer(status="provided", detail=f"{document['flow']['received']} received, all accounted for"),
        "C2": Answer(status="provided", detail="table of missing values"),
        "C3": Answer(status="provided", detail="participant flow"),
        "D1": Answer(status="provided", detail="units stand beside every endpoint"),
        "G1": Answer(status="provided", detail=document["conclusion"]),
        "G5": Answer(status="provided", detail="source column of this table"),
    }
    if document["model"]["intended_use"]:
        given["A4"] = Answer(status="provided", detail=document["model"]["intended_use"])
    if document["acquisition"]:
        given["A7"] = Answer(status="provided", detail=f"cohort sha256 {document['cohort']['digest']}")
        given["C4"] = Answer(status="provided", detail="acquisition table; no demographics")
    if any(bool(e["subgroups"]) for e in document["endpoints"]):
        given["E8"] = Answer(status="provided", detail="subgroup tables")
    if any("cluster" in e["statistic"] or "repeated" in e["statistic"] for e in document["endpoints"]):
        given["C5"] = Answer(status="provided", detail="clustered by subject where the endpoint says so")
    if document["failures"]:
        given["E10"] = Answer(status="provided", detail="worst overlaps and wrong calls by record")
    if "dice" in document["figures"]:
        given["D7"] = Answer(status="provided", detail="overlap, distances in mm, volume error")
    if protocol.operating_point is None:
        given["E1"] = Answer(status="not_applicable", detail="the model makes no decision")
    return given
