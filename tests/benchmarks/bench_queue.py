"""The queue as it grows, and against procrastinate's fetch on the same PostgreSQL server.

Growth: claim, heartbeat and list with 1, 100,000 and 1,000,000 finished jobs in the tables, on both
databases. The peer of every row is a second database with one finished job, and the same query on it in turn
with the one on the grown database: a ratio compares these two medians and no others, and is flat up to 2. The
last rows name the largest ratio of a database.

Throughput: eight processes empty a queue of claimable jobs, ours and procrastinate's in turn, with and
without waiting for the disk. Both sides have one connection a process, psycopg 3 in autocommit, one round
trip a job, are connected and prepared before the start signal, and write an event with each job. The
statements are not the same: procrastinate's is a PL/pgSQL function that looks for earlier jobs under the same
lock, and its client is asynchronous; ours looks at memory, GPUs, processing windows and the number of running
jobs of the model.

All of it is `make bench-queue`; `bench_queue.py sqlite`, `postgresql` and `throughput` are its parts.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import postgresql
import procrastinate
from reporting import Bench
from rows import LEASE, MONDAY, finished_jobs, open_jobs
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from voxtrial.db import overview, queue
from voxtrial.db.engine import claiming_engine, connect, sessions
from voxtrial.db.migrate import upgrade
from voxtrial.db.queue import ErrorClass
from voxtrial.db.waiting import Why

SIZES = (1, 100_000, 1_000_000)
REPEATS = 200
FLAT = 2.0
CLAIMERS = 8
CLAIMS = 6_000
ROUNDS = 7
PARTS = ("sqlite", "postgresql", "throughput")


def main() -> None:
    parts = sys.argv[1:] or PARTS
    name = "-".join(["queue", *sys.argv[1:]])
    bench = Bench(name, packages=("sqlalchemy", "psycopg", "procrastinate"))
    if "sqlite" in parts:
        with tempfile.TemporaryDirectory() as folder:
            growth(bench, "SQLite", f"sqlite:///{folder}/grown.db", f"sqlite:///{folder}/empty.db")
    if "postgresql" in parts:
        with postgresql.running("fsync=off") as server:
            growth(bench, "PostgreSQL", server.create_database(), server.create_database())
    if "throughput" in parts:
        for disk in ("off", "on"):
            with postgresql.running(f"fsync={disk}") as server:
                throughput(bench, server, f"fsync {disk}")
    bench.finish()


def growth(bench: Bench, name: str, grown_url: str, empty_url: str) -> None:
    """Measure the hot queries at every size of the tables, in turn with the same queries on empty ones."""
    grown, empty = connect(grown_url), connect(empty_url)
    for engine in (grown, empty):
        upgrade(engine)
    finished_jobs(empty, 1)
    finished = 0
    ratios: dict[float, str] = {}
    for size in SIZES:
        finished_jobs(grown, size - finished)
        finished = size
        for engine in (grown, empty):
            open_jobs(engine, REPEATS)
            _analyse(engine)
        for query, (seconds, on_empty) in latencies(grown, empty).items():
            bench.add(
                f"{name}: {query}, {size:,} finished jobs",
                seconds * 1e3,
                "ms",
                peer="1 finished job",
                peer_value=on_empty * 1e3,
                target=FLAT,
            )
            ratios[seconds / on_empty] = f"{query}, {size:,} finished jobs"
        for engine in (grown, empty):
            _remove_open_jobs(engine)
    worst = max(ratios)
    bench.add(f"{name}: largest ratio of its rows, {ratios[worst]}", worst, "1", target=FLAT)
    for engine in (grown, empty):
        engine.dispose()


def latencies(grown: Engine, empty: Engine) -> dict[str, tuple[float, float]]:
    """Return the median seconds of each hot query on both, each in a transaction of its own."""
    on_grown, on_empty = _hot_queries(grown), _hot_queries(empty)
    return {query: _medians(on_grown[query], on_empty[query]) for query in on_grown}


def _hot_queries(engine: Engine) -> dict[str, Callable[[], None]]:
    claiming, factory = sessions(claiming_engine(engine)), sessions(engine)
    claimed: list[queue.Held | None] = []

    def claim() -> None:
        with claiming.begin() as session:
            claimed.append(queue.claim(session, "bench", MONDAY, LEASE))

    def heartbeat() -> None:
        with factory.begin() as session:
            queue.heartbeat(session, claimed[-1], MONDAY, LEASE)

    def finish() -> None:
        one = claimed.pop()
        with factory.begin() as session:
            queue.fail(session, one, error_class=ErrorClass.FATAL, reason="bench", now=MONDAY)

    def list_jobs() -> None:
        with factory() as session:
            session.execute(overview.select_jobs(limit=50)).all()

    def list_dead() -> None:
        with factory() as session:
            session.execute(overview.select_jobs(state="DEAD", limit=50)).all()

    def list_studies() -> None:
        with factory() as session:
            why = Why(session, now=MONDAY, is_open=lambda window, now: True)
            list(overview.list_studies(session, why, limit=50))

    return {
        "claim": claim,
        "heartbeat": heartbeat,
        "finish": finish,
        "list 50 jobs": list_jobs,
        "list 50 dead jobs": list_dead,
        "list 50 studies": list_studies,
    }


def throughput(bench: Bench, server: postgresql.Server, disk: str) -> None:
    """Let eight processes empty a queue, ours and procrastinate's in turn; report the medians."""
    ours_url, theirs_url = server.create_database(), server.create_database()
    engine, peer = connect(ours_url), connect(theirs_url)
    upgrade(engine)
    conninfo = f"host={server.folder} user=postgres dbname={make_url(theirs_url).database}"
    asyncio.run(_prepare(conninfo))
    ours, theirs = [], []
    for number in range(ROUNDS + 1):
        open_jobs(engine, CLAIMS)
        asyncio.run(_defer(conninfo))
        for one in (engine, peer):
            _analyse(one)
        for turn in (number, number + 1):  # who goes first changes from round to round
            if turn % 2:
                ours.append(CLAIMS / _race(_claim_all, ours_url))
            else:
                theirs.append(CLAIMS / _race(_fetch_all, conninfo))
    for one in (engine, peer):
        one.dispose()
    bench.add(
        f"claims by {CLAIMERS} processes, {disk}",
        statistics.median(ours[1:]),
        "1/s",
        peer="procrastinate fetch_job",
        peer_value=statistics.median(theirs[1:]),
        target=1.0,
        higher_is_better=True,
    )


