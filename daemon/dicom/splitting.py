"""Separate the volumes that share one series: time points, acquisitions, echoes, phases, quantities.

A split is clean when an attribute sorts the planes into parts that are each a regular stack and that overlap
along the normal. Parts that do not overlap are one stack with a gap: splitting those would hide a missing
slice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from voxtrial.daemon.dicom.geometry import SAME_POSITION_MM, heights, in_slice_order, lattice
from voxtrial.daemon.dicom.plane import Plane
from voxtrial.daemon.errors import Refused

SEPARATORS = (
    "StackID",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "EchoNumbers",
    "EchoTime",
    "DiffusionBValue",
    "TriggerTime",
    "FrameReferenceTime",
    "ComplexImageComponent",
    "ImageType",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "ContentTime",
    "RescaleType",
    "RescaleSlope",
)
"""Attributes that may name the volume of a plane, in the order in which they are tried."""

PAIRS = (
    ("TemporalPositionIdentifier", "EchoTime"),
    ("TemporalPositionIdentifier", "ImageType"),
    ("StackID", "TemporalPositionIdentifier"),
    ("StackID", "ImageType"),
    ("EchoTime", "ImageType"),
    ("AcquisitionNumber", "EchoTime"),
    ("AcquisitionNumber", "ImageType"),
)
"""Attributes that name it together."""

RANKED = ("TriggerTime", "AcquisitionTime", "InstanceNumber")
"""Attributes that order the visits to one position when they differ from slice to slice."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The planes of one candidate volume, in slice order where the geometry allows.

    Parameters
    ----------
    planes
        Planes of the part.
    name
        What sets the part apart, e.g. ``AcquisitionNumber=2`` or ``visit 3 of 10 by InstanceNumber``; empty
        when the series is one volume.
    """

    planes: tuple[Plane, ...]
    name: str = ""


def split(planes: Sequence[Plane]) -> list[Part]:
    """Return the candidate volumes of one series; one part where nothing separates the planes cleanly."""
    ordered = in_slice_order(planes)
    if _is_regular(ordered):
        return [Part(planes=tuple(ordered))]
    for keywords in (*((keyword,) for keyword in SEPARATORS), *PAIRS):
        parts = _by_values(ordered, keywords)
        if parts is not None:
            return parts
    return _by_visit(ordered) or [Part(planes=tuple(ordered))]


def _is_regular(planes: Sequence[Plane]) -> bool:
    try:
        lattice(planes, allow_tilt=True)
    except Refused:
        return False
    return True


def _by_values(planes: Sequence[Plane], keywords: tuple[str, ...]) -> list[Part] | None:
    if any(keyword not in plane.values for plane in planes for keyword in keywords):
        return None
    found: dict[tuple[object, ...], list[Plane]] = defaultdict(list)
    for plane in planes:
        found[tuple(plane.values[keyword] for keyword in keywords)].append(plane)
    if not 1 < len(found) <= len(planes) // 2:
        return None
    parts = [
        Part(planes=tuple(members), name=_named(keywords, values))
        for values, members in sorted(found.items())
    ]
    return parts if _are_volumes(parts) else None


def _named(keywords: tuple[str, ...], values: tuple[object, ...]) -> str:
    shown = ("/".join(map(str, value)) if isinstance(value, tuple) else value for value in values)
    return ", ".join(f"{keyword}={value}" for keyword, value in zip(keywords, shown, strict=True))


def _are_volumes(parts: Sequence[Part]) -> bool:
    if not all(_is_regular(part.planes) for part in parts):
        return False
    ranges = sorted((found.min(), found.max()) for found in (heights(part.planes) for part in parts))
    return all(later[0] <= earlier[1] for earlier, later in pairwise(ranges))


def _by_visit(planes: Sequence[Plane]) -> list[Part] | None:
    """Take the n-th visit to every position as volume n, where each was visited equally often.

    The attribute that orders the visits must differ between the visits to one position, and its blocks must
    not interleave: either every volume ends before the next begins, or every position does.
    """
    stacks = _stacks(planes)
    visits = len(stacks[0])
    if visits < 2 or len(stacks) < 2 or any(len(stack) != visits for stack in stacks):
        return None
    for keyword in RANKED:
        if any(keyword not in plane.values for plane in planes):
            continue
        key = _ranking(keyword)
        ranked = [sorted(stack, key=key) for stack in stacks]
        if any(key(a) == key(b) for stack in ranked for a, b in pairwise(stack)):
            continue
        volumes = list(zip(*ranked, strict=True))
        if not (_in_blocks(volumes, key) or _in_blocks(ranked, key)):
            continue
        parts = [
            Part(planes=volume, name=f"visit {k} of {visits} by {keyword}")
            for k, volume in enumerate(volumes, start=1)
        ]
        if _are_volumes(parts):
            return parts
    return None


def _ranking(keyword: str) -> Callable[[Plane], float]:
    if keyword.endswith("Time") and keyword != "TriggerTime":
        return lambda plane: _seconds(plane.text(keyword))
    return lambda plane: plane.number(keyword)


def _seconds(time: str) -> float:
    """Return a DICOM time (HHMMSS.FFFFFF) as a number that sorts; 0 where it does not parse."""
    try:
        return float(time.replace(":", ""))
    except ValueError:
        return 0.0


def _stacks(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Return the planes of each position, by rising height."""
    steps = np.diff(heights(planes))
    stacks = [[planes[0]]]
    for plane, step in zip(planes[1:], steps, strict=True):
        if step < SAME_POSITION_MM:
            stacks[-1].append(plane)
        else:
            stacks.append([plane])
    return stacks


def _in_blocks(groups: Sequence[Sequence[Plane]], key: Callable[[Plane], float]) -> bool:
    ranges = sorted((min(map(key, group)), max(map(key, group))) for group in groups)
    return all(earlier[1] <= later[0] for earlier, later in pairwise(ranges))
