"""Warnings for numbers that mislead: each pitfall is found once, and the right report is silent."""

from __future__ import annotations

import pytest

from voxtrial.validation.lint import RULES, check

SOUND = {"n": 40, "ci": (0.7, 0.9), "sd": 0.1, "spacing_mm": (1, 1, 1), "group": "liver"}


def rows(*given):
    return [{"id": f"row {i}", **SOUND, **row} for i, row in enumerate(given)]


RIGHT = rows(
    {"metric": "dice", "aggregate": "mean", "structure_voxels": 5000},
    {"metric": "hd", "aggregate": "mean"},
    {"metric": "hd95_surfel", "aggregate": "mean"},
    {"metric": "accuracy", "prevalence": 0.4},
    {"metric": "auc"},
    {"metric": "sensitivity"},
    {"metric": "ppv", "prevalence": 0.3, "intended_prevalence": 0.3},
    {"metric": "icc2_1"},
    {"metric": "wsd"},
    {"metric": "nri"},
    {"metric": "brier"},
)


def test_sound_report_is_silent():
    assert check(RIGHT) == []


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ([{"metric": "volume", "n": None}], "number_without_n"),
        ([{"metric": "volume", "ci": None}], "number_without_interval"),
        ([{"metric": "volume", "ci": (0.5, None)}], "number_without_interval"),
        ([{"metric": "sensitivity", "ci": (1, 1)}], "interval_of_zero_width"),
        ([{"metric": "assd", "aggregate": "mean", "sd": None}], "mean_without_spread"),
        (
            [{"metric": "dice", "structure_voxels": 20}, {"metric": "nsd_surfel"}],
            "overlap_of_tiny_structures",
        ),
        ([{"metric": "hd"}], "hausdorff_without_percentile"),
        ([{"metric": "dice"}], "overlap_without_boundary"),
        ([{"metric": "accuracy", "prevalence": 0.05}], "accuracy_under_imbalance"),
        ([{"metric": "auc"}], "area_without_operating_point"),
        (
            [{"metric": "ppv", "prevalence": 0.5, "intended_prevalence": 0.02}],
            "predictive_value_at_another_prevalence",
        ),
        (
            [{"metric": "f1", "prevalence": 0.5}, {"metric": "f1", "prevalence": 0.1}],
            "predictive_values_compared_across_prevalences",
        ),
        ([{"metric": "assd", "aggregate": "mean", "n_undefined": 3}], "average_that_drops_cases"),
        (
            [{"metric": "nsd", "aggregate": "mean", "n_empty": 4, "empty_as": 1}],
            "empty_counted_as_agreement",
        ),
        ([{"metric": "sensitivity", "n": 90, "clusters": 40}], "clusters_taken_as_independent"),
        ([{"metric": "volume", "spacing_mm": None}], "spacing_ignored"),
        ([{"metric": "icc2_1"}], "correlation_alone"),
        ([{"metric": "nri_total"}], "reclassification_without_calibration"),
    ],
)
def test_pitfall_is_named_once(wrong, rule):
    found = check(rows(*wrong))
    assert [misuse.rule for misuse in found] == [rule]
    assert found[0].message.endswith(".")


def test_rows_are_judged_within_their_group():
    """HD95 of the kidney does not excuse HD of the liver."""
    found = check(rows({"metric": "hd"}, {"metric": "hd95", "group": "kidney"}))
    assert [(misuse.rule, misuse.row) for misuse in found] == [("hausdorff_without_percentile", "row 0")]


def test_clustered_interval_excuses_clusters():
    assert check(rows({"metric": "sensitivity", "n": 90, "clusters": 40, "clustered_ci": True})) == []


def test_bare_row_is_enough():
    assert {misuse.rule for misuse in check([{"id": "a", "metric": "x"}])} == {
        "number_without_n",
        "number_without_interval",
    }
    assert len({rule.__name__ for rule in RULES}) == len(RULES)
