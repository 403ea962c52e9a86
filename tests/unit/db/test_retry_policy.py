"""How long failed work waits: doubled, capped, spread, the same on every replay, and not for ever."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rows import MONDAY

from voxtrial.db.queue.policy import DELIVERIES, JOBS, RetryPolicy

SECOND = timedelta(seconds=1)
PLAIN = RetryPolicy(
    first_delay=10 * SECOND,
    longest_delay=60 * SECOND,
    jitter=0.0,
    maximum_attempts=5,
    maximum_age=timedelta(hours=1),
)


def test_wait_doubles_up_to_its_cap() -> None:
    waits = [PLAIN.delay(key=1, attempts=attempts) / SECOND for attempts in (1, 2, 3, 4, 5, 200)]
    assert waits == [10, 20, 40, 60, 60, 60]


@pytest.mark.parametrize("policy", [JOBS, DELIVERIES])
def test_jitter_spreads_rows_that_failed_together_over_the_last_quarter_of_the_wait(
    policy: RetryPolicy,
) -> None:
    """A uniform spread over (0.75, 1] of the wait has the mean 0.875; 1,000 rows are within 0.01 of it."""
    shares = [policy.delay(key=key, attempts=1) / policy.first_delay for key in range(1000)]
    assert 0.75 <= min(shares) < 0.76
    assert 0.99 < max(shares) <= 1.0
    assert sum(shares) / 1000 == pytest.approx(0.875, abs=0.01)
    assert len(set(shares)) > 990
    assert shares == [policy.delay(key=key, attempts=1) / policy.first_delay for key in range(1000)]


def test_work_is_given_up_at_its_last_attempt_or_past_its_age() -> None:
    hour = timedelta(hours=1)
    assert PLAIN.exhausted(attempts=4, since=MONDAY, now=MONDAY + hour) == ""
    assert PLAIN.exhausted(attempts=5, since=MONDAY, now=MONDAY) == "attempt 5 of 5"
    assert PLAIN.exhausted(attempts=1, since=MONDAY, now=MONDAY + hour + SECOND) == "older than 1:00:00"
