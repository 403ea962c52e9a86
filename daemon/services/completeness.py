"""When a study is complete: the quiet period, the PACS's count, the hard cap.

The decision is a pure function of what is known; asking the PACS and moving the row are the assembler's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from voxtrial.daemon.settings import Completeness
from voxtrial.db.states import StudyState


@dataclass(frozen=True, kw_only=True)
class Open:
    """A study version that still receives, as the decision sees it."""

    version_id: int
    study_instance_uid: str
    calling_ae: str
    modalities: Collection[str]
    first_instance_at: datetime
    last_instance_at: datetime
    seen_before: int | None = None
    """Count that the PACS gave last time."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to happen: close into a state, fetch what is missing, or wait (neither)."""

    close: StudyState | None = None
    basis: str = ""
    reason: str = ""
    expected: int | None = None
    missing: tuple[str, ...] = ()


def quiet_period(rules: Completeness, study: Open) -> timedelta:
    """Return the silence that closes ``study``: the first override that matches, or the site's value."""
    for rule in rules.overrides:
        if rule.ae_title in ("", study.calling_ae) and (
            not rule.modality or rule.modality in study.modalities
        ):
            return timedelta(seconds=rule.quiet_seconds)
    return timedelta(seconds=rules.quiet_seconds)


def is_quiet(rules: Completeness, study: Open, now: datetime) -> bool:
    """Return whether nothing has come for the quiet period."""
    return now - study.last_instance_at >= quiet_period(rules, study)


def is_capped(rules: Completeness, study: Open, now: datetime) -> bool:
    """Return whether the study has been open for longer than the hard cap."""
    return now - study.first_instance_at >= timedelta(hours=rules.cap_hours)


def without_peer(rules: Completeness, study: Open, now: datetime) -> Decision:
    """Decide when nobody can be asked: silence closes, and the cap ends a study that never falls silent."""
    if is_quiet(rules, study, now):
        return Decision(close=StudyState.ASSUMED, basis="quiet")
    if is_capped(rules, study, now):
        reason = f"Instances still arrive after {rules.cap_hours:g} hours."
        return Decision(close=StudyState.INCOMPLETE, basis="cap", reason=reason)
    return Decision()


def with_peer(
    rules: Completeness,
    study: Open,
    now: datetime,
    *,
    held: Collection[str],
    at_pacs: Collection[str],
    basis: str = "c-find",
) -> Decision:
    """Decide from the SOP Instance UIDs that we hold and that the PACS lists, our own results left out.

    The PACS has more: they are missing here. It has fewer: it may be filling still, so the study closes only
    when its count has stayed the same over two quiet periods. ``basis`` says how it was asked.
    """
    missing = tuple(sorted(set(at_pacs) - set(held)))
    expected = len(at_pacs)
    if not missing and expected == len(held):
        return Decision(close=StudyState.CONFIRMED, basis=basis, expected=expected)
    if is_capped(rules, study, now):
        reason = (
            f"{len(missing)} of {expected} instances that the PACS has did not arrive "
            f"within {rules.cap_hours:g} hours."
        )
        close = StudyState.INCOMPLETE if missing else StudyState.ASSUMED
        return Decision(close=close, basis="cap", reason=reason, expected=expected, missing=missing)
    if missing:
        return Decision(expected=expected, missing=missing)
    if study.seen_before == expected and now - study.last_instance_at >= 2 * quiet_period(rules, study):
        reason = f"The PACS has only {expected} of our {len(held)} instances, and no more are coming."
        return Decision(close=StudyState.ASSUMED, basis="quiet", reason=reason, expected=expected)
    return Decision(expected=expected)


def unreachable(rules: Completeness, study: Open, now: datetime, error: Exception) -> Decision:
    """Decide when the PACS could not be asked: wait until the cap, then leave it to a person."""
    if not is_capped(rules, study, now):
        return Decision()
    reason = f"The PACS could not be asked within {rules.cap_hours:g} hours: {error}"
    return Decision(close=StudyState.INCOMPLETE, basis="cap", reason=reason)
