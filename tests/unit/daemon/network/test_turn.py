"""Processes that write one SQLite file take turns."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from voxtrial.daemon.network.turn import Turn


def test_the_next_one_waits_until_the_turn_is_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/voxtrial.db"
    first, second = Turn(create_engine(url)), Turn(create_engine(url))
    entered = threading.Event()

    def follow() -> None:
        with second:
            entered.set()

    with first:
        thread = threading.Thread(target=follow)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    thread.join()
    first.close()
    second.close()


def test_a_turn_is_over_when_its_work_fails(tmp_path: Path) -> None:
    turn = Turn(create_engine(f"sqlite:///{tmp_path}/voxtrial.db"))
    with pytest.raises(ZeroDivisionError), turn:
        _ = 1 // 0
    with (tmp_path / "voxtrial.db-turn").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    turn.close()


def test_a_turn_can_be_taken_after_it_was_closed(tmp_path: Path) -> None:
    turn = Turn(create_engine(f"sqlite:///{tmp_path}/voxtrial.db"))
    for _ in range(2):
        with turn:
            pass
        turn.close()


def test_a_database_in_memory_needs_no_turn(tmp_path: Path) -> None:
    with Turn(create_engine("sqlite://")):
        assert list(tmp_path.iterdir()) == []
