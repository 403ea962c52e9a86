"""The memory that a job is planned to take is the memory that it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import phantoms
import pytest

from voxtrial.daemon.isolation import THREAD_CAPS
from voxtrial.daemon.models.store import ModelStore
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
    spacing = (2.0, 0.7, 0.7)
    ball = np.where(phantoms.sphere(shape, spacing, 8), 60, -900).astype(np.int16)
    files = phantoms.ct_series(tmp_path / "study", ball, spacing)
    planned = gate.planned_peak_mib(gate.judge(files), ModelStore(tmp_path / "models").get(name))
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path, name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **dict.fromkeys(THREAD_CAPS, "1")},  # as the server that jobs are forked from
    )
    assert done.returncode == 0, done.stderr
    assert planned == pytest.approx(float(done.stdout), rel=0.2)


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
