"""Refusals that repeat themselves: every one is counted, and rows stay few."""

from __future__ import annotations

import time

import peers

from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.refusals import MOST_KINDS, Refusal, Refusals

REFUSAL = Refusal("association refused", "unknown", Origin(calling_ae="CT1", peer_address="10.0.0.1"))


def test_the_first_is_written_at_once_and_the_others_when_the_window_ends() -> None:
    rows: list[tuple[Refusal, int]] = []
    refusals = Refusals(lambda refusal, times: rows.append((refusal, times)), window_seconds=0.2)
    for _ in range(5):
        refusals.tell(REFUSAL)
    assert rows == [(REFUSAL, 1)]
    peers.wait_until(lambda: len(rows) > 1, 5, "the end of the window")
    assert rows == [(REFUSAL, 1), (REFUSAL, 4)]


def test_a_window_in_which_nothing_repeats_adds_nothing() -> None:
    rows: list[tuple[Refusal, int]] = []
    refusals = Refusals(lambda refusal, times: rows.append((refusal, times)), window_seconds=0.05)
    refusals.tell(REFUSAL)
    time.sleep(0.15)
    refusals.tell(REFUSAL)
    assert rows == [(REFUSAL, 1)] * 2


def test_made_up_callers_are_counted_together_from_a_number_on() -> None:
    rows: list[tuple[Refusal, int]] = []
    refusals = Refusals(lambda refusal, times: rows.append((refusal, times)))
    for number in range(MOST_KINDS + 500):
        refusals.tell(Refusal("association refused", "unknown", Origin(calling_ae=f"CT{number}")))
    refusals.flush()
    assert sum(times for _, times in rows) == MOST_KINDS + 500
    assert len(rows) == MOST_KINDS + 2
    assert "more than 1000 different refusals within 60 s" in rows[-1][0].reason
