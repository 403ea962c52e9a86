"""A change is one only beyond the repeatability coefficient."""

from __future__ import annotations

import numpy as np
import pytest

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.measure.change import REPEATABILITY, Lesion, change, pair


def lesion(x: float, uid: str = "", diameter: float = 10.0) -> Lesion:
    return Lesion(tracking_uid=uid, centre_mm=(x, 0.0, 0.0), diameter_mm=diameter)


def test_within_subject_cv_of_ten_percent_allows_27_7_percent() -> None:
    assert pytest.approx(2.77, abs=0.002) == REPEATABILITY
    assert change(10.0, 12.7, within_cv=0.1).verdict == "within repeatability"
    assert change(10.0, 12.8, within_cv=0.1).verdict == "increased"
    assert change(10.0, 7.2, within_cv=0.1).verdict == "decreased"
    assert change(10.0, 12.8, within_cv=0.1).percent == pytest.approx(28)
    assert change(0.0, 1.0, within_sd=0.1).percent is None


def test_pairs_that_did_not_change_stay_inside_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    first, second = 50 + rng.normal(0, 1.7, (2, 20_000))
    inside = [
        change(float(a), float(b), within_sd=1.7).verdict == "within repeatability"
        for a, b in zip(first, second, strict=True)
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.005)


def test_repeatability_is_given_exactly_once() -> None:
    for given in ({}, {"within_sd": 1.0, "within_cv": 0.1}, {"within_sd": -1.0}):
        with pytest.raises(Misconfigured):
            change(1.0, 2.0, **given)


def test_tracking_uid_wins_over_the_place() -> None:
    found = pair([lesion(0, "a"), lesion(30, "b")], [lesion(1, "b"), lesion(29, "a")])
    assert found.pairs == ((0, 1), (1, 0))


def test_nearest_places_are_paired_as_a_whole() -> None:
    """Greedy pairing would take (5 -> 4) and leave 0 without a partner nearby."""
    found = pair([lesion(0), lesion(5)], [lesion(4), lesion(11)])
    assert found.pairs == ((0, 0), (1, 1))


def test_gone_and_new_lesions_are_named() -> None:
    found = pair([lesion(0), lesion(100)], [lesion(3), lesion(300)])
    assert (found.pairs, found.gone, found.new) == (((0, 0),), (1,), (1,))
    assert pair([], [lesion(0)]).new == (0,)
    assert pair([lesion(0)], []).gone == (0,)


def test_forbidden_pair_never_displaces_an_allowed_one() -> None:
    found = pair([lesion(0), lesion(14)], [lesion(14), lesion(40)], reach_mm=10)
    assert found.pairs == ((1, 0),)


def test_doubled_tracking_uid_is_refused() -> None:
    with pytest.raises(Refused, match="share a tracking UID"):
        pair([lesion(0, "a"), lesion(9, "a")], [])
