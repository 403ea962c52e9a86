"""Workers that share a port: who serves more than another lets that one accept first."""

from __future__ import annotations

import os

from voxtrial.daemon.network.shares import Shares


def test_a_worker_alone_is_never_ahead() -> None:
    share = Shares(1).of(0)
    share.begin()
    assert not share.is_ahead


def test_a_worker_is_ahead_of_the_one_that_serves_fewest() -> None:
    shares = Shares(3)
    first, second, third = (shares.of(number) for number in range(3))
    first.begin()
    second.begin()
    assert first.is_ahead
    assert not third.is_ahead
    third.begin()
    assert not first.is_ahead
    second.end()
    assert first.is_ahead
    assert not second.is_ahead


def test_counts_are_seen_by_a_forked_process() -> None:
    shares = Shares(2)
    mine = shares.of(0)
    pid = os.fork()
    if not pid:
        shares.of(1).begin()
        os._exit(0)
    os.waitpid(pid, 0)
    mine.begin()
    assert not mine.is_ahead
    mine.begin()
    assert mine.is_ahead


def test_a_worker_that_replaces_another_begins_with_none() -> None:
    shares = Shares(2)
    shares.of(1).begin()
    survivor = shares.of(0)
    survivor.begin()
    assert not survivor.is_ahead
    shares.of(1)
    assert survivor.is_ahead
