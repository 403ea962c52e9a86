"""Statistics against their best peers: DeLong, bootstrap, ICC, segmentation metrics.

One thread unless a row names two. Peers that are not among our own dependencies (monai, pingouin,
surface-distance-based-measures) run in another interpreter: that of VOXTRIAL_BENCH_PEERS, or build/peers,
which the first run installs. Where that fails their rows are left out, loudly.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from reporting import Bench, interleaved
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from stats_peers import ICC_LOOPED, SPACING_MM, TOLERANCE_MM, installed, masks, ratings

from voxtrial.validation.accuracy.bootstrap_auc import resampled_areas
from voxtrial.validation.accuracy.delong import area
from voxtrial.validation.agreement.icc import intraclass_correlations
from voxtrial.validation.bootstrap import stream
from voxtrial.validation.segmentation.mask_agreement import segmentation_agreement
from voxtrial.validation.segmentation.surface_distance import border_distances, surface_element_distances
from voxtrial.validation.segmentation.surface_kernels import overlap

ROUNDS = 3
LOOPED_RESAMPLES = 10


class Peers:
    """The other interpreter, asked for one run at a time."""

    def __init__(self, interpreter: str) -> None:
        script = str(Path(__file__).with_name("stats_peers.py"))
        self.process = subprocess.Popen(
            [interpreter, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, name: str) -> dict:
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "missing" in answer:
            raise SystemExit(f"PEER MISSING: {answer['missing']}")
        return answer

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def against(peers: Peers, name: str, ours: Callable[[], object]) -> tuple[float, float, dict]:
    """Return our and the peer's median seconds, run in turn, and the peer's values."""
    ours()
    peers.run(name)
    mine, theirs, values = [], [], {}
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        ours()
        mine.append(time.perf_counter() - begin)
        answer = peers.run(name)
        theirs.append(answer["seconds"])
        values = answer["values"]
    return statistics.median(mine), statistics.median(theirs), values


def midrank_delong(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """Sun and Xu's form with scipy's mid-ranks."""
    m, n = positive.size, negative.size
    together = rankdata(np.concatenate([positive, negative]))
    v10 = (together[:m] - rankdata(positive)) / n
    v01 = 1 - (together[m:] - rankdata(negative)) / m
    return float(v10.mean()), float(v10.var(ddof=1) / m + v01.var(ddof=1) / n)


def delong(bench: Bench) -> None:
    generator = np.random.default_rng(1)
    positive, negative = generator.normal(1, 1, 30_000), generator.normal(0, 1, 70_000)
    for name, p, n in (
        ("unrounded", positive, negative),
        ("rounded to 3 decimals", positive.round(3), negative.round(3)),
    ):
        ours, theirs = area(p, n), midrank_delong(p, n)
        assert abs(ours.auc - theirs[0]) < 1e-9
        assert abs(ours.variance - theirs[1]) < 1e-6 * theirs[1]
        seconds = interleaved({"ours": partial(area, p, n), "midranks": partial(midrank_delong, p, n)}, 7)
        bench.add_speedup(
            f"DeLong, 100,000 cases, {name}", seconds["ours"], "scipy midranks", seconds["midranks"], 3
        )


def bootstrap(bench: Bench) -> None:
    generator = np.random.default_rng(2)
    positive, negative = generator.normal(1, 1, 30_000), generator.normal(0, 1, 70_000)
    truth = np.repeat([1, 0], [positive.size, negative.size])
    score = np.concatenate([positive, negative])

    def ours(threads: int) -> np.ndarray:
        return resampled_areas(
            positive, negative, 2000, stream(1, "bench"), stratified=False, threads=threads
        )

    def looped() -> list[float]:
        drawn = (generator.integers(truth.size, size=truth.size) for _ in range(LOOPED_RESAMPLES))
        return [roc_auc_score(truth[index], score[index]) for index in drawn]

    error = np.std(ours(1)) / np.std(looped() * 10)
    assert 0.3 < error < 3, "the resamples of both have the same spread"
    seconds = interleaved({"ours": lambda: ours(1), "threads": lambda: ours(2), "looped": looped}, ROUNDS)
    peer = seconds["looped"] * 2000 / LOOPED_RESAMPLES
    name = f"scikit-learn loop (x {2000 // LOOPED_RESAMPLES})"
    bench.add_speedup("bootstrap AUC, 2,000 x 100,000, one thread", seconds["ours"], name, peer, 100)
    bench.add_speedup("bootstrap AUC, 2,000 x 100,000, two threads", seconds["threads"], name, peer, None)


def icc(bench: Bench, peers: Peers) -> None:
    table = ratings(10_000)
    ours, theirs, values = against(peers, "pingouin", lambda: intraclass_correlations(table))
    estimates = intraclass_correlations(table)["icc2_1"].estimate
    np.testing.assert_allclose(estimates[:ICC_LOOPED], values["icc2_1"], atol=1e-6)
    scaled = theirs * len(table) / ICC_LOOPED
    name = f"pingouin loop (x {len(table) // ICC_LOOPED})"
    bench.add_speedup("ICC, six forms with intervals, 10,000 x 100 x 3", ours, name, scaled, 1000)


def segmentation(bench: Bench, peers: Peers) -> None:
    for size, radius, target in (("organ", 60, 8), ("large", 120, 8)):
        reference, test = masks(radius)
        a, b = reference.view(np.uint8), test.view(np.uint8)

        def by_area(a=a, b=b) -> dict[str, float]:
            counts, box, _, _ = overlap(a, b)
            found = surface_element_distances(a, b, box, SPACING_MM)
            return {
                "dice": 2 * counts[2] / (counts[0] + counts[1]),
                "hd95_surfel": found.percentile_by_area(95),
                "asd_surfel_ref_to_test": found.mean_from_reference,
                "asd_surfel_test_to_ref": found.mean_from_test,
                "nsd_surfel": found.share_within(TOLERANCE_MM),
            }

        def by_voxel(a=a, b=b) -> dict[str, float]:
            counts, box, _, _ = overlap(a, b)
            found = border_distances(a, b, box, SPACING_MM)
            return {
                "dice": 2 * counts[2] / (counts[0] + counts[1]),
                "hd95_max_of_directed": found.percentile_of_directed(95),
                "assd_pooled": float(found.pooled.mean()),
                "nsd_voxel": found.share_within(TOLERANCE_MM),
            }

        rows = [("surface-distance", by_area, target)]
        rows += [("monai", by_voxel, 50)] if size == "organ" else []
        for peer, ours, wanted in rows:
            mine, theirs, values = against(peers, f"{peer} {size}", ours)
            for name, value in ours().items():
                # MONAI computes in single precision
                tolerance = 1e-6 * max(1.0, abs(values[name]))
                assert abs(value - values[name]) <= tolerance, (peer, name, value, values[name])
            name = f"Dice, HD95, ASSD, NSD of two 300x512x512, {size}, as {peer}"
            bench.add_speedup(name, mine, peer, theirs, wanted)
        everything = partial(segmentation_agreement, reference, test, SPACING_MM, (TOLERANCE_MM,))
        seconds = interleaved({"all": everything}, ROUNDS)
        bench.add(f"all measures by both definitions, {size}", seconds["all"], "s")


def main() -> None:
    bench = Bench("stats", packages=("numpy", "numba", "scipy", "scikit-learn"))
    delong(bench)
    bootstrap(bench)
    interpreter = os.environ.get("VOXTRIAL_BENCH_PEERS") or installed()
    if interpreter:
        peers = Peers(interpreter)
        try:
            icc(bench, peers)
            segmentation(bench, peers)
        finally:
            peers.close()
    else:
        print("PEERS MISSING: ICC and segmentation are not measured", file=sys.stderr)
    bench.finish()


if __name__ == "__main__":
    main()
