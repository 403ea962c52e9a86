"""Standardised uptake value by body weight from a PET in Bq/ml, counts or g/ml.

SUVbw = activity concentration (Bq/ml) * body weight (g) / injected dose (Bq) at the time that the
concentration is corrected to. The facts come by DICOM keyword; what is missing or contradicts itself is
refused, never guessed.

References
----------
PS3.3 C.8.9.1.1 (Units, DecayCorrection), C.8.9.1.1.3; QIBA FDG-PET profile 1.05; QIBA SUV vendor-neutral
pseudo-code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Volume

UNIT = "{SUVbw}g/ml"
"""UCUM code of the result."""

HALF_LIFE_S = {
    "F-18": 6586.2,
    "C-11": 1223.4,
    "Ga-68": 4057.74,
    "N-13": 597.9,
    "O-15": 122.24,
    "Zr-89": 282276.0,
}
"""Physical half-lives (F-18: 109.77 min), to check the header against."""


@dataclass(frozen=True, kw_only=True)
class Uptake:
    """Factor from stored values to SUVbw and how it was found."""

    factor: float
    """g/ml for each stored unit."""
    basis: str
    """One sentence for the provenance."""


def uptake(facts: Mapping[str, Any]) -> Uptake:
    """Return the factor to SUVbw of a series.

    Parameters
    ----------
    facts
        By DICOM keyword, in DICOM's units: Units, SUVType, PatientWeight (kg), RadionuclideTotalDose (Bq),
        RadionuclideHalfLife (s), RadiopharmaceuticalStartDateTime or RadiopharmaceuticalStartTime (TM),
        SeriesDate, SeriesTime, AcquisitionDate, AcquisitionTime (of the slice acquired first),
        DecayCorrection, CorrectedImage; of enhanced images DecayCorrected, DecayCorrectionDateTime and
        AttenuationCorrected; the private PhilipsSUVScaleFactor (7053,xx00),
        PhilipsActivityConcentrationScaleFactor (7053,xx09) and GEScanDateTime (0009,xx0D).

    Raises
    ------
    Refused
        ``not_suv_units``, ``suv_type``, ``missing_suv_fact``, ``not_decay_corrected``, ``suv_times``.
    """
    units = str(facts.get("Units", "")).upper()
    if units == "GML":
        kind = str(facts.get("SUVType") or "BW").upper()
        if kind != "BW":
            raise Refused(f"The series is SUV by {kind}; only body weight (BW) is compared.", rule="suv_type")
        return Uptake(factor=1.0, basis="stored as SUVbw")
    if units == "CNTS":
        return _from_counts(facts)
    if units != "BQML":
        raise Refused(
            f'Units is "{units}"; SUV can be computed from BQML, CNTS with Philips factors, or GML.',
            rule="not_suv_units",
        )
    return _from_activity(facts)


def suv(volume: Volume) -> Volume:
    """Return ``volume`` in SUVbw, from the facts in its source's acquisition (see :func:`uptake`)."""
    from voxtrial.daemon.harmonize.intensity import scaled

    found = uptake(volume.source.acquisition)
    return volume.with_array(scaled(volume.array, 0.0, found.factor, 0.0), unit=UNIT)


def decayed_dose_bq(dose_bq: float, half_life_s: float, seconds: float) -> float:
    """Return what is left of ``dose_bq`` after ``seconds``."""
    return dose_bq * math.exp2(-seconds / half_life_s)


def _from_counts(facts: Mapping[str, Any]) -> Uptake:
    """Philips stores counts: (7053,xx00) is SUV for each count, (7053,xx09) Bq/ml for each count."""
    direct = _number(facts, "PhilipsSUVScaleFactor")
    if direct:
        return Uptake(factor=direct, basis=f"Philips SUV scale factor {direct:g} (7053,xx00)")
    activity = _number(facts, "PhilipsActivityConcentrationScaleFactor")
    if activity:
        found = _from_activity(facts)
        return Uptake(
            factor=activity * found.factor,
            basis=f"Philips activity scale factor {activity:g} (7053,xx09); {found.basis}",
        )
    raise Refused(
        "Units is CNTS without the Philips factors (7053,xx00) or (7053,xx09); counts have no SUV.",
        rule="missing_suv_fact",
    )


