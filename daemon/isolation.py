"""One job in one process of its own: whatever a model does there, it does to that process alone.

A server process imports the pipeline once, with the number of threads capped before any library loads, and
forks a clean process for every job (``multiprocessing``'s forkserver). The job's process leads a process
group. The group is killed when the job takes too long, holds too much memory, or is not wanted any more, and
when the worker dies.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from voxtrial.daemon.errors import Fatal, Refused, Retryable, VoxtrialError

if TYPE_CHECKING:
    from voxtrial.daemon.job import JobInput, JobOutput  # at run time they would load numpy before the caps

logger = logging.getLogger(__name__)

THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
WATCH_SECONDS = 0.1
FAREWELL_SECONDS = 5.0
"""How long a process may take to exit after it has given its answer."""
MIB = 2**20
WITH_PARENT = "voxtrial.daemon.with_parent"
"""Imported in the processes of jobs only: it ties whoever imports it."""
WITHOUT_MAIN = "voxtrial.daemon.without_main"
"""Imported there too: it makes a process start in milliseconds."""


class Abandoned(Exception):
    """The job was not wanted any more, and its process has been killed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a job's process may take.

    Parameters
    ----------
    timeout_seconds
        From its start to its answer.
    memory_mib
        Resident memory of the process and its descendants; 0: no limit.
    """

    timeout_seconds: float
    memory_mib: int = 0


def start_server(target: str, *, threads: int, preload: Sequence[str] = ()) -> None:
    """Start the process that jobs are forked from; calls after the first change nothing.

    Parameters
    ----------
    target
        ``package.module:function``; the module is imported before the first job.
    preload
        Further modules that jobs would otherwise import one by one.
    """
    module = target.partition(":")[0]
    forkserver.set_forkserver_preload([WITH_PARENT, WITHOUT_MAIN, module, *preload])
    before = {name: os.environ.get(name) for name in THREAD_CAPS}
    os.environ.update(dict.fromkeys(THREAD_CAPS, str(threads)))
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run(
    target: str,
    job: JobInput,
    limits: Limits,
    *,
    report_step: Callable[[str], None] = lambda _: None,
    wanted: Callable[[], bool] = lambda: True,
) -> JobOutput:
    """Call ``target(job, report_step)`` in a process of its own and return what it returns.

    Parameters
    ----------
    wanted
        Asked ten times a second; the process is killed when the answer is no.

    Raises
    ------
    Refused, Retryable, Fatal
        As the target raised them. Retryable also when the process died or took too long, Fatal when it held
        too much memory or the target raised anything else.
    Abandoned
        The job is not wanted any more.
    """
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_enter, args=(theirs, target, pickle.dumps(job)), daemon=False)
    try:
        process.start()
        theirs.close()
        return _watch(process, ours, limits, report_step, wanted)
    finally:
        ours.close()
        theirs.close()
        if process.pid is not None:
            process.join(0)
            _kill_group(process)
            process.join()
            process.close()


def _watch(
    process: Any,
    connection: Connection,
    limits: Limits,
    report_step: Callable[[str], None],
    wanted: Callable[[], bool],
) -> JobOutput:
    """Wait for the answer and enforce the limits."""
    deadline = time.monotonic() + limits.timeout_seconds
    step = "start"
    while True:
        try:
            if connection.poll(WATCH_SECONDS):
                kind, value = connection.recv()
                if kind == "step":
                    step = value
                    report_step(step)
                    continue
                process.join(FAREWELL_SECONDS)
                if kind == "output":
                    return value  # type: ignore[no-any-return]  # the pipe carries what the target returned
                raise _decision(*value)
        except (EOFError, ConnectionResetError):
            process.join(FAREWELL_SECONDS)
            raise Retryable(f"The job's process died in step {step}: {_ending(process.exitcode)}.") from None
        if not wanted():
            raise Abandoned
        if time.monotonic() > deadline:
            raise Retryable(
                f"Step {step} was not finished after {limits.timeout_seconds:g} s; "
                "raise compute.timeout_seconds if the model needs longer."
            )
        held_mib = _resident_mib(process.pid)
        if limits.memory_mib and held_mib > limits.memory_mib:
            raise Fatal(
                f"The job held {held_mib} MiB in step {step}, it may hold {limits.memory_mib} MiB; "
                "raise compute.memory_mib or use a smaller tile."
            )


def _enter(connection: Connection, target: str, payload: bytes) -> None:
    """Be the job's process."""
    os.setsid()
    importlib.import_module(WITH_PARENT).tie()
    Path("/proc/self/oom_score_adj").write_text(
        "1000"
    )  # when memory is short, the kernel takes the job first
    faulthandler.enable()
    answer: tuple[str, object]
    try:
        module, _, name = target.partition(":")
        function = getattr(importlib.import_module(module), name)
        answer = "output", function(pickle.loads(payload), lambda step: connection.send(("step", step)))  # noqa: S301 - our own parent pickled it
    except BaseException as error:  # the process ends here; its parent decides by class
        traceback.print_exc()
        kind = next((c.__name__ for c in (Refused, Retryable, Fatal) if isinstance(error, c)), "")
        message = str(error) if isinstance(error, VoxtrialError) else f"{type(error).__name__}: {error}"
        answer = "error", (kind, message, getattr(error, "rule", ""))
    with suppress(BrokenPipeError):  # the worker is gone, and this process with it in a moment
        connection.send(answer)
        connection.close()


def _decision(kind: str, message: str, rule: str) -> VoxtrialError:
    if kind == "Refused":
        return Refused(message, rule=rule)
    return Retryable(message) if kind == "Retryable" else Fatal(message)


def _resident_mib(pid: int) -> int:
    held = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            held += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return held // MIB


def _kill_group(process: Any) -> None:
    """Kill the process and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it is gone, or was not yet the leader of its group
        process.kill()


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "it closed its pipe"
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit status {exitcode}"
