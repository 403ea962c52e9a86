"""Harmonize volumes and features, against the programs that hospitals and researchers use for it.

Everything runs on one thread unless the row says two. Times of one thread are seconds of CPU: the wall time
of a quiet machine, also on a busy one; the others are wall seconds. Medians of five interleaved rounds, of
three for the slow ones. Results are compared in the same run: with the analytic wave for interpolation,
with the peer's values elsewhere.

The floor of linear interpolation is numpy filling the same output: most of both is the kernel's zeroing of
fresh pages. The floor runs by itself. In the order of the rounds each result is dropped when the next run has
made its own, inside the next one's clock: ours pays for torch's, which came in pages of 4 KiB and takes long
to give back, SimpleITK for ours. A row shows how long.

Rows of one thread show both clocks, and the run fails where CPU exceeds wall time by more than a tenth: a
thread was hidden. On a machine with nothing else to do, VOXTRIAL_BENCH_QUIET=1 lets it fail the other way
round too.

MONAI, TorchIO and neuroCombat live in an environment of their own, given by the path of its interpreter in
VOXTRIAL_BENCH_PEERS; without it their rows are left out, loudly:

    python3.11 -m venv /tmp/peers && /tmp/peers/bin/pip install torch monai torchio pandas neuroCombat
    VOXTRIAL_BENCH_PEERS=/tmp/peers/bin/python make bench-harmonize
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from reporting import Bench
from threadpoolctl import threadpool_limits

from voxtrial.daemon.harmonize import intensity, nyul, resample
from voxtrial.daemon.volume import Grid
from voxtrial.validation.agreement import combat

PEERS = os.environ.get("VOXTRIAL_BENCH_PEERS", "")
SHAPE, SPACING = (120, 512, 512), (2.5, 0.8, 0.8)

Run = Callable[[], Any]


def axial(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1
    return Grid(shape=shape, affine=affine)


def wave(grid: Grid) -> np.ndarray:
    """Sum of three cosines of 24, 32 and 40 mm, one along each axis, amplitude 500."""
    z, y, x = (
        start + step * np.arange(n)
        for start, step, n in zip(grid.affine[2::-1, 3], grid.spacing_mm, grid.shape, strict=True)
    )
    parts = [np.cos(2 * np.pi * c / p) for c, p in ((z, 24), (y, 32), (x, 40))]
    sums = parts[0][:, None, None] + parts[1][:, None] + parts[2]
    return (500 / 3 * sums).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Both:
    """Median seconds of one run by both clocks."""

    cpu: float
    wall: float

    @property
    def hidden_threads(self) -> bool:
        """Whether more CPU was used than one thread can use in that time."""
        return self.cpu > 1.1 * self.wall

    @property
    def disturbed(self) -> bool:
        """Whether one thread that never waits took longer than it computed: the machine was not quiet."""
        return self.wall > 1.1 * self.cpu


CLOCKS: dict[str, dict[str, Both]] = {}
"""Both clocks of all runs of this process, by row of one thread and by program."""


def medians(
    runs: dict[str, Run], rounds: int, clock: Callable[[], float] = time.process_time, row: str = ""
) -> dict[str, float]:
    """Median seconds of each run, interleaved; a run may time itself by returning a float.

    With the name of a ``row`` of one thread, both clocks are kept for it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    both: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            begin = clock()
            own = run()
            took = own if isinstance(own, float) else clock() - begin
            if turn:
                seconds[name].append(took)
                if not isinstance(own, float):
                    both[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    if row:
        middles = {
            name: [statistics.median(v) for v in zip(*p, strict=True)] for name, p in both.items() if p
        }
        CLOCKS[row] = {name: Both(cpu=cpu, wall=wall) for name, (cpu, wall) in middles.items()}
    return {name: statistics.median(values) for name, values in seconds.items()}


def check_clocks(bench: Bench) -> list[str]:
    """Add both clocks of every row of one thread, and its ratios by wall time; return what is wrong."""
    wrong = []
    for row, programs in CLOCKS.items():
        for name, both in programs.items():
            bench.add(f"{row}: {name}, CPU", both.cpu, "s", peer="wall", peer_value=both.wall, target=1.1)
            if name != "ours":
                bench.add_speedup(f"{row}, by wall time", programs["ours"].wall, name, both.wall, None)
            if both.hidden_threads:
                wrong.append(f"{row}: {name} used more CPU than one thread has")
            if both.disturbed and os.environ.get("VOXTRIAL_BENCH_QUIET"):
                wrong.append(f"{row}: {name} waited for other programs")
    return wrong


class PeerEnvironment:
    """The other interpreter, kept running so that its peers can be timed in turn with ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [PEERS, str(Path(__file__).with_name("harmonize_peers.py")), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = {}

    def run(self, name: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise RuntimeError(f"{name} in {PEERS}: {answer['error']}")
        self.versions[name] = answer["version"]
        return float(answer["seconds"])

    def result(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}_result.npy")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def itk_resampler(array: np.ndarray, source: Grid, target: Grid, interpolator: int) -> Run:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(source.spacing_mm[::-1])
    image.SetOrigin(source.affine[:3, 3].tolist())
    tool = SimpleITK.ResampleImageFilter()
    tool.SetSize([int(n) for n in target.shape[::-1]])
    tool.SetOutputSpacing(target.spacing_mm[::-1])
    tool.SetOutputOrigin(target.affine[:3, 3].tolist())
    tool.SetInterpolator(interpolator)
    return lambda: tool.Execute(image)


def interior_error(result: Any, truth: np.ndarray) -> float:
    array = result if isinstance(result, np.ndarray) else SimpleITK.GetArrayFromImage(result)
    return float(np.abs(array - truth)[20:-20, 20:-20, 20:-20].max())


def freed(run: Run, clock: Callable[[], float]) -> float:
    """Return the seconds that it takes to drop what ``run`` returns."""
    result = run()
    begin = clock()
    del result
    return clock() - begin


def resampling(bench: Bench, threads: int) -> None:
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    torch.set_num_threads(threads)
    source = axial(SHAPE, SPACING)
    target = resample.isotropic_grid(source, 1.0)
    array, truth = wave(source), wave(target)
    tensor = torch.from_numpy(array)[None, None]
    suffix = "" if threads == 1 else f", {threads} threads"

    linear: dict[str, Run] = {
        "ours": lambda: resample.array_to_grid(array, source, target, threads=threads),
        "SimpleITK": itk_resampler(array, source, target, SimpleITK.sitkLinear),
        "torch": lambda: torch.nn.functional.interpolate(tensor, target.shape, mode="trilinear"),
    }
    clock = time.process_time if threads == 1 else time.perf_counter
    name = f"linear 512x512x120 to 1 mm{suffix}"
    seconds = medians(linear, 5, clock, row=name if threads == 1 else "")
    seconds |= medians({"floor": lambda: np.empty(target.shape, np.float32).fill(1)}, 5, clock)
    bench.add_speedup(name, seconds["ours"], "SimpleITK linear", seconds["SimpleITK"], 15)
    bench.add_speedup(name, seconds["ours"], "torch interpolate", seconds["torch"], 5)
    bench.add_speedup(name, seconds["ours"], "numpy fills the same output", seconds["floor"], None)
    freeing = medians({"torch": lambda: freed(linear["torch"], clock)}, 3)["torch"]
    bench.add_speedup(name, seconds["ours"], "giving back torch's result, in our time", freeing, None)
    if threads == 1:
        ours, itk = (interior_error(linear[k](), truth) for k in ("ours", "SimpleITK"))
        bench.add(
            "linear, largest error (of 500)", ours, "", peer="SimpleITK linear", peer_value=itk, target=1.001
        )
    cubic: dict[str, Run] = {
        "ours": lambda: resample.array_to_grid(
            array, source, target, interpolator="bspline", threads=threads
        ),
        "SimpleITK": itk_resampler(array, source, target, SimpleITK.sitkBSpline),
    }
    name = f"B-spline 512x512x120 to 1 mm{suffix}"
    seconds = medians(cubic, 3, clock, row=name if threads == 1 else "")
    bench.add_speedup(name, seconds["ours"], "SimpleITK BSpline", seconds["SimpleITK"], 12)
    if threads == 1:
        ours, itk = (interior_error(cubic[k](), truth) for k in ("ours", "SimpleITK"))
        bench.add(
            "B-spline, largest error (of 500)",
            ours,
            "",
            peer="SimpleITK BSpline",
            peer_value=itk,
            target=1.01,
        )


def head() -> np.ndarray:
    """160 x 256 x 256 with three tissues and an empty background."""
    rng = np.random.default_rng(0)
    z, y, x = (np.linspace(-1, 1, n) for n in (160, 256, 256))
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    tissue = np.select([radius < 0.4, radius < 0.7, radius < 0.95], [300.0, 600.0, 900.0])
    noisy = np.maximum(tissue + rng.normal(0, 40, tissue.shape), 1)
    return np.where(tissue > 0, noisy, 0).astype(np.float32)


TORCHIO_PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


def peers(bench: Bench, folder: Path) -> None:
    rng = np.random.default_rng(1)
    image = head()
    # TorchIO carries the quartiles in its landmarks but maps without them: 13 numbers, 11 used.
    landmarks = np.interp(sorted({*TORCHIO_PERCENTILES, 25, 75}), (1, 40, 99), (0, 35, 100))
    kept = [k for k, p in enumerate(sorted({*TORCHIO_PERCENTILES, 25, 75})) if p not in {25, 75}]
    scale = nyul.StandardScale(percentiles=TORCHIO_PERCENTILES, values=tuple(landmarks[kept]))
    batch = rng.integers(0, 4, 200)
    age = rng.uniform(30, 80, 200)
    features = (
        rng.normal(10, 2, (200, 10_000)) + batch[:, None] * rng.normal(0, 1, 10_000) + 0.1 * age[:, None]
    )
    for name, array in {
        "head": image,
        "landmarks": landmarks,
        "features": features,
        "batch": batch,
        "age": age,
    }.items():
        np.save(folder / f"{name}.npy", array)

    def harmonized() -> np.ndarray:
        model = combat.fit(features, batch.tolist(), age[:, None])
        return combat.apply(model, features, batch.tolist(), age[:, None])

    ours: dict[str, tuple[str, Run, float, float]] = {
        "monai": (
            "z-score of the foreground, 160x256x256",
            lambda: intensity.zscore(image, intensity.region(image, "nonzero"), fill=0.0),
            20,
            1e-4,
        ),
        "torchio": (
            "Nyul matching, 160x256x256",
            lambda: nyul.matched(image, scale, image > 0),
            4,
            1e-3,
        ),
        "neuroCombat": ("ComBat, 10,000 features x 200 x 4", harmonized, 5, 1e-6),
    }
    if not PEERS:
        for name, (title, run, _, _) in ours.items():
            print(f"PEER MISSING: {name}, for {title}; set VOXTRIAL_BENCH_PEERS (see the top of this file)")
            bench.add(title, medians({"ours": run}, 5)["ours"], "s", peer=f"{name} (missing)")
        return
    environment = PeerEnvironment(folder)
    try:
        for name, (title, run, target, tolerance) in ours.items():
            seconds = medians({"ours": run, name: lambda name=name: environment.run(name)}, 5, row=title)
            peer = f"{name} {environment.versions[name]}"
            bench.add_speedup(title, seconds["ours"], peer, seconds[name], target)
            difference = float(np.abs(np.asarray(run(), float) - environment.result(name)).max())
            bench.add(
                f"{title}: largest difference", difference, "", peer="allowed", peer_value=tolerance, target=1
            )
    finally:
        environment.close()


def starting(bench: Bench, folder: Path) -> None:
    """Start a process that resamples, with kernels from the cache and with kernels to compile."""
    code = (
        "import numpy as np; from voxtrial.daemon.volume import Grid;"
        "from voxtrial.daemon.harmonize.resample import array_to_grid as f;"
        "g = Grid(shape=(4, 4, 4), affine=np.eye(4)); h = Grid(shape=(4, 4, 4), affine=np.eye(4) * 0.9);"
        "f(np.zeros((4, 4, 4), np.float32), g, h)"
    )
    fresh = iter(range(100))

    def start(text: str, cache: Path | None = None) -> None:
        folder = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
        subprocess.run([sys.executable, "-c", text], check=True, env={**os.environ, **folder})

    seconds = medians(
        {
            "cached": lambda: start(code, folder / "kernels"),
            "compiled": lambda: start(code, folder / f"kernels{next(fresh)}"),
        },
        3,
        time.perf_counter,
    )
    title = "start and resample, kernels cached"
    bench.add_speedup(title, seconds["cached"], "the same, compiling", seconds["compiled"], 2)


def main() -> None:
    bench = Bench("harmonize", ["SimpleITK", "torch", "numba", "numpy"])
    resampling(bench, 1)
    if (os.cpu_count() or 1) > 1:
        resampling(bench, 2)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        peers(bench, Path(folder))
        starting(bench, Path(folder))
    wrong = check_clocks(bench)
    bench.finish()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
