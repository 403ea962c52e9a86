"""Findings on the grid of the scanner, against shapes whose volume is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import axial_grid

from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.inference.postprocess import Finding, findings
from voxtrial.daemon.inference.predict import Prediction, predict
from voxtrial.daemon.models.manifest import MANIFEST_NAME
from voxtrial.daemon.models.store import BUILTIN, StoredModel, open_folder
from voxtrial.daemon.volume import Grid, Volume


def balls(grid: Grid, *placed: tuple[tuple[float, float, float], float]) -> np.ndarray:
    """Return -850 HU with balls of 40 HU at (centre in LPS mm, radius in mm), edges smoothed over a voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in grid.shape), indexing="ij"), axis=-1)
    where = grid.world(index)
    inside = np.zeros(grid.shape)
    for centre, radius in placed:
        distance = np.linalg.norm(where - np.array(centre), axis=-1)
        inside = np.maximum(inside, np.clip(radius - distance + 0.5, 0, 1))
    return (-850 + 890 * inside).astype(np.float32)


def threshold_model(folder: Path, **changes: str) -> StoredModel:
    text = (BUILTIN / "threshold" / MANIFEST_NAME).read_text().replace("low = -300.0", "low = -405.0")
    for old, new in changes.items():
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_NAME).write_text(text)
    return open_folder(folder)


def find(model: StoredModel, volume: Volume) -> list[Finding]:
    (one,) = model.manifest.inputs
    harmonized = Recipe.from_steps(one.recipe).apply(volume).volume
    return findings(predict(model, {"ct": harmonized}), volume.grid, model, {"ct": harmonized})


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 0.7), (3.0, 0.8, 0.8)])
def test_two_balls_are_two_findings_of_known_volume(
    tmp_path: Path, spacing: tuple[float, float, float]
) -> None:
    shape = tuple(round(60 / s) for s in spacing)
    grid = axial_grid(shape, spacing)
    middle = grid.world((np.array(shape) - 1) / 2)
    array = balls(
        grid,
        (tuple(middle + np.array([12.0, 3.0, -8.0])), 9.0),
        (tuple(middle - np.array([14.0, 5.0, 9.0])), 6.0),
    )
    found = find(threshold_model(tmp_path / "m"), Volume(array=array, affine=grid.affine))
    assert [finding.roi for finding in found] == [1, 2]
    for finding, radius in zip(found, (9.0, 6.0), strict=True):
        truth = 4 / 3 * np.pi * radius**3
        assert finding.mask.sum() * grid.voxel_volume_mm3 == pytest.approx(truth, rel=0.03 * spacing[0])
        assert finding.volume_mm3 == pytest.approx(truth, rel=0.04)
    assert not (found[0].mask & found[1].mask).any()


def test_same_grid_gives_the_same_mask_back(tmp_path: Path) -> None:
    grid = axial_grid((30, 40, 40), (1.0, 1.0, 1.0))
    array = balls(grid, (tuple(grid.world(np.array([15.0, 20, 20]))), 7.0))
    (only,) = find(threshold_model(tmp_path / "m"), Volume(array=array, affine=grid.affine))
    assert (only.mask == (array >= -405)).all()


def test_small_components_are_not_findings(tmp_path: Path) -> None:
    grid = axial_grid((30, 40, 40), (1.0, 1.0, 1.0))
    array = np.full(grid.shape, -850, np.float32)
    array[5:8, 5:8, 5:8] = 0  # 27 mm3
    array[15:19, 5:9, 5:9] = 0  # 64 mm3
    volume = Volume(array=array, affine=grid.affine)
    assert [f.volume_mm3 for f in find(threshold_model(tmp_path / "a"), volume)] == [64.0]
    small = threshold_model(tmp_path / "b", **{"minimum_volume_mm3 = 30.0": "minimum_volume_mm3 = 20.0"})
    assert [f.volume_mm3 for f in find(small, volume)] == [64.0, 27.0]


def test_corner_neighbours_are_one_finding_by_26_and_two_by_6(tmp_path: Path) -> None:
    grid = axial_grid((20, 20, 20), (1.0, 1.0, 1.0))
    array = np.full(grid.shape, -850, np.float32)
    array[2:6, 2:6, 2:6] = array[6:10, 6:10, 6:10] = 0
    volume = Volume(array=array, affine=grid.affine)
    assert len(find(threshold_model(tmp_path / "a"), volume)) == 1
    six = threshold_model(tmp_path / "b", **{"connectivity = 26": "connectivity = 6"})
    assert len(find(six, volume)) == 2


def test_lesion_at_the_edge_of_the_volume_keeps_its_voxels(tmp_path: Path) -> None:
    """Half a voxel beyond the outermost centres still belongs to the volume."""
    grid = axial_grid((20, 60, 60), (3.0, 0.7, 0.7))
    array = np.full(grid.shape, -850, np.float32)
    array[:6, :20, :20] = 0
    (only,) = find(threshold_model(tmp_path / "m"), Volume(array=array, affine=grid.affine))
    assert (only.mask ^ (array == 0)).sum() <= 0.03 * only.mask.sum()
    assert only.mask[0, 0, 0]


def test_each_label_is_one_region_and_the_most_probable_wins(tmp_path: Path) -> None:
    extra = """
[[outputs]]
index = 2
name = "second"
label = "Second"
category = ["49755003", "SCT", "Morphologically Abnormal Structure"]
type = ["52988006", "SCT", "Lesion"]

[findings]"""
    changes = {"[findings]": extra, 'rule = "component"': 'rule = "label"', '"none"': '"softmax"'}
    model = threshold_model(tmp_path / "m", **changes)
    grid = axial_grid((8, 10, 10), (1.0, 1.0, 1.0))
    probabilities = np.zeros((3, *grid.shape), np.float32)
    probabilities[0] = 0.4
    probabilities[1, :4], probabilities[2, :4] = 0.35, 0.25
    probabilities[1, 4:], probabilities[2, 4:] = 0.1, 0.5
    probabilities[1, 0] = 0.6
    prediction = Prediction(probabilities=probabilities, grid=grid, exclusive=True, model_digest="")
    volume = Volume(array=probabilities[0], affine=grid.affine)
    first, second = findings(prediction, grid, model, {"ct": volume})
    assert (np.flatnonzero(first.mask.any(axis=(1, 2))) == [0]).all()
    assert (np.flatnonzero(second.mask.any(axis=(1, 2))) == [4, 5, 6, 7]).all()
    assert (prediction.labels() == np.where(first.mask, 1, np.where(second.mask, 2, 0))).all()
