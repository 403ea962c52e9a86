"""Wake the duties: APScheduler says when to look, SQL says what there is to do.

Nothing is stored in the scheduler. A duty that was missed, or that failed, finds the same rows next time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from apscheduler.events import EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from voxtrial.daemon.errors import Misconfigured

logger = logging.getLogger(__name__)
logging.getLogger("apscheduler").setLevel(
    logging.ERROR
)  # a duty that is still busy when it is due is no news


@dataclass(frozen=True, kw_only=True)
class Duty:
    """Something to look after.

    Parameters
    ----------
    name
        Name in logs.
    run_once
        Does what there is to do now; safe to be killed at any moment and to be called again.
    every
        Time between two looks.
    """

    name: str
    run_once: Callable[[], object]
    every: timedelta


class Scheduler:
    """Runs every duty in a thread of its own, never twice at the same time."""

    def __init__(self, duties: Sequence[Duty]) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(max(len(duties), 1))},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
            timezone="UTC",
        )
        self._scheduler.add_listener(_report_missed, EVENT_JOB_MISSED)
        for duty in duties:
            self._scheduler.add_job(
                _run_once, IntervalTrigger(seconds=duty.every.total_seconds()), args=[duty], id=duty.name
            )

    def start(self) -> None:
        """Look at every duty at once, then at its interval."""
        self._scheduler.start(paused=True)
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=datetime.now(self._scheduler.timezone))
        self._scheduler.resume()

    def stop(self) -> None:
        """Start nothing any more and wait for what runs."""
        self._scheduler.shutdown(wait=True)


def is_open(window: str, now: datetime) -> bool:
    """Whether the cron expression of a processing window matches the minute of ``now``, in local time.

    Raises
    ------
    Misconfigured
        The expression is not one of cron's.
    """
    minute = now.replace(second=0, microsecond=0)
    following = _trigger(window).get_next_fire_time(None, minute)
    return following is not None and following == minute


def may_start(window: str, now: datetime) -> bool:
    """Whether a window is open; one that cannot be read holds nothing back."""
    try:
        return is_open(window, now)
    except Misconfigured:
        logger.exception("window cannot be read")
        return True


@cache
def _trigger(window: str) -> CronTrigger:
    try:
        return CronTrigger.from_crontab(window)
    except ValueError as error:
        raise Misconfigured(
            f"{window!r} is no processing window: {error}; write five cron fields, e.g. '* 20-23,0-5 * * *'."
        ) from error


def _run_once(duty: Duty) -> None:
    try:
        duty.run_once()
    except Exception:  # the rows are still there for the next look
        logger.exception("duty failed", extra={"duty": duty.name})


def _report_missed(event: JobExecutionEvent) -> None:
    logger.warning("duty was missed", extra={"duty": event.job_id})