def _race(claim_all: Callable[[str, Barrier, Any], None], address: str) -> float:
    """Return the seconds from the start signal until the last claimer finds the queue empty."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    barrier, counts = context.Barrier(CLAIMERS + 1), context.Queue()
    claimers = [context.Process(target=claim_all, args=(address, barrier, counts)) for _ in range(CLAIMERS)]
    for claimer in claimers:
        claimer.start()
    barrier.wait()
    begin = time.perf_counter()
    taken = sum(counts.get() for _ in claimers)
    seconds = time.perf_counter() - begin
    for claimer in claimers:
        claimer.join()
    assert taken == CLAIMS, f"{taken} of {CLAIMS} claimed"
    return seconds


def _claim_all(url: str, barrier: Barrier, counts: Any) -> None:
    engine = claiming_engine(connect(url))
    factory = sessions(engine)
    with factory.begin() as session:  # connected and compiled before the race, as the peer is
        queue.claim(session, "bench", MONDAY - LEASE, LEASE)
    barrier.wait()
    taken = 0
    while True:
        with factory.begin() as session:
            if queue.claim(session, "bench", MONDAY, LEASE) is None:
                break
        taken += 1
    counts.put(taken)
    engine.dispose()


def _fetch_all(conninfo: str, barrier: Barrier, counts: Any) -> None:
    async def fetch() -> None:
        async with _app(conninfo).open_async() as app:
            worker_id = await app.job_manager.register_worker()
            await app.job_manager.fetch_job(queues=["none"], worker_id=worker_id)
            barrier.wait()
            taken = 0
            while await app.job_manager.fetch_job(queues=None, worker_id=worker_id) is not None:
                taken += 1
            counts.put(taken)

    asyncio.run(fetch())


def _app(conninfo: str) -> procrastinate.App:
    return procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=1)
    )


async def _prepare(conninfo: str) -> None:
    async with _app(conninfo).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def _defer(conninfo: str) -> None:
    async with _app(conninfo).open_async() as app:
        deferrer = app.configure_task("bench", allow_unknown=True)
        await deferrer.batch_defer_async(*({"study": number} for number in range(CLAIMS)))


def _medians(*runs: Callable[[], None]) -> tuple[float, ...]:
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(REPEATS):
        for run, of_run in zip(runs, seconds, strict=True):
            begin = time.perf_counter()
            run()
            of_run.append(time.perf_counter() - begin)
    return tuple(statistics.median(of_run) for of_run in seconds)


def _analyse(engine: Engine) -> None:
    """Bring the planner's statistics up to date, as autovacuum does in a running server."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("VACUUM ANALYZE"))


def _remove_open_jobs(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM jobs WHERE state IN ('QUEUED', 'WAITING', 'RUNNING')"))


if __name__ == "__main__":
    main()
