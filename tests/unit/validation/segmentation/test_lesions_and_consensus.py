"""Lesions matched one to one, and the consensus of readers against SimpleITK's STAPLE."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from voxtrial.validation.registry import Undefined, run
from voxtrial.validation.segmentation.consensus import inter_reader_ceiling, majority, staple
from voxtrial.validation.segmentation.lesions import lesion_detection
from voxtrial.validation.segmentation.mask_agreement import dice
from voxtrial.validation.tables import StatisticError

MM = (1.0, 1.0, 1.0)


def boxes(*corners, size=3):
    """Return cubes of ``size`` voxels at the given corners."""
    mask = np.zeros((20, 20, 20), bool)
    for z, y, x in corners:
        mask[z : z + size, y : y + size, x : x + size] = True
    return mask


def test_hits_misses_and_false_alarms_are_counted():
    reference = boxes((1, 1, 1), (1, 10, 1), (10, 10, 10))
    test = boxes((1, 1, 2), (10, 10, 10), (15, 1, 15))
    found = lesion_detection(reference, test, (2.0, 1.0, 0.5))
    assert (found["n_detected"], found["n_missed"], found["n_false_alarms"]) == (2, 1, 1)
    assert found["sensitivity"] == found["precision"] == pytest.approx(2 / 3)
    assert found["lesion_detected"].tolist() == [1, 0, 1]
    assert found["lesion_volume_mm3"].tolist() == [27, 27, 27]
    assert found["mean_dice_of_detected"] == pytest.approx((2 / 3 + 1) / 2)


def test_one_finding_over_two_lesions_finds_one():
    """Cubes at x = 1 and x = 5; the finding spans both: each IoU is 27/63."""
    found = lesion_detection(boxes((1, 1, 1), (1, 1, 5)), boxes((1, 1, 1), (1, 1, 3), (1, 1, 5)), MM)
    assert (found["n_lesions"], found["n_findings"], found["n_detected"]) == (2, 1, 1)


def test_matching_maximises_the_whole_and_not_the_first_pair():
    """Finding A overlaps both lesions, B only the first: both are found when A takes the second."""
    reference, test = np.zeros((1, 1, 20), bool), np.zeros((1, 1, 20), bool)
    reference[..., 2:8] = reference[..., 9:14] = True
    test[..., 1:4] = test[..., 5:14] = True
    assert lesion_detection(reference, test, MM)["n_detected"] == 2


def test_thousands_of_stray_components_are_matched_apart_from_one_another():
    """A checkered prediction of 27,000 single voxels over as many lesions: every one meets its own."""
    mask = np.zeros((60, 60, 60), bool)
    mask[::2, ::2, ::2] = True
    found = lesion_detection(mask, mask, MM)
    assert found["n_detected"] == found["n_lesions"] == 27_000


def test_weak_overlap_is_no_hit():
    """One shared voxel column: IoU 9/45 = 0.2."""
    reference, test = boxes((1, 1, 1)), boxes((1, 1, 3))
    assert lesion_detection(reference, test, MM, minimum_iou=0.19)["n_detected"] == 1
    assert lesion_detection(reference, test, MM, minimum_iou=0.21)["n_detected"] == 0


def test_small_components_are_dropped_from_both():
    reference = boxes((1, 1, 1)) | boxes((10, 10, 10), size=1)
    found = lesion_detection(reference, boxes((15, 15, 15), size=1), MM, minimum_volume_mm3=2)
    assert (found["n_lesions"], found["n_findings"]) == (1, 0)


def test_components_that_touch_by_a_corner_are_one():
    assert lesion_detection(boxes((1, 1, 1), (4, 4, 4)), boxes(), MM)["n_lesions"] == 1


def test_nothing_to_find_is_undefined():
    found = lesion_detection(boxes(), boxes(), MM)
    for name in ("sensitivity", "precision", "f1", "mean_dice_of_detected"):
        assert isinstance(found[name], Undefined)
    assert isinstance(lesion_detection(boxes(), boxes((1, 1, 1)), MM)["sensitivity"], Undefined)
    assert lesion_detection(boxes(), boxes((1, 1, 1)), MM)["precision"] == 0


def readers():
    """Return four readers of one cube: right, shifted, too small, too large."""
    return [
        boxes((5, 5, 5), size=8),
        boxes((6, 5, 5), size=8),
        boxes((6, 6, 6), size=6),
        boxes((4, 4, 4), size=10),
    ]


def test_staple_equals_simpleitk():
    ours = staple(readers())
    theirs = sitk.STAPLEImageFilter()
    theirs.SetForegroundValue(1)
    image = theirs.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in readers()])
    np.testing.assert_allclose(ours.probability, sitk.GetArrayFromImage(image), atol=1e-5)
    np.testing.assert_allclose(ours.sensitivity, theirs.GetSensitivity(), atol=1e-5)
    np.testing.assert_allclose(ours.specificity, theirs.GetSpecificity(), atol=1e-5)


def test_majority_of_two_against_two_is_background():
    a, b = boxes((1, 1, 1)), boxes((1, 1, 2))
    assert np.array_equal(majority([a, a, b]), a)
    assert np.array_equal(majority([a, b]), a & b)


def test_ceiling_is_the_agreement_of_the_readers():
    masks = readers()
    values = inter_reader_ceiling(masks, masks[0])
    pairs = [dice(masks[i], masks[j]) for i in range(4) for j in range(i + 1, 4)]
    assert values["pairwise_dice"] == pairs
    assert values["pairwise_dice_mean"] == pytest.approx(np.mean(pairs))
    assert values["test_minus_ceiling"] == pytest.approx(
        np.mean([dice(m, masks[0]) for m in masks]) - np.mean(pairs)
    )


def test_readers_who_agree_on_nothing_there_have_no_ceiling():
    values = inter_reader_ceiling([boxes(), boxes()], boxes())
    assert isinstance(values["pairwise_dice_mean"], Undefined)
    assert isinstance(values["test_minus_ceiling"], Undefined)
    assert values["n_undefined_pairs"] == 1


def test_one_reader_has_no_ceiling():
    inputs = {"array_shape": [3, 3, 3], "spacing_mm": [1, 1, 1], "readers": [[{"shape": "empty"}]]}
    result = run("inter_reader_ceiling", {}, inputs)
    assert result.values["pairwise_dice_mean"] is None
    assert "one reader" in result.notes[0]


def test_too_many_readers_are_refused():
    with pytest.raises(StatisticError, match="17 readers"):
        staple([boxes()] * 17)
