"""What a model was validated for is enforced with the rule and the value."""

from __future__ import annotations

import json

import numpy as np
import pytest
from phantoms import axial_grid

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.harmonize.envelope import Envelope, audit, receptive_field_mm, stacked_convolutions
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.volume import Source, Volume

RULES = [
    {"fact": "slice_spacing_mm", "minimum": 0.5, "maximum": 3.0},
    {"fact": "modality", "among": ["CT"]},
    {"fact": "ConvolutionKernel", "among": ["STD", "B30f"], "action": "flag"},
    {"fact": "KVP", "minimum": 100, "missing": "refuse"},
    {"fact": "extent_mm", "minimum": 20, "action": "flag"},
]


def study(slice_mm: float = 2.5, **acquisition: object) -> Volume:
    grid = axial_grid((12, 20, 20), (slice_mm, 0.8, 0.8))
    facts = {"ConvolutionKernel": "STD", "KVP": 120.0, "SliceThickness": slice_mm} | acquisition
    return Volume(
        array=np.zeros(grid.shape, np.int16),
        affine=grid.affine,
        unit="[hnsf'U]",
        source=Source(modality="CT", acquisition=facts),
    )


def test_study_inside_the_envelope_passes_without_a_word() -> None:
    assert Envelope.from_rules(RULES).check(study()) == ()
    assert Envelope.from_rules(RULES).check(study(ConvolutionKernel="b30F ", KVP="100")) == ()
    assert Envelope.from_rules(RULES).check(study(3.0)) == ()


def test_every_refusing_rule_is_named_with_its_value() -> None:
    with pytest.raises(Refused) as refusal:
        Envelope.from_rules(RULES).check(study(5.0, KVP=80.0))
    assert refusal.value.rule == "outside_envelope"
    assert "slice_spacing_mm is 5; the model was validated for 0.5 to 3." in str(refusal.value)
    assert "KVP is 80; the model was validated for at least 100." in str(refusal.value)


def test_flagging_rule_lets_the_study_pass_with_a_sentence() -> None:
    (violation,) = Envelope.from_rules(RULES).check(study(ConvolutionKernel="SHARP"))
    assert violation.sentence == "ConvolutionKernel is SHARP; the model was validated for STD, B30f."


def test_missing_fact_is_decided_by_the_rule() -> None:
    with pytest.raises(Refused, match="KVP is not told by the study"):
        Envelope.from_rules(RULES).check(study(KVP=""))
    (violation,) = Envelope.from_rules(RULES).check(study(ConvolutionKernel=""))
    assert violation.value == ""
    accepting = [{"fact": "FilterType", "among": ["BODY"], "missing": "accept"}]
    assert Envelope.from_rules(accepting).check(study()) == ()


def test_text_where_a_number_is_bounded_is_outside() -> None:
    with pytest.raises(Refused, match="KVP is high"):
        Envelope.from_rules(RULES).check(study(KVP="high"))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"fact": "slice_spacing"}, "minimum/maximum or among"),
        ({"fact": "slice_spacing", "maximum": 3}, 'did you mean "slice_spacing_mm"'),
        ({"fact": "KVP", "minimum": 1, "among": ["x"]}, "either"),
        ({"fact": "KVP", "least": 1}, "least"),
    ],
)
def test_rule_that_cannot_be_understood_is_an_error(rule: dict[str, object], words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        Envelope.from_rules([rule])


def test_receptive_field_in_millimetres() -> None:
    """A 3^3 filter on 0.8 x 0.8 x 5 mm looks at 2.4 x 2.4 x 15 mm; four of them at 7.2 x 7.2 x 45."""
    assert receptive_field_mm((5, 0.8, 0.8), (3, 3, 3)) == (15, 2.4, 2.4)
    assert stacked_convolutions(1) == 3
    assert receptive_field_mm((5, 0.8, 0.8), [stacked_convolutions(4)] * 3) == (45, 7.2, 7.2)


def test_audit_tells_before_and_after() -> None:
    volume = study(5.0)
    result = audit(
        volume, Recipe.from_steps([{"step": "resample"}]).apply(volume), receptive_field_voxels=(9, 9, 9)
    )
    assert json.loads(json.dumps(result)) == result
    assert result["before"]["spacing_mm"] == [5.0, 0.8, 0.8]
    assert result["after"]["spacing_mm"] == [1.0, 1.0, 1.0]
    assert result["before"]["receptive_field_mm"] == [45, 7.2, 7.2]
    assert result["after"]["receptive_field_mm"] == [9, 9, 9]
    assert result["acquisition"] == {"SliceThickness": 5.0, "ConvolutionKernel": "STD", "KVP": 120.0}
    assert "10 mm" in result["warnings"][0]


def test_audit_tells_orientation_and_tilt_before_and_after() -> None:
    """Slices 4 mm apart that lean by atan(1 / 4) = 14.036 degrees, then upright, then turned."""
    upright = study(4.0)
    affine = upright.affine.copy()
    affine[1, 0] = 1.0
    volume = Volume(array=upright.array, affine=affine, source=upright.source)
    recipe = Recipe.from_steps([{"step": "straighten"}, {"step": "reorient", "axes": "LIA"}])
    result = audit(volume, recipe.apply(volume))
    assert (result["before"]["axes"], result["after"]["axes"]) == ("SPL", "LIA")
    assert (result["before"]["tilt_degrees"], result["after"]["tilt_degrees"]) == (14.036, 0)
    assert "receptive_field_mm" not in result["before"]
