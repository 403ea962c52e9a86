"""IBSI configuration C, all families, from NIfTI files to features, against MIRP 2.7 in the same run.

MIRP brings 1.5 GB of ITK and lives in an environment of its own: VOXTRIAL_MIRP_PYTHON names its interpreter,
else ``build/peers/mirp`` is made on first use. Without the IBSI CT phantom both read a synthetic lung tumour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from reporting import Bench, interleaved

from voxtrial.daemon.dicom import nifti
from voxtrial.daemon.radiomics.configuration import load
from voxtrial.daemon.radiomics.extract import FAMILIES, Features, extract
from voxtrial.daemon.volume import Mask, Volume

ROOT = Path(__file__).parents[2]
SHARED_DATA = Path(os.environ.get("VOXTRIAL_SHARED_DATA", ROOT.parent / "shared" / "data"))
MIRP = "mirp==2.7.0"
TARGET = 20

# One process for all rounds: imports are paid once and not counted, as on our side.
MIRP_WORKER = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
from mirp import extract_features
image, mask = sys.argv[1:]
for line in sys.stdin:
    (found,) = extract_features(
        image=image, mask=mask, image_modality="ct",
        new_spacing=2.0, spline_order=1, anti_aliasing=False,
        roi_spline_order=1, roi_interpolation_mask_inclusion_threshold=0.5,
        resegmentation_intensity_range=[-1000.0, 400.0],
        base_feature_families="all",
        base_discretisation_method="fixed_bin_size", base_discretisation_bin_width=25.0,
        ivh_discretisation_method="fixed_bin_size", ivh_discretisation_bin_width=2.5,
        glcm_distance=1.0, glcm_spatial_method=["3d_average", "3d_volume_merge"],
        glrlm_spatial_method=["3d_average", "3d_volume_merge"],
        glszm_spatial_method="3d", gldzm_spatial_method="3d", ngtdm_spatial_method="3d",
        ngldm_spatial_method="3d", ngldm_distance=1.0, ngldm_difference_level=0.0,
    )
    numbers = found.select_dtypes("number").iloc[0].to_dict()
    print(json.dumps({name: float(value) for name, value in numbers.items()}), file=answers, flush=True)
"""

# One feature of each family: MIRP's column begins with the name, ours is (identifier, aggregation).
SAME = {
    "morph_volume": ("RNU0", ""),
    "loc_peak_glob": ("0F91", ""),
    "stat_var": ("ECT3", ""),
    "ih_entropy": ("TLU2", ""),
    "ivh_diff_v10_v90": ("DDTU", ""),
    "cm_contrast_d1_3d_v_mrg": ("ACUI", "IAZD"),
    "rlm_r_perc_3d_v_mrg": ("9ZK5", "IAZD"),
    "szm_zs_entr_3d": ("GU8N", "KOBO"),
    "dzm_zd_var_3d": ("7WT1", "KOBO"),
    "ngt_complexity_3d": ("HDEZ", "KOBO"),
    "ngl_dc_entr_d1": ("FCBV", "KOBO"),
}


def main() -> None:
    bench = Bench("radiomics", packages=["numpy", "scipy", "numba", "scikit-image"])
    configuration = load("C")
    with tempfile.TemporaryDirectory() as folder:
        image, mask = phantom(Path(folder))
        with mirp_worker(image, mask) as run_mirp:
            found: dict[str, Features] = {}

            def ours() -> None:
                volume = nifti.read_volume(image)
                region = nifti.read_volume(mask)
                found["ours"] = extract(
                    volume, Mask(array=region.array > 0, affine=region.affine), configuration
                )

            seconds = interleaved({"voxtrial": ours, "MIRP 2.7.0": run_mirp}, rounds=3)
            worst = largest_difference(found["ours"], run_mirp())
        bench.add_speedup(
            "config C, all families, NIfTI to features",
            seconds["voxtrial"],
            "MIRP 2.7.0",
            seconds["MIRP 2.7.0"],
            TARGET,
        )
        bench.add("largest relative difference to MIRP, one feature a family", worst, "1")
        volume, region = nifti.read_volume(image), nifti.read_volume(mask)
        whole = Mask(array=region.array > 0, affine=region.affine)
        bench.add("voxels of the region at 2 mm", found["ours"].value("YEKZ") / 8, "voxels")
        bench.add("features", len(found["ours"]), "values")
        bench.add("all families, arrays in memory", median_seconds(volume, whole, ()), "s")
        for family in FAMILIES:
            bench.add(f"  {family}, with preparation", median_seconds(volume, whole, (family,)), "s")
    bench.finish()


def median_seconds(volume: Volume, mask: Mask, families: tuple[str, ...]) -> float:
    configuration = load("C")
    return interleaved({"run": lambda: extract(volume, mask, configuration, families=families)}, rounds=5)[
        "run"
    ]


def phantom(folder: Path) -> tuple[Path, Path]:
    """Return image and mask: the IBSI CT phantom, or an ellipsoid of 370 mL of correlated noise."""
    ibsi = SHARED_DATA / "ibsi" / "ct_phantom" / "nifti"
    if ibsi.is_dir():
        return ibsi / "image" / "phantom.nii.gz", ibsi / "mask" / "mask.nii.gz"
    sys.path.append(str(ROOT / "tests"))
    from phantoms import axial_grid, ellipsoid
    from scipy.ndimage import gaussian_filter

    grid = axial_grid((60, 201, 204), (3.0, 0.977, 0.977))
    inside = ellipsoid(grid, (45.0, 45.0, 43.0)) <= 1
    noise = gaussian_filter(np.random.default_rng(1).normal(0, 300, grid.shape), 1.5)
    array = np.where(inside, 40 + noise, -700 + noise).round().astype(np.int16)
    nifti.write(Volume(array=array, affine=grid.affine), folder / "image.nii.gz")
    nifti.write(Mask(array=inside, affine=grid.affine), folder / "mask.nii.gz")
    return folder / "image.nii.gz", folder / "mask.nii.gz"


@contextmanager
def mirp_worker(image: Path, mask: Path) -> Iterator:
    """Yield a function that makes MIRP extract once and returns its numbers by column."""
    command = [mirp_python(), "-c", MIRP_WORKER, str(image), str(mask)]
    quiet = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | quiet
    ) as process:

        def run() -> dict[str, float]:
            process.stdin.write("go\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                sys.exit("bench-radiomics: MIRP stopped; its messages stand above.")
            return json.loads(answer)

        yield run
        process.stdin.close()


def mirp_python() -> str:
    if "VOXTRIAL_MIRP_PYTHON" in os.environ:
        return os.environ["VOXTRIAL_MIRP_PYTHON"]
    folder = ROOT / "build" / "peers" / "mirp"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"bench-radiomics: installing {MIRP} into {folder} (1.5 GB, minutes)", flush=True)
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", MIRP], check=True)
        (folder / "ready").touch()
        print(f"bench-radiomics: installed in {time.perf_counter() - begin:.0f} s")
    return str(python)


def largest_difference(ours: Features, theirs: dict[str, float]) -> float:
    differences = []
    for prefix, key in SAME.items():
        (value,) = (v for name, v in theirs.items() if name.startswith(prefix))
        differences.append(abs(ours.value(*key) - value) / abs(value))
    return max(differences)


if __name__ == "__main__":
    main()
