"""A recipe is its parameters: the digest, the record, and errors that name the remedy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from phantoms import axial_grid

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.volume import Volume

STEPS = [
    {"step": "resample", "spacing_mm": [1, 1, 1], "interpolator": "linear"},
    {"step": "window", "low": -1000, "high": 400, "to": [0, 1]},
    {"step": "zscore"},
]


def chest() -> Volume:
    grid = axial_grid((12, 30, 30), (5.0, 0.8, 0.8))
    array = np.random.default_rng(0).integers(-1000, 900, grid.shape).astype(np.int16)
    return Volume(array=array, affine=grid.affine, unit="[hnsf'U]")


def second_sd(volume: Volume) -> float:
    """Standard deviation after the first two steps."""
    return float(Recipe.from_steps(STEPS[:2]).apply(volume).volume.array.std(dtype=float))


def test_digest_depends_on_the_parameters_and_on_nothing_else() -> None:
    digest = Recipe.from_steps(STEPS).digest
    spelled_out = [
        {"reason": "the site asked", "anti_alias": True, "spacing_mm": [1.0, 1.0, 1.0], "step": "resample"},
        {"to": (0.0, 1.0), "low": -1000.0, "high": 400.0, "step": "window"},
        {"step": "zscore", "region": "all", "fill": None},
    ]
    assert Recipe.from_steps(spelled_out).digest == digest
    assert len(digest) == 64
    assert Recipe.from_steps(STEPS[::-1]).digest != digest
    assert Recipe.from_steps([{**STEPS[0], "spacing_mm": [1, 1, 1.0001]}, *STEPS[1:]]).digest != digest


def test_digest_is_the_same_on_every_machine() -> None:
    """Computed by hand: SHA-256 of the canonical JSON text below, with sha256sum."""
    import hashlib

    text = (
        '{"schema":"voxtrial-recipe/1","steps":[{"high":400.0,"low":-1000.0,"step":"window","to":[0.0,1.0]}]}'
    )
    assert Recipe.from_steps([STEPS[1]]).digest == hashlib.sha256(text.encode()).hexdigest()


def test_record_tells_before_after_and_why() -> None:
    result = Recipe.from_steps(STEPS).apply(chest())
    first, second, third = result.record
    assert (first.before.spacing_mm, first.after.spacing_mm) == ((5.0, 0.8, 0.8), (1.0, 1.0, 1.0))
    assert (first.before.shape, first.after.shape) == ((12, 30, 30), (60, 24, 24))
    assert (first.before.axes, first.after.unit) == ("SPL", "[hnsf'U]")
    assert "millimetres" in first.reason
    assert "10 mm" in first.warnings[0]
    assert result.warnings == first.warnings
    assert (second.before.unit, second.after.unit) == ("[hnsf'U]", "1")
    assert second.parameters == {"low": -1000.0, "high": 400.0, "to": [0.0, 1.0]}
    assert third.step == "zscore"
    assert third.found["sd"] == pytest.approx(second_sd(chest()), rel=1e-5)
    assert json.loads(json.dumps([line.as_json() for line in result.record]))[0]["step"] == "resample"
    assert result.recipe_digest == Recipe.from_steps(STEPS).digest
    assert result.volume.array.std() == pytest.approx(1, abs=1e-5)


def test_authors_reason_replaces_the_general_one() -> None:
    result = Recipe.from_steps([{**STEPS[1], "reason": "lung window"}]).apply(chest())
    assert result.record[0].reason == "lung window"


def test_recipe_changes_neither_its_input_nor_the_source() -> None:
    volume = chest()
    before = volume.array.copy()
    result = Recipe.from_steps([*STEPS, {"step": "clip", "low": -1, "high": 1}]).apply(volume)
    np.testing.assert_array_equal(volume.array, before)
    assert result.volume.source is volume.source


def test_every_step_changes_something() -> None:
    """An option that a string match lost would leave the volume as it was."""
    volume = chest()
    for step in (
        {"step": "resample", "spacing_mm": 2.0},
        {"step": "resample", "spacing_mm": 2.0, "interpolator": "bspline"},
        {"step": "resample", "spacing_mm": 2.0, "anti_alias": False},
        {"step": "conform", "shape": [20, 20, 20], "axes": "LIA"},
        {"step": "reorient", "axes": "RAS"},
        {"step": "window", "low": 0, "high": 100},
        {"step": "clip", "low": 0, "high": 100},
        {"step": "zscore", "region": "otsu", "fill": -5},
        {"step": "minmax"},
        {"step": "percentile", "low": 0, "high": 99.9, "to": [0, 255], "integer": True},
        {"step": "percentile", "low": 2, "high": 98, "region": "above_mean"},
        {"step": "percentile", "low": 2, "high": 98, "clip": False},
        {"step": "nyul", "percentiles": [10, 90], "values": [0, 1]},
    ):
        after = Recipe.from_steps([step]).apply(volume).volume
        assert after.array.shape != volume.array.shape or not np.array_equal(after.array, volume.array), step


hu = chest().array.astype(float)
bright = hu > hu.mean()
ends = np.percentile(hu[bright], [2, 98])
deciles = np.percentile(hu[bright], [10, 50, 90])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"step": "window", "low": -300, "high": 500, "to": [-1, 3]}, np.interp(hu, [-300, 500], [-1, 3])),
        ({"step": "clip", "low": -300, "high": 500}, np.clip(hu, -300, 500)),
        ({"step": "zscore"}, (hu - hu.mean()) / hu.std()),
        (
            {"step": "zscore", "region": "above_mean", "fill": -5},
            np.where(bright, (hu - hu[bright].mean()) / hu[bright].std(), -5),
        ),
        (
            {"step": "minmax", "to": [-1, 1], "region": "above_mean"},
            np.interp(hu, [hu[bright].min(), hu[bright].max()], [-1, 1]),
        ),
        (
            {
                "step": "percentile",
                "low": 2,
                "high": 98,
                "to": [0, 255],
                "region": "above_mean",
                "integer": True,
            },
            np.rint(np.interp(hu, ends, [0, 255])),
        ),
        (
            {"step": "percentile", "low": 2, "high": 98, "region": "above_mean", "clip": False},
            (hu - ends[0]) / (ends[1] - ends[0]),
        ),
        (
            {"step": "percentile", "low": 0, "high": 98, "region": "above_mean"},
            np.interp(hu, [hu.min(), ends[1]], [0, 1]),
        ),
        (
            {"step": "nyul", "percentiles": [10, 50, 90], "values": [0, 1, 3]},
            np.where(
                hu < deciles[1],
                (hu - deciles[0]) / (deciles[1] - deciles[0]),
                1 + 2 * (hu - deciles[1]) / (deciles[2] - deciles[1]),
            ),
        ),
    ],
    ids=lambda value: value["step"] if isinstance(value, dict) else "",
)
def test_steps_of_intensity_are_their_formulas(step: dict[str, object], expected: np.ndarray) -> None:
    """Every parameter of a recipe reaches the numbers: numpy, from the definition of the step."""
    found = Recipe.from_steps([step]).apply(chest()).volume
    np.testing.assert_allclose(found.array, expected, atol=1e-5 * np.abs(expected).max())
    assert found.unit == ("[hnsf'U]" if step["step"] == "clip" else "1")


def test_options_of_resampling_are_not_each_other() -> None:
    seen = {}
    for interpolator in ("nearest", "linear", "cubic", "bspline", "quintic", "box"):
        for anti_alias in (True, False):
            step = {
                "step": "resample",
                "spacing_mm": 2,
                "interpolator": interpolator,
                "anti_alias": anti_alias,
            }
            seen[interpolator, anti_alias] = Recipe.from_steps([step]).apply(chest()).volume.array.tobytes()
    del seen["box", True]  # averaging over the new voxel is its own anti-aliasing
    assert len(set(seen.values())) == len(seen)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"step": "resampel"}, 'did you mean "resample"'),
        ({"step": "fourier"}, "known are"),
        ({"step": "resample", "spacing": 1}, 'did you mean "spacing_mm"'),
        ({"step": "window", "low": "soft", "high": 2}, "low is 'soft'"),
        ({"step": "resample", "interpolator": "sinc"}, "interpolator is 'sinc'"),
        ({"step": "percentile", "high": 101}, "high is 101"),
    ],
)
def test_wrong_step_is_one_sentence_with_the_remedy(step: dict[str, object], words: str) -> None:
    with pytest.raises(Misconfigured) as error:
        Recipe.from_steps([STEPS[0], step])
    assert "Step 2" in str(error.value)
    assert words in str(error.value)
