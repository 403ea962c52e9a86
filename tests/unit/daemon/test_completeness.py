"""When a study is complete: the table of decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from voxtrial.daemon.services.completeness import (
    Decision,
    Open,
    is_quiet,
    quiet_period,
    unreachable,
    with_peer,
    without_peer,
)
from voxtrial.daemon.settings import Completeness, QuietRule
from voxtrial.db.states import StudyState

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RULES = Completeness(
    quiet_seconds=60,
    cap_hours=2,
    overrides=(
        QuietRule(ae_title="SLOWMR", modality="MR", quiet_seconds=600),
        QuietRule(modality="PT", quiet_seconds=300),
    ),
)


def study(*, silent: float = 60, old: float = 60, **changes: Any) -> Open:
    values: dict[str, Any] = {
        "version_id": 1,
        "study_instance_uid": "1.2.3",
        "calling_ae": "CT1",
        "modalities": {"CT"},
        "first_instance_at": NOON - timedelta(seconds=max(silent, old)),
        "last_instance_at": NOON - timedelta(seconds=silent),
    }
    return Open(**{**values, **changes})


@pytest.mark.parametrize(
    ("calling_ae", "modalities", "seconds"),
    [
        ("CT1", {"CT"}, 60),
        ("SLOWMR", {"MR"}, 600),
        ("SLOWMR", {"CT"}, 60),
        ("FASTMR", {"MR"}, 60),
        ("CT1", {"CT", "PT"}, 300),
        ("SLOWMR", {"MR", "PT"}, 600),
    ],
)
def test_the_first_rule_that_matches_sets_the_quiet_period(
    calling_ae: str, modalities: set[str], seconds: float
) -> None:
    known = study(calling_ae=calling_ae, modalities=modalities)
    assert quiet_period(RULES, known) == timedelta(seconds=seconds)


def test_silence_closes_when_nobody_can_be_asked() -> None:
    assert not is_quiet(RULES, study(silent=59.9), NOON)
    assert without_peer(RULES, study(silent=59.9), NOON) == Decision()
    assert without_peer(RULES, study(silent=60), NOON).close is StudyState.ASSUMED


def test_a_study_that_never_falls_silent_ends_incomplete() -> None:
    decision = without_peer(RULES, study(silent=1, old=7200), NOON)
    assert (decision.close, decision.basis) == (StudyState.INCOMPLETE, "cap")


def test_equal_counts_confirm() -> None:
    decision = with_peer(RULES, study(), NOON, held=["a", "b"], at_pacs=["b", "a"])
    assert (decision.close, decision.basis, decision.expected) == (StudyState.CONFIRMED, "c-find", 2)


def test_what_is_missing_is_named_and_waited_for_until_the_cap() -> None:
    decision = with_peer(RULES, study(), NOON, held=["a"], at_pacs=["a", "c", "b"])
    assert (decision.close, decision.missing, decision.expected) == (None, ("b", "c"), 3)
    capped = with_peer(RULES, study(old=7200), NOON, held=["a"], at_pacs=["a", "c", "b"])
    assert (capped.close, capped.missing) == (StudyState.INCOMPLETE, ("b", "c"))
    assert capped.reason == "2 of 3 instances that the PACS has did not arrive within 2 hours."


def test_a_pacs_that_is_still_filling_is_asked_again() -> None:
    first = with_peer(RULES, study(), NOON, held=["a", "b"], at_pacs=["a"])
    assert (first.close, first.expected) == (None, 1)
    filling = study(silent=120, seen_before=1)
    assert with_peer(RULES, filling, NOON, held=["a", "b"], at_pacs=["a"]).close is StudyState.ASSUMED
    assert with_peer(RULES, filling, NOON, held=["a", "b"], at_pacs=[]).close is None


def test_a_pacs_that_cannot_be_asked_is_waited_for_until_the_cap() -> None:
    assert unreachable(RULES, study(), NOON, OSError("x")) == Decision()
    assert unreachable(RULES, study(old=7200), NOON, OSError("x")).close is StudyState.INCOMPLETE
