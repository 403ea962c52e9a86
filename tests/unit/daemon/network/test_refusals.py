"""Refusals that repeat themselves: every one is counted, and rows stay few."""

from __future__ import annotations

import time
from dataclasses import replace

import peers

from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.refusals import MOST_KINDS, Refusal, Refusals

REFUSAL = Refusal("association refused", "unknown", Origin(calling_ae="CT1", peer_address="10.0.0.1"))


class Rows:
    """A database that takes rows while it is there."""

    def __init__(self) -> None:
        self.taken: list[tuple[Refusal, int]] = []
        self.tried = 0
        self.is_there = True

    def __call__(self, refusal: Refusal, times: int) -> bool:
        self.tried += 1
        if self.is_there:
            self.taken.append((refusal, times))
        return self.is_there


def test_the_first_is_written_at_once_and_the_others_when_the_window_ends() -> None:
    rows = Rows()
    refusals = Refusals(rows, window_seconds=0.2)
    for _ in range(5):
        refusals.tell(REFUSAL)
    assert rows.taken == [(REFUSAL, 1)]
    peers.wait_until(lambda: len(rows.taken) > 1, 5, "the end of the window")
    assert rows.taken == [(REFUSAL, 1), (REFUSAL, 4)]


def test_a_window_in_which_nothing_repeats_adds_nothing() -> None:
    rows = Rows()
    refusals = Refusals(rows, window_seconds=0.05)
    refusals.tell(REFUSAL)
    time.sleep(0.15)
    refusals.tell(REFUSAL)
    assert rows.taken == [(REFUSAL, 1)] * 2


def test_made_up_callers_are_counted_together_from_a_number_on() -> None:
    rows = Rows()
    refusals = Refusals(rows)
    for number in range(MOST_KINDS + 500):
        refusals.tell(Refusal("association refused", "unknown", Origin(calling_ae=f"CT{number}")))
    refusals.flush()
    assert sum(times for _, times in rows.taken) == MOST_KINDS + 500
    assert len(rows.taken) == MOST_KINDS + 2
    assert "more than 1000 different refusals within 60 s" in rows.taken[-1][0].reason


def test_what_the_database_does_not_take_is_written_when_it_is_back() -> None:
    rows = Rows()
    refusals = Refusals(rows, window_seconds=0.1)
    rows.is_there = False
    for _ in range(3):
        refusals.tell(REFUSAL)
    refusals.tell(replace(REFUSAL, reason="another"))
    peers.wait_until(lambda: rows.tried > 4, 5, "two windows without a database")
    assert rows.taken == []
    rows.is_there = True
    peers.wait_until(lambda: len(rows.taken) > 1, 5, "the database's return")
    assert sorted(rows.taken, key=lambda row: row[1]) == [
        (replace(REFUSAL, reason="another"), 1),
        (REFUSAL, 3),
    ]


def test_a_database_that_is_gone_for_long_is_asked_once_a_window_and_memory_is_bounded() -> None:
    rows = Rows()
    refusals = Refusals(rows)
    rows.is_there = False
    told = 3 * MOST_KINDS
    for number in range(told):
        refusals.tell(Refusal("association refused", "unknown", Origin(calling_ae=f"CT{number}")))
        if number % MOST_KINDS == MOST_KINDS // 2:
            tried = rows.tried
            refusals.flush()
            assert rows.tried == tried + 1
    assert len(refusals._repeated) <= MOST_KINDS + 1
    rows.is_there = True
    refusals.flush()
    assert sum(times for _, times in rows.taken) == told
