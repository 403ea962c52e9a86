"""Data and peer programs of bench-stats; run as a script by the interpreter that has the peers installed.

The bench sends one name a line on standard input; this script runs that peer once and answers with one line
of JSON: seconds and values. So peers that need packages of their own are still measured in turn with us.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
import venv
import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[2] / "build" / "peers"
PACKAGES = (
    "monai",
    "surface-distance-based-measures",
    "pingouin",
    "pandas-flavor",
    "xarray",
    "seaborn",
    "tabulate",
)
IMPORTS = "import monai, surface_distance, pingouin"

SPACING_MM = (2.0, 0.8, 0.8)
TOLERANCE_MM = 2.0
ICC_LOOPED = 10
"""Features that the looping peer computes; its time is scaled up to all of them."""


def installed() -> str:
    """Return an interpreter with the peers, installing it on first use; empty when that fails.

    The peers are installed without their dependencies and see the packages of this interpreter.
    """
    python = FOLDER / "bin" / "python"
    if not python.exists():
        venv.create(FOLDER, with_pip=True)
        shared = FOLDER / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (shared / "bench.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for attempt in ([str(python), "-m", "pip", "install", "-qq", "--no-deps", *PACKAGES], None):
        if subprocess.run([str(python), "-c", IMPORTS], check=False, capture_output=True).returncode == 0:
            return str(python)
        if attempt:
            subprocess.run(attempt, check=False)
    return ""


def masks(radius_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Two lobed organs of 300 x 512 x 512, a little apart and unlike in size."""
    z, y, x = np.ogrid[:300, :512, :512]

    def organ(centre: tuple[float, float, float], radius: float) -> np.ndarray:
        dz, dy, dx = ((i - c) * s for i, c, s in zip((z, y, x), centre, SPACING_MM, strict=True))
        return dz**2 + dy**2 + dx**2 <= (radius * (1 + 0.08 * np.cos(5 * np.arctan2(dy, dx)))) ** 2

    return organ((150, 256, 256), radius_mm), organ((151, 259, 253), 1.02 * radius_mm)


def ratings(features: int) -> np.ndarray:
    """Features x 100 subjects x 3 raters, subjects and raters random."""
    generator = np.random.default_rng(8)
    return (
        generator.normal(size=(features, 100, 3))
        + generator.normal(size=(features, 100, 1))
        + 0.3 * generator.normal(size=(features, 1, 3))
    )


def _surface_distance(pair):
    import surface_distance

    reference, test = pair
    distances = surface_distance.compute_surface_distances(reference, test, SPACING_MM)
    average = surface_distance.compute_average_surface_distance(distances)
    return {
        "dice": surface_distance.compute_dice_coefficient(reference, test),
        "hd95_surfel": surface_distance.compute_robust_hausdorff(distances, 95),
        "asd_surfel_ref_to_test": average[0],
        "asd_surfel_test_to_ref": average[1],
        "nsd_surfel": surface_distance.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
    }


def _monai(pair):
    import torch
    from monai import metrics

    torch.set_num_threads(1)
    reference, test = (torch.from_numpy(mask)[None, None].float() for mask in pair)
    given = {"include_background": True}
    return {
        "dice": metrics.compute_dice(test, reference).item(),
        "hd95_max_of_directed": metrics.compute_hausdorff_distance(
            test, reference, percentile=95, spacing=SPACING_MM, **given
        ).item(),
        "assd_pooled": metrics.compute_average_surface_distance(
            test, reference, symmetric=True, spacing=SPACING_MM, **given
        ).item(),
        "nsd_voxel": metrics.compute_surface_dice(
            test, reference, [TOLERANCE_MM], spacing=SPACING_MM, **given
        ).item(),
    }


def _pingouin(tables):
    import pandas as pd
    import pingouin

    estimates = []
    for table in tables:
        subjects, raters = np.indices(table.shape)
        frame = pd.DataFrame({"subject": subjects.ravel(), "rater": raters.ravel(), "y": table.ravel()})
        found = pingouin.intraclass_corr(frame, targets="subject", raters="rater", ratings="y")
        estimates.append(float(found["ICC"].iloc[1]))
    return {"icc2_1": estimates}


PEERS = {
    "surface-distance organ": (_surface_distance, lambda: masks(60)),
    "surface-distance large": (_surface_distance, lambda: masks(120)),
    "monai organ": (_monai, lambda: masks(60)),
    "pingouin": (_pingouin, lambda: ratings(10_000)[:ICC_LOOPED]),
}


def main() -> None:
    """Answer one line of JSON for each line of standard input."""
    warnings.simplefilter("ignore")
    data: dict[str, object] = {}
    for line in sys.stdin:
        name = line.strip()
        run, build = PEERS[name]
        if name not in data:
            data.clear()
            data[name] = build()
        try:
            begin = time.perf_counter()
            values = run(data[name])
            answer = {"seconds": time.perf_counter() - begin, "values": values}
        except ImportError as error:
            answer = {"missing": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
