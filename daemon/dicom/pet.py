"""What the values of a PET mean: the unit of classic and enhanced images, and when the scan began.

Classic images say it by Units and SUVType. Enhanced ones say it by a real world value mapping, whose slope
and intercept take stored values to the unit of its code; without one their values have no unit.

References
----------
PS3.3 C.8.9.1 (Units, SUVType), C.7.6.16.2.11 (real world value mapping); PS3.16 CID 84, 85.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voxtrial.daemon.dicom.plane import Plane
from voxtrial.daemon.errors import Refused

BECQUEREL_PER_MILLILITRE = "Bq/ml"
SUV_BODY_WEIGHT = "{SUVbw}g/ml"
UNKNOWN = "1"

_CLASSIC = {
    "Bq/ml": {"Units": "BQML"},
    "{counts}": {"Units": "CNTS"},
    "{counts}/s": {"Units": "CPS"},
    "{propcounts}": {"Units": "PROPCNTS"},
    "{SUVbw}g/ml": {"Units": "GML", "SUVType": "BW"},
    "g/ml{SUVbw}": {"Units": "GML", "SUVType": "BW"},
    "{SUVlbm}g/ml": {"Units": "GML", "SUVType": "LBM"},
    "g/ml{SUVlbm}": {"Units": "GML", "SUVType": "LBM"},
    "{SUVibw}g/ml": {"Units": "GML", "SUVType": "IBW"},
    "g/ml{SUVibw}": {"Units": "GML", "SUVType": "IBW"},
    "{SUVbsa}cm2/ml": {"Units": "CM2ML", "SUVType": "BSA"},
    "cm2/ml{SUVbsa}": {"Units": "CM2ML", "SUVType": "BSA"},
}
"""UCUM codes of measurement units, in both orders that are in use, as Units and SUVType."""


def pet_unit(plane: Plane) -> str:
    """Return the UCUM code of the values of ``plane``; "1" where they are neither Bq/ml nor SUVbw."""
    meant = _units(plane)
    if meant.get("Units") == "GML" and meant.get("SUVType", "BW") == "BW":  # absent means body weight
        return SUV_BODY_WEIGHT
    return BECQUEREL_PER_MILLILITRE if meant.get("Units") == "BQML" else UNKNOWN


def refuse_mixed_units(planes: Sequence[Plane]) -> None:
    """Refuse a PET whose planes are in different units (``mixed_units``)."""
    found = sorted(
        {" ".join(_units(plane).values()) or plane.text("MeasurementUnits") or "no unit" for plane in planes}
    )
    if len(found) > 1:
        raise Refused(f"The slices of the PET are in {' and '.join(found)}.", rule="mixed_units")


def pet_facts(planes: Sequence[Plane]) -> dict[str, Any]:
    """Return Units and SUVType of a PET, and the date and time at which its first plane was acquired.

    Notes
    -----
    The scan passes over the beds in either direction, so that the plane acquired first may be the last slice.
    """
    facts: dict[str, Any] = dict(_units(planes[0]))
    moments = sorted({moment for plane in planes if (moment := _acquired(plane))})
    if moments:
        facts["AcquisitionDate"], facts["AcquisitionTime"] = moments[0]
    return facts


def _units(plane: Plane) -> dict[str, str]:
    mapped = _CLASSIC.get(plane.text("MeasurementUnits"), {})
    if "RealWorldValueSlope" in plane.values:  # which the values are taken with, whatever Units says
        return mapped
    classic = {keyword: plane.text(keyword) for keyword in ("Units", "SUVType") if plane.text(keyword)}
    return classic or mapped


def _acquired(plane: Plane) -> tuple[str, str] | None:
    """Return date and time at which the acquisition of ``plane`` began; None where the plane does not say."""
    joined = plane.text("AcquisitionDateTime")
    date, time = plane.text("AcquisitionDate"), plane.text("AcquisitionTime")
    if date and time:
        return date, time
    return (joined[:8], joined[8:]) if len(joined) >= 12 else None
