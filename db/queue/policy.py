"""What is due first, how long failed work waits, and when it is not tried any more."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

HEAD_START = {0: timedelta(0), 1: timedelta(hours=4), 2: timedelta(hours=24)}
"""How much later than urgent work (0) routine (1) and batch work (2) is due: waiting makes up for it, so
that nothing starves, and the order of claims is a column that an index can hold."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter, capped in length, number and age.

    Parameters
    ----------
    first_delay
        Wait after the first failed attempt; it doubles with every further one.
    longest_delay
        Cap of the wait.
    jitter
        Share of the wait that is spread, so that work that failed together does not come back together.
    maximum_attempts, maximum_age
        Past either of them the work is DEAD.
    """

    first_delay: timedelta
    longest_delay: timedelta
    jitter: float = 0.25
    maximum_attempts: int
    maximum_age: timedelta

    def delay(self, *, key: int, attempts: int) -> timedelta:
        """Return the wait after ``attempts`` failed attempts.

        The jitter is a hash of ``key`` and ``attempts``: spread over rows, the same on every replay.
        """
        doubled = self.first_delay * (1 << min(attempts - 1, 30))
        digest = hashlib.sha256(f"{key}:{attempts}".encode()).digest()
        spread = int.from_bytes(digest[:4], "big") / 2**32
        return min(doubled, self.longest_delay) * (1 - self.jitter * spread)

    def exhausted(self, *, attempts: int, since: datetime, now: datetime) -> str:
        """Return why there will be no further attempt; empty when there may be one."""
        if attempts >= self.maximum_attempts:
            return f"attempt {attempts} of {self.maximum_attempts}"
        if now - since > self.maximum_age:
            return f"older than {self.maximum_age}"
        return ""


JOBS = RetryPolicy(
    first_delay=timedelta(seconds=15),
    longest_delay=timedelta(minutes=30),
    maximum_attempts=5,
    maximum_age=timedelta(hours=72),
)
DELIVERIES = RetryPolicy(  # a PACS may be down for a weekend
    first_delay=timedelta(seconds=10),
    longest_delay=timedelta(minutes=30),
    maximum_attempts=200,
    maximum_age=timedelta(days=7),
)
