"""Where jobs run: in processes on this host, or on the workers of a Dask cluster.

Both hand out ``concurrent.futures`` futures of ``isolation.run``. A future that is cancelled kills the
process of its job. No state is kept outside SQL: whoever loses a future loses nothing but time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any, Protocol

from voxtrial.daemon import isolation
from voxtrial.daemon.errors import Misconfigured, Retryable, VoxtrialError
from voxtrial.daemon.isolation import Limits
from voxtrial.daemon.job import JobInput, JobOutput

STEPS_TOPIC = "voxtrial-steps"
CONNECT_SECONDS = 30


class Placement(Protocol):
    """Runs jobs somewhere."""

    @property
    def slots(self) -> int:
        """How many jobs may run at the same time."""

    def submit(
        self, job: JobInput, limits: Limits, *, gpus: int, report_step: Callable[[str], None]
    ) -> Future[JobOutput]:
        """Start a job; cancelling the future kills it."""

    def close(self) -> None:
        """Stop taking jobs; the running ones have ended or been cancelled."""


class ThisHost:
    """Processes on this host, each watched by a thread.

    Parameters
    ----------
    target
        ``package.module:function`` that does a job.
    slots
        Jobs at the same time.
    threads
        Compute threads of each job.
    preload
        Modules that every job needs.
    """

    def __init__(self, target: str, *, slots: int, threads: int, preload: Sequence[str] = ()) -> None:
        self.slots = slots
        self._target = target
        self._watchers = ThreadPoolExecutor(slots, thread_name_prefix="job")
        isolation.start_server(target, threads=threads, preload=preload)

    def submit(
        self, job: JobInput, limits: Limits, *, gpus: int, report_step: Callable[[str], None]
    ) -> Future[JobOutput]:
        """Start a job; cancelling the future kills it."""
        unwanted = Event()
        outcome: Future[JobOutput] = Future()  # stays pending while the job runs, so that it can be cancelled
        outcome.add_done_callback(lambda _: unwanted.set())

        def watch() -> None:
            try:
                output = isolation.run(
                    self._target,
                    job,
                    limits,
                    report_step=report_step,
                    wanted=lambda: not unwanted.is_set(),
                )
            except isolation.Abandoned:
                return
            except BaseException as error:  # the future carries it, as an executor's futures do
                if outcome.set_running_or_notify_cancel():
                    outcome.set_exception(error)
            else:
                if outcome.set_running_or_notify_cancel():
                    outcome.set_result(output)

        self._watchers.submit(watch)
        return outcome

    def close(self) -> None:
        """Wait for the threads; their jobs have ended or been cancelled."""
        self._watchers.shutdown()


class Cluster:
    """Workers of a Dask cluster that see the data folder under the same path.

    Dask runs a job again elsewhere when its worker dies. Start workers with ``--no-nanny``, and with
    ``--resources GPU=n`` where there are GPUs.
    """

    def __init__(self, target: str, address: str, *, threads: int) -> None:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise Misconfigured(
                "[compute] cluster needs Dask; install it with: pip install 'voxtrial[cluster]'."
            ) from error
        self._target = target
        self._threads = threads
        self._steps: dict[int, Callable[[str], None]] = {}
        try:
            self._client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except OSError as error:
            raise Misconfigured(f"No Dask scheduler answers at {address}: {error}.") from error
        self._client.subscribe_topic(STEPS_TOPIC, self._hear_step)

    @property
    def slots(self) -> int:
        """How many jobs the workers take at the same time."""
        return sum(self._client.nthreads().values())

    def submit(
        self, job: JobInput, limits: Limits, *, gpus: int, report_step: Callable[[str], None]
    ) -> Future[JobOutput]:
        """Start a job on the cluster; cancelling the future kills it."""
        self._steps[job.job_id] = report_step
        resources = {"resources": {"GPU": gpus}} if gpus else {}
        executor = self._client.get_executor(pure=False, **resources)
        placed = executor.submit(run_on_dask_worker, self._target, job, limits, self._threads)
        outcome: Future[JobOutput] = Future()

        def pass_on(done: Future[JobOutput]) -> None:
            if done.cancelled() or not outcome.set_running_or_notify_cancel():
                outcome.cancel()
            elif (error := done.exception()) is None:
                outcome.set_result(done.result())
            elif isinstance(error, VoxtrialError):
                outcome.set_exception(error)
            else:  # the job's own errors have been judged where it ran: this one is the cluster's
                outcome.set_exception(Retryable(f"Dask: {type(error).__name__}: {error}"))

        def forget(_: Future[JobOutput]) -> None:
            self._steps.pop(job.job_id, None)
            placed.cancel()

        outcome.add_done_callback(forget)
        placed.add_done_callback(pass_on)
        return outcome

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()

    def _hear_step(self, event: tuple[float, dict[str, Any]]) -> None:
        said = event[1]
        report_step = self._steps.get(said["job"])
        if report_step is not None:
            report_step(said["step"])


def run_on_dask_worker(target: str, job: JobInput, limits: Limits, threads: int) -> JobOutput:
    """Run a job in a process of its own on a Dask worker; the scheduler hears its steps."""
    worker: Any = importlib.import_module("distributed").get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    isolation.start_server(target, threads=threads)
    return isolation.run(
        target,
        job,
        limits,
        report_step=lambda step: worker.log_event(STEPS_TOPIC, {"job": job.job_id, "step": step}),
        wanted=wanted,
    )
