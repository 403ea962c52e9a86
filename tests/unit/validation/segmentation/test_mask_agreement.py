"""Agreement of masks against brute force, solids of known geometry, and the cases that must be decided."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from voxtrial.validation.registry import Undefined
from voxtrial.validation.segmentation import surface_distance
from voxtrial.validation.segmentation.mask_agreement import built_mask, dice, segmentation_agreement
from voxtrial.validation.segmentation.surfels import surface_element_areas
from voxtrial.validation.tables import StatisticError


def ball(radius, *, centre=32.0, size=64):
    """Return a ball in a cube, radius and centre in voxels."""
    z, y, x = np.ogrid[:size, :size, :size]
    return (z - centre) ** 2 + (y - centre) ** 2 + (x - centre) ** 2 <= radius**2


def brute_force(reference, test, spacing):
    """Return the directed distances between border voxels from all pairs."""

    def border(mask):
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis, step in itertools.product(range(3), (-1, 1)):
            inner &= np.roll(padded, step, axis)
        return np.argwhere(mask & ~inner[1:-1, 1:-1, 1:-1]) * spacing

    a, b = border(reference), border(test)
    distances = np.linalg.norm(a[:, None] - b[None], axis=2)
    return distances.min(axis=1), distances.min(axis=0)


def test_one_stray_voxel_moves_the_hausdorff_distance_and_nothing_else():
    """Ball of radius 15 in 64^3 and a voxel near the corner: HD 37.54, HD95 0."""
    reference = ball(15)
    test = reference.copy()
    test[2, 2, 2] = True
    values = segmentation_agreement(reference, test, (1, 1, 1))
    assert values["dice"] == pytest.approx(0.99996, abs=1e-5)
    assert values["hd"] == pytest.approx(37.54, abs=0.01)
    assert values["hd95_max_of_directed"] == 0


def test_hollow_ball_has_an_inner_surface():
    """Radius 15 against the shell 11 to 15: Dice 2(1 - r³)/(2 - r³), r = 11/15; the inner surface counts."""
    reference = ball(15)
    values = segmentation_agreement(reference, reference & ~ball(11), (1, 1, 1))
    share = 1 - (11 / 15) ** 3
    assert values["dice"] == pytest.approx(2 * share / (1 + share), abs=0.001)
    assert values["asd_ref_to_test"] == 0
    assert values["hd"] == pytest.approx(np.sqrt(12), abs=0.5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.9), (0.5, 2.0, 1.25)])
@pytest.mark.parametrize("seed", range(4))
def test_distances_of_ragged_masks_equal_all_pairs(seed, spacing):
    rng = np.random.default_rng(seed)
    reference, test = rng.random((2, 9, 11, 12)) < 0.2
    values = segmentation_agreement(reference, test, spacing, (1.5,))
    a, b = brute_force(reference, test, spacing)
    pooled = np.concatenate([a, b])
    assert values["hd"] == pytest.approx(pooled.max(), rel=1e-12)
    assert values["assd_pooled"] == pytest.approx(pooled.mean(), rel=1e-12)
    assert values["hd95_pooled"] == pytest.approx(np.percentile(pooled, 95), rel=1e-12)
    assert values["nsd_voxel_1.5mm"] == pytest.approx(np.mean(pooled <= 1.5 + 1e-9), rel=1e-12)


def test_far_apart_masks_are_handed_to_the_tree(monkeypatch):
    """With fewer rows visited the same distances come from the k-d tree."""
    rng = np.random.default_rng(9)
    reference, test = np.zeros((2, 40, 40, 40), bool)
    reference[2:8, 2:8, 2:8] = rng.random((6, 6, 6)) < 0.5
    test[28:38, 30:38, 20:38] = rng.random((10, 8, 18)) < 0.5
    whole = segmentation_agreement(reference, test, (2.0, 0.8, 0.8), (30,))
    monkeypatch.setattr(surface_distance, "ROWS", 3)
    handed = segmentation_agreement(reference, test, (2.0, 0.8, 0.8), (30,))
    assert handed == pytest.approx(whole, rel=1e-12)
    a, b = brute_force(reference, test, (2.0, 0.8, 0.8))
    assert whole["hd"] == pytest.approx(max(a.max(), b.max()), rel=1e-12)


@pytest.mark.parametrize("spacing", [(5.0, 0.5, 0.5), (0.2, 3.0, 1.0)])
def test_stretched_grids_visit_the_nearest_rows_first(spacing):
    _, squares = surface_distance._rows_by_distance(*spacing[:2])
    z, y = np.mgrid[-800:801, -800:801]
    nearest = np.sort(((z * spacing[0]) ** 2 + (y * spacing[1]) ** 2).ravel())[: squares.size]
    np.testing.assert_allclose(squares, nearest, atol=1e-12)


def test_distance_equal_to_the_tolerance_is_within_it_despite_rounding():
    """Three voxels of 0.7 mm are 2.0999999999999996 or 2.1 mm, always within 2.1 mm."""
    reference, test = np.zeros((2, 3, 3, 9), bool)
    reference[1, 1, 1], test[1, 1, 4] = True, True
    assert segmentation_agreement(reference, test, (1, 1, 0.7), (2.1,))["nsd_voxel_2.1mm"] == 1


def test_surfaces_at_the_edge_of_the_array_are_closed():
    """A mask that fills the array has the same measures as inside a larger array."""
    inside = segmentation_agreement(
        np.ones((4, 5, 6), bool), ball(2, centre=2, size=6)[:4, :5], (2, 1, 1), (1,)
    )
    padded = segmentation_agreement(
        np.pad(np.ones((4, 5, 6), bool), 2), np.pad(ball(2, centre=2, size=6)[:4, :5], 2), (2, 1, 1), (1,)
    )
    assert inside == pytest.approx(padded, rel=1e-12)


@pytest.mark.parametrize(
    ("reference", "test", "reason", "overlap"),
    [
        (False, False, "both masks are empty", None),
        (True, False, "the test mask is empty", 0.0),
        (False, True, "the reference mask is empty", 0.0),
    ],
)
def test_empty_masks_leave_distances_undefined(reference, test, reason, overlap):
    masks = [np.full((3, 3, 3), filled) for filled in (reference, test)]
    values = segmentation_agreement(*masks, (1, 1, 1), (1,))
    for name in ("hd", "hd95_surfel", "nsd_surfel_1mm", "assd_pooled", "centroid_distance_mm"):
        assert isinstance(values[name], Undefined)
        assert values[name].reason == reason
    if overlap is None:
        assert isinstance(values["dice"], Undefined)
        assert np.isnan(dice(*masks))
    else:
        assert values["dice"] == overlap == dice(*masks)


@pytest.mark.parametrize(
    ("shapes", "spacing", "message"),
    [
        (((3, 3, 3), (3, 3, 4)), (1, 1, 1), "on one grid"),
        (((3, 3), (3, 3)), (1, 1, 1), "on one grid"),
        (((3, 3, 3), (3, 3, 3)), (1, 0, 1), "three positive numbers"),
    ],
)
def test_masks_without_a_common_grid_are_refused(shapes, spacing, message):
    with pytest.raises(StatisticError, match=message):
        segmentation_agreement(*(np.ones(shape, bool) for shape in shapes), spacing)


def test_area_of_flat_faces_is_exact():
    """A plane between two layers of voxels has one voxel face per cube, whatever the spacing."""
    spacing = (2.5, 0.7, 1.3)
    areas = surface_element_areas(spacing)
    for pattern, area in ((0b11110000, 0.7 * 1.3), (0b11001100, 2.5 * 1.3), (0b10101010, 2.5 * 0.7)):
        assert areas[pattern] == pytest.approx(area)
        assert areas[255 - pattern] == pytest.approx(area)
    assert areas[0] == areas[255] == 0


def test_area_of_a_cut_corner_is_that_of_its_triangle():
    """Half edges a, b, c meet at the corner: area sqrt(a²b² + b²c² + c²a²)/2."""
    a, b, c = 1.25, 0.35, 0.65
    area = np.sqrt((a * b) ** 2 + (b * c) ** 2 + (c * a) ** 2) / 2
    areas = surface_element_areas((2 * a, 2 * b, 2 * c))
    for bit in range(8):
        assert areas[1 << bit] == pytest.approx(area)


def test_areas_do_not_depend_on_the_order_of_the_axes():
    corners = list(itertools.product((0, 1), repeat=3))
    areas = surface_element_areas((1, 1, 1))
    for order, flips in itertools.product(
        itertools.permutations(range(3)), itertools.product((0, 1), repeat=3)
    ):
        moved = [corners.index(tuple(corner[i] ^ flips[i] for i in order)) for corner in corners]
        for pattern in range(256):
            image = sum(1 << (7 - moved[7 - bit]) for bit in range(8) if pattern >> bit & 1)
            assert areas[image] == pytest.approx(areas[pattern], abs=1e-12)


def test_surface_of_a_ball_approaches_its_sphere():
    """Area-weighted count of a ball of radius 25: within 10 % of 4 pi r², as binary marching cubes is."""
    mask = ball(25).view(np.uint8)
    box = np.array([7, 58, 7, 58, 7, 58])
    _, pattern = surface_distance.surface_elements(mask, box)
    area = surface_element_areas((1, 1, 1))[pattern].sum()
    assert area == pytest.approx(4 * np.pi * 25**2, rel=0.1)


def test_shapes_are_united_and_subtracted_in_order():
    shapes = [
        {"shape": "box", "origin": [0, 0, 0], "size": [4, 4, 4]},
        {"shape": "sphere", "center_mm": [2, 2, 2], "radius_mm": 1, "op": "subtract"},
        {"shape": "ellipsoid", "center_mm": [2, 2, 2], "semi_axes_mm": [0.5, 0.5, 0.5]},
    ]
    assert built_mask(shapes, (5, 5, 5), (1, 1, 1)).sum() == 64 - 7 + 1
    with pytest.raises(StatisticError, match="no shape 'cone'"):
        built_mask([{"shape": "cone"}], (5, 5, 5), (1, 1, 1))


def test_voxel_at_exactly_the_radius_is_inside():
    """6² + 8² = 10²: in the squares nothing is rounded."""
    mask = built_mask([{"shape": "sphere", "center_mm": [0, 0, 0], "radius_mm": 10}], (1, 11, 11), (1, 1, 1))
    assert mask[0, 6, 8]
    assert mask[0, 8, 6]
    assert mask[0, 10, 0]
