"""The memory that a job is planned to take is the memory that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import phantoms
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from safetensors.torch import save_file

from voxtrial.daemon.isolation import THREAD_CAPS
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.models.unet3d import UNet3d
from voxtrial.daemon.services import gate

RUN = r"""
import importlib, json, re, sys
from datetime import UTC, datetime
from pathlib import Path
import pydicom
from voxtrial.daemon import pipeline
from voxtrial.daemon.job import JobInput
from voxtrial.daemon.isolation import THREAD_CAPS
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.volume import SourceInstance
from voxtrial.daemon.worker import PRELOAD

for module in PRELOAD:
    importlib.import_module(module)
folder, name = Path(sys.argv[1]), sys.argv[2]
model = ModelStore(folder / "models").get(name)
files = sorted((folder / "study").iterdir())
headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
instances = tuple(
    SourceInstance(sop_instance_uid=str(h.SOPInstanceUID), sop_class_uid=str(h.SOPClassUID),
                   sha256="0" * 64, path=str(path))
    for path, h in zip(files, headers, strict=True)
)
(folder / "objects").mkdir()
pipeline.run_job(JobInput(
    job_id=1, study_instance_uid=str(headers[0].StudyInstanceUID), study_version=1, instances=instances,
    model_folder=str(model.folder), model_digest=model.digest, recipe_digest=model.recipe_digest,
    objects_folder=str(folder / "objects"), first_started_at=datetime.now(UTC), site="test"))
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
"""The pipeline in a process that has what a worker preloads; prints its peak resident memory, MiB.

``ru_maxrss`` would not do: it begins with the peak of the process that started this one.
"""


SPACING_MM = (2.0, 0.7, 0.7)
MODEL = """
[identity]
name = "phases"
version = "1"
description = "Several phases"
intended_use = "Tests"
licence = "Apache-2.0"
manufacturer = "Voxtrial"
family = ["123110", "DCM", "Artificial Intelligence"]
{roles}
[engine]
architecture = "unet3d"
activation = "sigmoid"
precision = "float32"
weights = "weights.safetensors"
parameters = {{ channels = [2, 4] }}
[tiling]
mode = "blended"
tile = [64, 64, 64]
overlap = 0.25
[[outputs]]
index = 1
name = "nodule"
label = "Nodule"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["27925004", "SCT", "Nodule"]
rgb = [230, 80, 60]
[findings]
rule = "component"
"""
PHASE = """
[[inputs]]
role = "phase{number}"
selector = {{ modality = "CT", description = "phase {number}", minimum_slices = 3 }}
recipe = [{{step = "resample", spacing_mm = [2.0, 2.0, 2.0], interpolator = "linear"}}]
"""


def measured_mib(folder: Path, name: str) -> float:
    """Return the peak of a job of the model over the study in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, folder, name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **dict.fromkeys(THREAD_CAPS, "1")},  # as the server that jobs are forked from
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("otsu", (60, 200, 200)),
        ("nodule-phantom", (32, 128, 128)),
        pytest.param("nodule-phantom", (80, 300, 300), marks=pytest.mark.nightly),
    ],
)
def test_planned_peak_is_within_a_fifth_of_the_measured_one(
    tmp_path: Path, name: str, shape: tuple[int, int, int]
) -> None:
    """Measured by the kernel (VmHWM). A job is killed at one and a half times its plan."""
    ball = np.where(phantoms.sphere(shape, SPACING_MM, 8), 60, -900).astype(np.int16)
    files = phantoms.ct_series(tmp_path / "study", ball, SPACING_MM)
    planned = gate.planned_peak_mib(gate.judge(files), ModelStore(tmp_path / "models").get(name))
    assert planned == pytest.approx(measured_mib(tmp_path, name), rel=0.2)


def phases(folder: Path, inputs: int) -> Path:
    """Write a model of so many phases of a CT whose layers pass bright voxels on: it finds what is bright.

    The layers are narrow and their windows small, so that the volumes make the peak.
    """
    weights = UNet3d([2, 4], inputs=inputs).state_dict()
    for name, values in weights.items():
        if name.endswith("bias") or values.ndim == 5:
            values.zero_()
        if values.ndim == 5 and not name.startswith("up"):
            middle = values.shape[-1] // 2
            values[0, :, middle, middle, middle] = 1
    weights["head.bias"].fill_(-20.0)
    folder.mkdir()
    save_file(weights, folder / "weights.safetensors")
    roles = "".join(PHASE.format(number=number) for number in range(inputs))
    (folder / "model.toml").write_text(MODEL.format(roles=roles))
    return folder


def study_of_phases(folder: Path, number: int, shape: tuple[int, int, int]) -> list[Path]:
    """Write a study with a series of the same ball for each phase, on one grid."""
    folder.mkdir()
    study = generate_uid()
    ball = np.where(phantoms.sphere(shape, SPACING_MM, 20), 60, -900).astype(np.int16)
    for phase in range(number):
        series = folder.parent / f"phase-{phase}"
        for path in phantoms.ct_series(series, ball, SPACING_MM, study_instance_uid=study):
            image = dcmread(path)
            image.SeriesDescription = f"phase {phase}"
            image.save_as(folder / f"{phase}-{path.name}")
    return sorted(folder.iterdir())


def test_planned_peak_of_a_model_with_two_inputs_is_within_a_fifth_of_the_measured_one(
    tmp_path: Path,
) -> None:
    """Only on the grid of the first input masks and labels are held; both are harmonized and stacked."""
    files = study_of_phases(tmp_path / "study", 2, (160, 400, 400))
    model = ModelStore(tmp_path / "models").add(phases(tmp_path / "phases", 2))
    planned = gate.planned_peak_mib(gate.judge(files), model)
    assert planned == pytest.approx(measured_mib(tmp_path, "phases"), rel=0.2)


def test_study_without_a_suitable_series_is_planned_for_nothing(tmp_path: Path) -> None:
    """The job says why when it runs."""
    files = phantoms.ct_series(tmp_path / "study", np.zeros((2, 8, 8), np.int16))
    model = ModelStore(tmp_path / "models").get("otsu")
    assert gate.planned_peak_mib(gate.judge(files), model) == 0


def test_queue_is_looked_after_without_the_libraries_of_networks() -> None:
    """The plan of a job is made in the process that closes studies."""
    code = (
        "import sys; import voxtrial.daemon.duties, voxtrial.daemon.inference.sizing;"
        "print([name for name in ('torch', 'numba', 'highdicom') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
