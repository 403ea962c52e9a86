"""Duties are woken again and again, never twice at a time; windows follow cron."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.scheduler import Duty, Scheduler, is_open

TICK = timedelta(seconds=0.05)


def test_failing_duty_is_woken_again_and_holds_up_no_other() -> None:
    looks = {"fails": 0, "works": 0}
    enough = threading.Event()

    def fail() -> None:
        looks["fails"] += 1
        raise OSError("disk")

    def work() -> None:
        looks["works"] += 1
        if min(looks.values()) >= 3:
            enough.set()

    scheduler = Scheduler(
        [Duty(name="fails", run_once=fail, every=TICK), Duty(name="works", run_once=work, every=TICK)]
    )
    scheduler.start()
    assert enough.wait(20)
    scheduler.stop()


def test_slow_duty_is_never_run_twice_at_the_same_time() -> None:
    at_once = threading.Semaphore(1)
    overlaps: list[int] = []
    looks: list[int] = []

    def work() -> None:
        if not at_once.acquire(blocking=False):
            overlaps.append(1)
            return
        time.sleep(0.2)
        looks.append(1)
        at_once.release()

    scheduler = Scheduler([Duty(name="slow", run_once=work, every=TICK)])
    scheduler.start()
    deadline = time.monotonic() + 20
    while len(looks) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    scheduler.stop()
    assert len(looks) >= 3
    assert overlaps == []


@pytest.mark.parametrize(("hour", "expected"), [(19, False), (20, True), (23, True), (3, True), (6, False)])
def test_window_over_midnight(hour: int, expected: bool) -> None:
    local = datetime(2026, 11, 23, hour, 30, 12).astimezone()
    assert is_open("* 20-23,0-5 * * *", local.astimezone(UTC)) is expected


def test_weekend_window() -> None:
    saturday = datetime(2026, 11, 21, 12).astimezone()
    assert is_open("* * * * sat,sun", saturday)
    assert not is_open("* * * * sat,sun", saturday + timedelta(days=2))


def test_window_that_is_no_cron_expression_is_refused_with_an_example() -> None:
    with pytest.raises(Misconfigured, match="write five cron fields"):
        is_open("at night", datetime.now(UTC))
