"""Has the lesion really changed? Pair the lesions of two studies, and judge the change by repeatability.

Two measurements of a lesion that did not change differ by less than the repeatability coefficient 95 times
in 100:

    RC = 1.96 sqrt(2) sw = 2.77 sw,    in percent 2.77 wCV

with sw the within-subject standard deviation of that biomarker, from a test-retest study. What stays inside
is not called a change.

References
----------
Bland, Altman (1999), doi:10.1177/096228029900800204; Raunig et al. (2015), doi:10.1177/0962280214537344.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from voxtrial.daemon.errors import Misconfigured, Refused

REPEATABILITY = 1.959963984540054 * math.sqrt(2)
"""95 % limit of the difference of two measurements in units of sw."""

Verdict = Literal["increased", "decreased", "within repeatability"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """Difference of one biomarker between two studies."""

    before: float
    after: float
    limit: float
    """Repeatability coefficient in the unit of the biomarker, at ``before``."""
    verdict: Verdict

    @property
    def absolute(self) -> float:
        """After minus before."""
        return self.after - self.before

    @property
    def percent(self) -> float | None:
        """Change in percent of before; None where before is 0."""
        return 100 * self.absolute / self.before if self.before else None


def change(
    before: float, after: float, *, within_sd: float | None = None, within_cv: float | None = None
) -> Change:
    """Judge the change of a biomarker.

    Parameters
    ----------
    within_sd
        sw of the biomarker, in its unit, where the error does not depend on the size.
    within_cv
        wCV as a fraction (0.1 for 10 %), where it grows with the size.

    Raises
    ------
    Misconfigured
        Not exactly one of the two, or a negative one.
    """
    given = [v for v in (within_sd, within_cv) if v is not None]
    if len(given) != 1 or given[0] < 0:
        raise Misconfigured(
            "A change needs either the within-subject SD or the within-subject CV, 0 or more."
        )
    spread = within_sd if within_sd is not None else given[0] * abs(before)
    limit = REPEATABILITY * spread
    verdict: Verdict = "within repeatability"
    if abs(after - before) > limit:
        verdict = "increased" if after > before else "decreased"
    return Change(before=before, after=after, limit=limit, verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """What pairing needs to know of a lesion."""

    tracking_uid: str
    centre_mm: tuple[float, float, float]
    """LPS, in a frame of reference that both studies share or were registered to."""
    diameter_mm: float


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Lesions of two studies by index: the same ones, those that are gone, those that are new."""

    pairs: tuple[tuple[int, int], ...]
    gone: tuple[int, ...]
    new: tuple[int, ...]


def pair(before: Sequence[Lesion], after: Sequence[Lesion], *, reach_mm: float = 10.0) -> Pairing:
    """Find each lesion again: by its tracking UID, else by the nearest place.

    The remaining lesions are paired so that the sum of distances is least; two further apart than half
    their mean diameter plus ``reach_mm`` are not the same.

    Raises
    ------
    Refused
        ``duplicate_tracking_uid`` within one study.
    """
    from scipy.optimize import linear_sum_assignment

    places = []
    for study in (before, after):
        tracked = [lesion.tracking_uid for lesion in study if lesion.tracking_uid]
        if len(set(tracked)) < len(tracked):
            raise Refused("Two lesions of one study share a tracking UID.", rule="duplicate_tracking_uid")
        places.append({lesion.tracking_uid: i for i, lesion in enumerate(study) if lesion.tracking_uid})
    pairs = [(i, places[1][uid]) for uid, i in places[0].items() if uid in places[1]]
    left = [i for i in range(len(before)) if i not in {a for a, _ in pairs}]
    right = [j for j in range(len(after)) if j not in {b for _, b in pairs}]
    if left and right:
        distance = np.array(
            [[math.dist(before[i].centre_mm, after[j].centre_mm) for j in right] for i in left]
        )
        most = np.array(
            [[(before[i].diameter_mm + after[j].diameter_mm) / 4 + reach_mm for j in right] for i in left]
        )
        # Forbidden pairs cost more than all allowed ones together, so they never displace one.
        cost = np.where(distance <= most, distance, most.max() * (len(left) + len(right) + 1))
        rows, columns = linear_sum_assignment(cost)
        pairs += [
            (left[a], right[b]) for a, b in zip(rows, columns, strict=True) if distance[a, b] <= most[a, b]
        ]
    found = sorted(pairs)
    return Pairing(
        pairs=tuple(found),
        gone=tuple(i for i in range(len(before)) if i not in {a for a, _ in found}),
        new=tuple(j for j in range(len(after)) if j not in {b for _, b in found}),
    )
