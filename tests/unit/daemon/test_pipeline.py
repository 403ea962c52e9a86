"""One job as a function: what it records, what it refuses, and that it gives the same bytes again."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pydicom
import pytest

from voxtrial.daemon.errors import Fatal, Refused
from voxtrial.daemon.job import JobInput
from voxtrial.daemon.models.store import BUILTIN, StoredModel, open_folder
from voxtrial.daemon.pipeline import run_job
from voxtrial.daemon.volume import Grid, SourceInstance
from voxtrial.validation import regions

SHAPE, SPACING, RADIUS_MM = (24, 48, 48), (2.5, 1.0, 1.0), 14.0


def job(folder: Path, model: StoredModel, files: list[Path], **changes: Any) -> JobInput:
    objects = folder / "objects"
    objects.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "job_id": 1,
        "study_instance_uid": "",
        "study_version": 1,
        "instances": tuple(
            SourceInstance(
                sop_instance_uid=str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID),
                sop_class_uid="",
                sha256="00",
                path=str(f),
            )
            for f in files
        ),
        "model_folder": str(model.folder),
        "model_digest": model.digest,
        "recipe_digest": model.recipe_digest,
        "objects_folder": str(objects),
        "first_started_at": datetime(2026, 1, 1, tzinfo=UTC),
        "site": "Site A",
    }
    return JobInput(**(values | changes))


def ball_series(folder: Path) -> list[Path]:
    inside = phantoms.sphere(SHAPE, SPACING, RADIUS_MM)
    return phantoms.ct_series(
        folder / "ct", np.where(inside, 60, -900).astype(np.int16), SPACING, seed="pipe"
    )


def with_envelope(folder: Path, rules: str) -> StoredModel:
    """The Otsu baseline with rules of its own."""
    copy = folder / "model"
    shutil.copytree(BUILTIN / "otsu", copy)
    text = (copy / "model.toml").read_text()
    (copy / "model.toml").write_text(text.replace("\n[engine]", f"envelope = {rules}\n\n[engine]"))
    return open_folder(copy)


def test_a_ball_is_measured_on_the_ruler_and_drawn_on_its_planes(tmp_path: Path) -> None:
    output = run_job(job(tmp_path, open_folder(BUILTIN / "otsu"), ball_series(tmp_path)))
    values = {m.concept_meaning: m.value for m in output.measurements}
    equivalent_radius_mm = (3 * values["Volume"] / (4 * np.pi)) ** (1 / 3)
    assert equivalent_radius_mm == pytest.approx(RADIUS_MM, abs=0.5)  # half a voxel of the ruler
    assert values["Long Axis"] == pytest.approx(2 * RADIUS_MM, abs=1.0)
    assert [o.kind for o in output.objects] == ["SEG", "SR"]
    labels = output.provenance["labels"]
    region = regions.read(tmp_path / "objects" / labels["name"], labels["sha256"])
    assert region.array.shape == SHAPE
    assert region.spacing_mm == pytest.approx(SPACING)


def test_every_step_is_told_and_timed(tmp_path: Path) -> None:
    told: list[str] = []
    output = run_job(job(tmp_path, open_folder(BUILTIN / "otsu"), ball_series(tmp_path)), told.append)
    assert told == list(output.seconds) == ["verify", "read", "harmonize", "predict", "measure", "encode"]


def test_the_record_says_what_harmonization_changed(tmp_path: Path) -> None:
    output = run_job(job(tmp_path, open_folder(BUILTIN / "otsu"), ball_series(tmp_path)))
    audit = output.provenance["harmonization"]["ct"]
    assert audit["before"]["spacing_mm"] == pytest.approx(SPACING)
    assert audit["after"]["spacing_mm"] == pytest.approx([1, 1, 1])
    assert audit["steps"][0]["step"] == "resample"


def tilted_ball_series(folder: Path) -> list[Path]:
    """A ball under a gantry that leans by 20 degrees: 30 slices, 2 mm apart along the table."""
    lean = np.deg2rad(20)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([(0, 0, 2.0), (0, np.cos(lean), np.sin(lean)), (1.0, 0, 0)])
    grid = Grid(shape=(30, 48, 48), affine=affine)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).astype(float)
    middle = grid.world((np.array(grid.shape) - 1) / 2)
    inside = np.linalg.norm(grid.world(index) - middle, axis=-1) <= RADIUS_MM
    return phantoms.stack(folder / "ct", np.where(inside, 60, -900).astype(np.int16), affine)


def test_tilted_gantry_is_refused_unless_the_recipe_straightens_it(tmp_path: Path) -> None:
    files = tilted_ball_series(tmp_path)
    with pytest.raises(Refused, match=r"20\.00 degrees") as caught:
        run_job(job(tmp_path, open_folder(BUILTIN / "otsu"), files))
    assert caught.value.rule == "gantry_tilt"

    copy = tmp_path / "model"
    shutil.copytree(BUILTIN / "otsu", copy)
    text = (copy / "model.toml").read_text()
    text = text.replace("minimum_slices = 3,", "minimum_slices = 3, allow_tilt = true,")
    text = text.replace(
        'recipe = [{ step = "resample"', 'recipe = [{ step = "straighten" }, { step = "resample"'
    )
    (copy / "model.toml").write_text(text)
    output = run_job(job(tmp_path, open_folder(copy), files))
    audit = output.provenance["harmonization"]["ct"]
    assert (audit["before"]["tilt_degrees"], audit["after"]["tilt_degrees"]) == (
        pytest.approx(20, abs=0.01),
        0,
    )
    values = {m.concept_meaning: m.value for m in output.measurements}
    equivalent_radius_mm = (3 * values["Volume"] / (4 * np.pi)) ** (1 / 3)
    assert equivalent_radius_mm == pytest.approx(RADIUS_MM, abs=0.5)  # half a voxel of the ruler


def test_input_outside_the_envelope_is_refused_with_rule_and_value(tmp_path: Path) -> None:
    model = with_envelope(tmp_path, '[{fact = "slice_spacing_mm", maximum = 2.0}]')
    with pytest.raises(
        Refused, match=r"slice_spacing_mm is 2\.5; the model was validated for at most 2"
    ) as caught:
        run_job(job(tmp_path, model, ball_series(tmp_path)))
    assert caught.value.rule == "outside_envelope"


def test_input_that_is_flagged_says_so_in_the_objects(tmp_path: Path) -> None:
    model = with_envelope(tmp_path, '[{fact = "slice_spacing_mm", maximum = 2.0, action = "flag"}]')
    output = run_job(job(tmp_path, model, ball_series(tmp_path)))
    assert output.provenance["flags"] == ["slice_spacing_mm is 2.5; the model was validated for at most 2."]
    segmentation = pydicom.dcmread(next(o.path for o in output.objects if o.kind == "SEG"))
    identification = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert "validated for at most 2" in identification.AlgorithmParameters


def test_an_envelope_that_cannot_be_understood_is_named(tmp_path: Path) -> None:
    from voxtrial.daemon.errors import Misconfigured

    with pytest.raises(Misconfigured, match="slice_spacing_mm"):
        with_envelope(tmp_path, '[{fact = "slice_spacing", maximum = 2.0}]')


def test_a_model_that_is_not_the_locked_one_is_fatal(tmp_path: Path) -> None:
    locked = job(tmp_path, open_folder(BUILTIN / "otsu"), ball_series(tmp_path), model_digest="0" * 64)
    with pytest.raises(Fatal, match="locked to 000000000000"):
        run_job(locked)


def test_a_study_without_a_suitable_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        run_job(job(tmp_path, open_folder(BUILTIN / "otsu"), ball_series(tmp_path)[:1]))


def test_the_same_job_gives_the_same_bytes(tmp_path: Path) -> None:
    asked = job(tmp_path, open_folder(BUILTIN / "nodule-phantom"), ball_series(tmp_path))
    first, second = run_job(asked), run_job(asked)
    assert [o.sha256 for o in first.objects] == [o.sha256 for o in second.objects]
    assert first.measurements == second.measurements
