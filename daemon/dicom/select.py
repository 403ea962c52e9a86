"""Choose the series of a study that suits a model, by a stated policy, with a reason for every other one.

No policy, no choice: when two series suit equally well the answer is a refusal, not the first one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from voxtrial.daemon.dicom.geometry import Geometry, check
from voxtrial.daemon.dicom.series import SeriesFiles
from voxtrial.daemon.errors import Refused

Preference = Literal["thinnest", "thickest", "most_slices", "none"]


@dataclass(frozen=True, kw_only=True)
class Selector:
    """What a model asks of its input; every field that is given must hold.

    Parameters
    ----------
    modality
        Modality (0008,0060), e.g. ``CT``.
    description, not_description
        Regular expressions that Series Description must contain, or must not; case is ignored.
    kernel
        Regular expression for Convolution Kernel.
    image_type
        Values that ImageType must hold, e.g. ``("ORIGINAL", "AXIAL")``.
    part
        Regular expression for the part of a series that holds several volumes, e.g.
        ``TemporalPosition.*=1$``.
    minimum_slices
        Fewest slices.
    minimum_slice_spacing_mm, maximum_slice_spacing_mm
        Bounds of the distance between slice positions.
    contrast
        Whether a contrast agent must be named (True) or absent (False); None takes both.
    allow_tilt
        Accept gantry tilt; the recipe must then correct it.
    prefer
        What decides between several that hold: ``thinnest`` or ``thickest`` slice spacing, ``most_slices``,
        or ``none``.
    """

    modality: str = ""
    description: str = ""
    not_description: str = ""
    kernel: str = ""
    image_type: tuple[str, ...] = ()
    part: str = ""
    minimum_slices: int = 2
    minimum_slice_spacing_mm: float = 0.0
    maximum_slice_spacing_mm: float = float("inf")
    contrast: bool | None = None
    allow_tilt: bool = False
    prefer: Preference = "thinnest"


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A series that was not chosen."""

    series_instance_uid: str
    part: str
    name: str
    rule: str
    """``selector``, ``preference``, or the rule of the gate."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The series that was chosen, and why no other one was."""

    chosen: SeriesFiles
    geometry: Geometry
    rejected: tuple[Rejection, ...]


def select(series: Sequence[SeriesFiles], selector: Selector) -> SeriesFiles:
    """Return the series that ``selector`` chooses; see :func:`choose`."""
    return choose(series, selector).chosen


def choose(series: Sequence[SeriesFiles], selector: Selector) -> Selection:
    """Return the series that ``selector`` chooses, with a reason for each that it does not.

    Raises
    ------
    Refused
        With the gate's rule if only one series was asked for and the gate refuses it; ``no_series`` if none
        holds; ``ambiguous_series`` if several hold and the preference does not decide.
    """
    rejected: list[Rejection] = []
    suited: list[tuple[SeriesFiles, Geometry]] = []
    gate: list[Refused] = []
    for one in series:
        reason = _unsuited(one, selector)
        if reason:
            rejected.append(_rejection(one, "selector", reason))
            continue
        try:
            geometry = check(one, allow_tilt=selector.allow_tilt)
        except Refused as refusal:
            gate.append(refusal)
            rejected.append(_rejection(one, refusal.rule, str(refusal)))
            continue
        reason = _wrong_extent(geometry, selector)
        if reason:
            rejected.append(_rejection(one, "selector", reason))
        else:
            suited.append((one, geometry))
    if not suited:
        if len(gate) == 1:
            raise Refused(str(gate[0]), rule=gate[0].rule)
        raise Refused(_none_suits(rejected), rule="no_series")
    rank = _RANKS[selector.prefer]
    suited.sort(key=lambda pair: rank(pair[1]))
    (chosen, geometry), others = suited[0], suited[1:]
    if others and abs(rank(others[0][1]) - rank(geometry)) < _SAME_RANK:
        names = "; ".join(one.name for one, other in suited if abs(rank(other) - rank(geometry)) < _SAME_RANK)
        message = f"Several series suit equally well by {selector.prefer}: {names}; narrow the selector"
        raise Refused(message, rule="ambiguous_series")
    rejected += [
        _rejection(
            one,
            "preference",
            f"{selector.prefer}: {len(one.files)} slices at {other.slice_spacing_mm:.4g} mm against "
            f"{len(chosen.files)} at {geometry.slice_spacing_mm:.4g} mm",
        )
        for one, other in others
    ]
    return Selection(chosen=chosen, geometry=geometry, rejected=tuple(rejected))


_SAME_RANK = 1e-3
_RANKS: dict[Preference, Callable[[Geometry], float]] = {
    "thinnest": lambda geometry: geometry.slice_spacing_mm,
    "thickest": lambda geometry: -geometry.slice_spacing_mm,
    "most_slices": lambda geometry: -geometry.grid.shape[0],
    "none": lambda _: 0.0,
}


def _unsuited(one: SeriesFiles, selector: Selector) -> str:
    """Return what the headers lack, or the empty string."""
    if selector.modality and one.modality != selector.modality:
        return f"modality is {one.modality or 'absent'}, not {selector.modality}"
    if one.refusal is not None and one.refusal.rule in _NOT_IMAGES:
        return str(one.refusal)
    for field, text in (
        ("description", one.description),
        ("kernel", str(one.acquisition.get("ConvolutionKernel", ""))),
        ("part", one.part),
    ):
        pattern = getattr(selector, field)
        if pattern and not re.search(pattern, text, re.IGNORECASE):
            return f'{field} "{text}" does not match "{pattern}"'
    if selector.not_description and re.search(selector.not_description, one.description, re.IGNORECASE):
        return f'description "{one.description}" matches "{selector.not_description}", which is excluded'
    lacking = [value for value in selector.image_type if value not in one.image_type]
    if lacking:
        return f"image type {'/'.join(one.image_type) or 'absent'} lacks {', '.join(lacking)}"
    agent = str(one.acquisition.get("ContrastBolusAgent", ""))
    if selector.contrast is True and not agent:
        return "no contrast agent is named"
    if selector.contrast is False and agent:
        return f"contrast agent {agent}"
    if len(one.files) < selector.minimum_slices:
        return f"{len(one.files)} slices, fewer than {selector.minimum_slices}"
    return ""


_NOT_IMAGES = frozenset(("color", "derived_object", "localizer", "not_an_image", "not_dicom"))
"""Rules that say what an object is; the others say what is wrong with an image that was wanted."""


def _wrong_extent(geometry: Geometry, selector: Selector) -> str:
    low, high = selector.minimum_slice_spacing_mm, selector.maximum_slice_spacing_mm
    if not low - _SAME_RANK <= geometry.slice_spacing_mm <= high + _SAME_RANK:
        return f"slice spacing {geometry.slice_spacing_mm:.4g} mm is not within {low:g} to {high:g} mm"
    return ""


def _rejection(one: SeriesFiles, rule: str, reason: str) -> Rejection:
    return Rejection(
        series_instance_uid=one.series_instance_uid, part=one.part, name=one.name, rule=rule, reason=reason
    )


def _none_suits(rejected: Sequence[Rejection]) -> str:
    if not rejected:
        return "The study holds no series"
    return "No series suits: " + "; ".join(f"{one.name}: {one.reason}" for one in rejected)
