"""The rows that a validation report must answer: provided, not provided, or not applicable with a reason.

The ids are the product's own; each row names its source (STARD 2015, CLAIM 2024, TRIPOD+AI, FDA guidance,
Metrics Reloaded). A row that nobody answered is printed as not provided, never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["provided", "not_provided", "not_applicable"]

ROWS: Mapping[str, tuple[str, str]] = {
    "A1": ("Report id, version, date; author, reviewer, approver", "21 CFR 11.10(e), 11.50"),
    "A2": ("Electronic signatures bound to the report's digest", "21 CFR 11.50, 11.70"),
    "A3": ("Audit trail", "21 CFR 11.10(e)"),
    "A4": ("Device: name, version, intended use, inputs, outputs", "FDA AI-DSF draft 2025"),
    "A5": ("Model: digest of the weights, thresholds, framework", "CLAIM 2024, TRIPOD+AI"),
    "A6": ("Software bill of materials, evidence for the analysis software", "IEC 62304"),
    "A7": ("Data fingerprint and acquisition table", "CLAIM 2024"),
    "A8": ("Independence of training and test data", "FDA AI-DSF draft 2025"),
    "A9": ("Reproducibility: commands, seeds, versions", "TRIPOD+AI"),
    "A10": ("Relation to a predetermined change control plan", "FDA PCCP 2024"),
    "B1": ("Protocol digest and time before the first outcome; deviations", "STARD 2015"),
    "B2": ("Primary endpoints and success rule as predicates", "FDA CADe guidance"),
    "B3": ("Hypothesis, margin, alpha, multiplicity", "ICH E9"),
    "B4": ("Sample size: planned and achieved", "STARD 2015 item 18"),
    "B5": ("Reference standard and its own variability", "STARD 2015 items 10-11"),
    "B6": ("Reader study design", "FDA CADe guidance"),
    "B7": ("Indeterminate, failed and missing results", "STARD 2015 items 15-16"),
    "C1": ("Participant flow that adds up", "STARD 2015 item 19, CLAIM 33"),
    "C2": ("Missing data by variable", "STARD 2015 items 15-16"),
    "C3": ("Inference failures with reasons", "FDA AI-DSF draft 2025"),
    "C4": ("Demographics, spectrum, scanners", "CLAIM 34"),
    "C5": ("Clustering and its effect on intervals", "Obuchowski 1997"),
    "D1": ("Measurand, unit, operating range", "FDA QI guidance 2022"),
    "D2": ("Repeatability", "Raunig 2015"),
    "D3": ("Reproducibility over scanners", "Raunig 2015, CLSI EP05"),
    "D4": ("Bias and linearity", "CLSI EP06"),
    "D5": ("Method comparison: bias and limits of agreement", "Bland and Altman 1999"),
    "D6": ("Agreement: form of the ICC and why", "Shrout and Fleiss 1979"),
    "D7": ("Segmentation: overlap, distances, volume error", "Metrics Reloaded 2024"),
    "D8": ("Robustness", "FDA AI-DSF draft 2025"),
    "D9": ("Radiomics: IBSI compliance", "IBSI 1"),
    "E1": ("2x2 table at the fixed threshold", "STARD 2015"),
    "E2": ("ROC: curve, AUC, interval", "DeLong 1988"),
    "E3": ("Precision and recall", "TRIPOD+AI"),
    "E4": ("Calibration", "TRIPOD+AI"),
    "E5": ("Free-response analysis", "FDA CADe guidance"),
    "E6": ("Multi-reader multi-case analysis", "Obuchowski and Rockette 1995"),
    "E7": ("Survival", "TRIPOD+AI"),
    "E8": ("Subgroups with sizes, too small ones named", "FDA AI-DSF draft 2025"),
    "E9": ("External cohorts", "TRIPOD+AI"),
    "E10": ("Failure analysis", "CLAIM 2024"),
    "E11": ("Valid clinical association", "IMDRF N41"),
    "F1": ("Clinical utility: net benefit, time, cost", "DECIDE-AI, CHEERS 2022"),
    "G1": ("Acceptance criteria and verdicts", "protocol"),
    "G2": ("Limitations", "STARD 2015 item 26"),
    "G3": ("Generalisability", "STARD 2015 item 26"),
    "G4": ("Residual risks and monitoring", "ISO 14971"),
    "G5": ("Crosswalk to reporting guidelines", "this table"),
}

# Which family of statistics answers which row.
_ANSWERED_BY: Mapping[str, tuple[str, ...]] = {
    "D2": ("repeatability",),
    "D3": ("variance_components", "icc", "gage", "reproducibility"),
    "D4": ("linearity", "bias_by_level", "deming", "passing_bablok"),
    "D5": ("bland_altman",),
    "D6": ("icc", "lin_ccc"),
    "E1": ("diagnostic_accuracy", "clustered_proportion", "proportion", "operating_point"),
    "E2": ("roc_auc", "clustered_auc", "bootstrap_auc"),
    "E3": ("average_precision",),
    "E4": ("calibration",),
    "E5": ("froc",),
    "E6": ("mrmc",),
    "E7": ("kaplan_meier", "cox", "logrank", "c_index"),
    "E9": ("random_effects",),
    "F1": ("decision_curve", "cost_effectiveness", "icer", "time_saved"),
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How one row of the checklist is answered."""

    status: Status
    detail: str = ""


def answers(given: Mapping[str, Answer], endpoints: Mapping[str, tuple[str, bool]]) -> list[dict[str, Any]]:
    """Return every row with its answer.

    Parameters
    ----------
    given
        Answers that the report knows of by itself, by row id.
    endpoints
        Statistic of each endpoint, and whether it gave a number, by endpoint id.
    """
    rows = []
    for identity, (what, source) in ROWS.items():
        answer = given.get(identity) or _from_endpoints(identity, endpoints)
        rows.append(
            {
                "id": identity,
                "what": what,
                "source": source,
                "status": answer.status,
                "detail": answer.detail,
            }
        )
    return rows


def _from_endpoints(identity: str, endpoints: Mapping[str, tuple[str, bool]]) -> Answer:
    prefixes = _ANSWERED_BY.get(identity, ())
    matching = {name: ok for name, (statistic, ok) in endpoints.items() if statistic.startswith(prefixes)}
    if not prefixes or not matching:
        return Answer(status="not_provided")
    if not any(matching.values()):
        return Answer(status="not_provided", detail="the endpoint is not evaluable: " + ", ".join(matching))
    return Answer(status="provided", detail="endpoints " + ", ".join(matching))
