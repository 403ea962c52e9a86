"""A hospital day in 150 seconds: 1,000 studies with the peaks of a working day, through the real queue.

Studies come in through the listener's intake, are closed by the assembler, run by a stand-in model in a
process of its own each, sent to a small PACS by C-STORE, read back and confirmed. The times are read from
the rows: from the last slice to the close of the study (the quiet period, a choice of the site), and from
there to the confirmed result (the work).
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kill_harness import Site
from kill_verdict import Verdict, open_rows
from reporting import Bench
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from voxtrial.db.engine import connect
from voxtrial.db.jobs import Job
from voxtrial.db.migrate import upgrade
from voxtrial.db.results import Delivery, ResultObject
from voxtrial.db.studies import StudyVersion

STUDIES = 1_000
DAY_SECONDS = 150.0
HOURLY_LOAD = (1, 1, 1, 1, 1, 1, 2, 4, 8, 10, 10, 8, 6, 8, 9, 8, 6, 4, 3, 2, 2, 2, 1, 1)
"""Relative number of studies in each hour: a peak in the morning and one after lunch."""
QUIET_SECONDS = 2.0
SETTLE_SECONDS = 80.0
SAMPLE_SECONDS = 0.5
BACKLOGS = {
    "jobs": select(func.count()).where(Job.state.in_(("QUEUED", "WAITING"))),
    "deliveries": select(func.count()).where(Delivery.state.in_(("PENDING", "WAITING", "SENT"))),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/voxtrial.db"
        engine = connect(url)
        upgrade(engine)
        engine.dispose()
        site = Site(
            Path(folder),
            url,
            target="stand_ins:reports",
            lease_seconds=30.0,
            quiet_seconds=QUIET_SECONDS,
        )
        backlog = live_through(site)
        bench = report(site, backlog)
        site.close()
    if bench.missed:
        sys.exit(f"Not met: {', '.join(bench.missed)}")


def arrivals(generator: random.Random) -> list[float]:
    """Return the second of the compressed day at which each study comes."""
    hours = generator.choices(range(24), HOURLY_LOAD, k=STUDIES)
    return sorted((hour + generator.random()) / 24 * DAY_SECONDS for hour in hours)


def live_through(site: Site) -> Counter[str]:
    """Receive every study at its time and wait until all is confirmed; return the largest backlogs."""
    largest: Counter[str] = Counter()
    with site.running("tend", "work"):
        begin = time.monotonic()
        for second in arrivals(random.Random(20261121)):
            while (wait := begin + second - time.monotonic()) > 0:
                time.sleep(min(wait, SAMPLE_SECONDS))
                largest |= _backlog(site)  # the larger of each
            site.feed()
        deadline = time.monotonic() + SETTLE_SECONDS
        while open_rows(site.engine) and time.monotonic() < deadline:
            time.sleep(SAMPLE_SECONDS)
            largest |= _backlog(site)  # the larger of each
    return largest


def report(site: Site, backlog: Counter[str]) -> Bench:
    """Print and store the figures of the day."""
    verdict = site.verdict()
    waits, works = [], []
    with Session(site.engine) as session:
        rows = session.execute(
            select(StudyVersion.last_instance_at, StudyVersion.closed_at, func.max(Delivery.confirmed_at))
            .join(Job, Job.study_version_id == StudyVersion.id)
            .join(ResultObject, ResultObject.job_id == Job.id)
            .join(Delivery, Delivery.result_object_id == ResultObject.id)
            .where(Delivery.confirmed_at.is_not(None))
            .group_by(StudyVersion.id)
        )
        for last, closed, confirmed in rows:
            waits.append(_seconds(last, closed))
            works.append(_seconds(closed, confirmed))
    bench = Bench("day", packages=("sqlalchemy", "pynetdicom", "apscheduler"))
    for name, seconds in (("last slice to closed study", waits), ("closed study to confirmed result", works)):
        bench.add(f"{name}, p50", statistics.median(seconds), "s")
        bench.add(f"{name}, p95", statistics.quantiles(seconds, n=20)[-1], "s")
    bench.add("of the former, quiet period", QUIET_SECONDS, "s")
    for kind in BACKLOGS:
        bench.add(f"largest backlog of {kind}", backlog[kind], "1")
    count(bench, verdict, len(works))
    bench.finish()
    return bench


def count(bench: Bench, verdict: Verdict, confirmed: int) -> None:
    """Add what has to be exact: every study is confirmed, and nothing is wrong."""
    bench.add("studies confirmed", confirmed, "1", target=STUDIES, higher_is_better=True)
    for name in ("lost", "duplicated", "stuck"):
        bench.add(f"studies {name}", getattr(verdict, name), "1", target=0)


def _backlog(site: Site) -> Counter[str]:
    """Count what waits: jobs for a worker, results for the PACS or for its confirmation."""
    with Session(site.engine) as session:
        return Counter({kind: session.scalar(query) or 0 for kind, query in BACKLOGS.items()})


def _seconds(begin: datetime | None, end: datetime | None) -> float:
    assert begin is not None
    assert end is not None
    return (end - begin).total_seconds()


if __name__ == "__main__":
    main()