def _from_activity(facts: Mapping[str, Any]) -> Uptake:
    _check_corrections(facts)
    weight = _needed(facts, "PatientWeight")
    dose = _needed(facts, "RadionuclideTotalDose")
    correction = str(facts.get("DecayCorrection", "")).upper()
    if not correction and facts.get("DecayCorrectionDateTime"):
        correction = "START"  # an enhanced image says to which moment instead
    if correction == "ADMIN":
        left, basis = dose, "decay corrected to the injection (ADMIN)"
    elif correction == "START":
        half_life = _needed(facts, "RadionuclideHalfLife")
        seconds, named = _uptake_time(facts)
        left = decayed_dose_bq(dose, half_life, seconds)
        basis = f"dose decayed over {seconds:g} s from injection to {named} (START)"
    else:
        raise Refused(
            f'DecayCorrection is "{correction or "empty"}"; SUV needs START or ADMIN.',
            rule="not_decay_corrected",
        )
    return Uptake(factor=weight * 1000 / left, basis=f"{weight:g} kg, {dose:g} Bq, {basis}")


def _check_corrections(facts: Mapping[str, Any]) -> None:
    """Refuse images that say of themselves that attenuation or decay is not corrected."""
    corrected = facts.get("CorrectedImage")
    applied = {corrected} if isinstance(corrected, str) else set(corrected or ())
    if applied and not {"ATTN", "DECY"} <= applied:
        raise Refused(
            f"CorrectedImage lists {', '.join(sorted(applied))}; SUV needs ATTN and DECY.",
            rule="not_decay_corrected",
        )
    for keyword in ("AttenuationCorrected", "DecayCorrected"):  # of enhanced images
        if facts.get(keyword, "YES") != "YES":
            raise Refused(
                f"{keyword} is {facts[keyword]}; SUV needs images corrected for attenuation and decay.",
                rule="not_decay_corrected",
            )


def _uptake_time(facts: Mapping[str, Any]) -> tuple[float, str]:
    """Seconds from injection to the time that the images are corrected to, and its name.

    An enhanced image names it. Else it is the start of the series; where post-processing renewed SeriesTime
    (it then lies after the first acquisition), it is GE's private time of the scan, or without one the first
    acquisition of all slices.
    """
    start, named = _moment(facts, "DecayCorrectionDateTime"), "DecayCorrectionDateTime"
    if start is None:
        start, named = _start_of_scan(facts)
    if start is None:
        raise Refused("SeriesTime and AcquisitionTime are missing.", rule="missing_suv_fact")
    injected = _moment(facts, "RadiopharmaceuticalStartDateTime")
    if injected is None:
        injected = _moment(
            {**facts, "_date": start.strftime("%Y%m%d")}, "_date", "RadiopharmaceuticalStartTime"
        )
        if injected is not None and injected > start:
            injected -= timedelta(days=1)  # a bare time of day: the injection was before midnight
    if injected is None:
        raise Refused("The time of injection is missing.", rule="missing_suv_fact")
    seconds = (start - injected).total_seconds()
    if not 0 <= seconds <= 24 * 3600:
        raise Refused(
            f"The images are corrected to {seconds:g} s after the injection; a day at most is plausible.",
            rule="suv_times",
        )
    return seconds, named


def _start_of_scan(facts: Mapping[str, Any]) -> tuple[datetime | None, str]:
    """Return when the scan of a classic image began, and which fact says so."""
    series = _moment(facts, "SeriesDate", "SeriesTime")
    acquired = _moment(facts, "AcquisitionDate", "AcquisitionTime")
    if series is not None and (acquired is None or series <= acquired):
        return series, "SeriesTime"
    scan = _moment(facts, "GEScanDateTime")
    return (acquired, "AcquisitionTime") if scan is None else (scan, "GE's time of the scan (0009,xx0D)")


def _moment(facts: Mapping[str, Any], *keywords: str) -> datetime | None:
    """Join DA and TM, or read a DT; None when a part is missing. Offsets are honoured, else UTC is meant."""
    parts = [str(facts.get(k) or "").strip() for k in keywords]
    if not all(parts):
        return None
    text = "".join(parts)
    if len(text) > 5 and text[-5] in "+-":
        sign = -1 if text[-5] == "-" else 1
        offset = timedelta(hours=int(text[-4:-2]), minutes=int(text[-2:])) * sign
        moment = _moment({"t": text[:-5]}, "t")
        return None if moment is None else moment - offset
    whole, _, fraction = text.partition(".")
    try:
        moment = datetime.strptime(whole.ljust(14, "0")[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise Refused(
            f'"{text}" in {" and ".join(keywords)} is no date and time.', rule="suv_times"
        ) from error
    return moment + timedelta(microseconds=int(fraction.ljust(6, "0")[:6] or 0))


def _number(facts: Mapping[str, Any], keyword: str) -> float | None:
    value = facts.get(keyword)
    try:
        number = float(value) if value is not None and value != "" else None
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) and number > 0 else None


def _needed(facts: Mapping[str, Any], keyword: str) -> float:
    number = _number(facts, keyword)
    if number is None:
        raise Refused(
            f"{keyword} is {facts.get(keyword)!r}; SUV needs a positive number.", rule="missing_suv_fact"
        )
    return number
