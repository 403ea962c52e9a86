"""Give the jobs of dead workers back to the queue."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Engine

from voxtrial.daemon.settings import Compute, Settings
from voxtrial.db import queue
from voxtrial.db.engine import sessions
from voxtrial.db.queue import RetryPolicy

logger = logging.getLogger(__name__)


@dataclass
class Rescuer:
    """The duty, bound to a site; ``[compute]`` says how often and how long a job is tried."""

    settings: Settings
    engine: Engine

    def run_once(self, now: datetime) -> int:
        """Take back every job whose lease has run out; return how many there were."""
        with sessions(self.engine).begin() as session:
            rescued = queue.rescue(session, now, retry_policy(self.settings.compute))
        for job in rescued:
            logger.warning("job rescued", extra={"job": job.id, "state": job.state, "step": job.step})
        return len(rescued)


def retry_policy(compute: Compute) -> RetryPolicy:
    """Return how the configuration wants failed jobs to be tried again."""
    return replace(
        queue.JOBS,
        first_delay=timedelta(seconds=compute.retry_seconds),
        longest_delay=timedelta(seconds=compute.longest_retry_seconds),
        maximum_attempts=compute.maximum_attempts,
        maximum_age=timedelta(hours=compute.maximum_age_hours),
    )
