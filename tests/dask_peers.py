"""A Dask cluster on loopback, started for a test and stopped by process id."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from peers import free_port, program


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Run a scheduler and two workers with one thread each, the second with a GPU, as a site starts them."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    tests = {"PYTHONPATH": str(Path(__file__).parent)}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    one = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1"]
    with ExitStack() as stack:
        stack.enter_context(
            program(
                [*dask, "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
                port=port,
                log=folder / "scheduler.log",
            )
        )
        workers = [
            stack.enter_context(
                program(
                    [*one, "--no-dashboard", "--local-directory", str(folder / f"dask-{n}"), *resources],
                    log=folder / f"worker-{n}.log",
                    environment=tests,
                )
            )
            for n, resources in enumerate(([], ["--resources", "GPU=1"]))
        ]
        yield address, workers
