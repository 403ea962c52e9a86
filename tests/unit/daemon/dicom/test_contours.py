"""Rasterising contours: voxel centres, areas in closed form, holes, keyholes, shared edges."""

from __future__ import annotations

import numpy as np
import pytest

from voxtrial.daemon.dicom.contours import rasterise


def polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


def test_a_square_covers_the_centres_within_it():
    mask = rasterise([polygon((1.5, 2.5), (1.5, 6.5), (4.5, 6.5), (4.5, 2.5))], (8, 9))
    expected = np.zeros((8, 9), bool)
    expected[2:5, 3:7] = True
    assert np.array_equal(mask, expected)


def test_direction_and_start_of_the_contour_do_not_matter():
    square = polygon((1.2, 2.3), (1.4, 6.1), (4.9, 6.6), (4.1, 2.0))
    mask = rasterise([square], (8, 9))
    assert np.array_equal(rasterise([square[::-1]], (8, 9)), mask)
    assert np.array_equal(rasterise([np.roll(square, 2, axis=0)], (8, 9)), mask)


def test_a_contour_closed_by_repeating_its_first_point_is_the_same():
    square = polygon((1.2, 2.3), (1.4, 6.1), (4.9, 6.6), (4.1, 2.0))
    assert np.array_equal(rasterise([np.vstack((square, square[:1]))], (8, 9)), rasterise([square], (8, 9)))


def test_area_of_a_circle():
    # Gauss's circle problem: the count of centres differs from pi r² by less than the circumference
    angle = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    circle = np.column_stack((100 + 80 * np.sin(angle), 100 + 80 * np.cos(angle)))
    assert rasterise([circle], (201, 201)).sum() == pytest.approx(np.pi * 80**2, rel=2e-3)


def test_every_centre_agrees_with_the_winding_of_a_convex_polygon():
    angle = np.sort(np.random.default_rng(5).uniform(0, 2 * np.pi, 17))
    hull = np.column_stack((10 + 8.3 * np.sin(angle), 10 + 7.7 * np.cos(angle)))
    y, x = np.mgrid[0:21, 0:21]
    ahead = np.roll(hull, -1, axis=0) - hull
    side = [dy * (x - px) - dx * (y - py) for (py, px), (dy, dx) in zip(hull, ahead, strict=True)]
    expected = (np.array(side) > 0).all(0) | (np.array(side) < 0).all(0)
    assert np.array_equal(rasterise([hull], (21, 21)), expected)


def test_an_inner_contour_cuts_a_hole():
    outer = polygon((0.5, 0.5), (0.5, 8.5), (8.5, 8.5), (8.5, 0.5))
    inner = polygon((2.5, 2.5), (2.5, 5.5), (5.5, 5.5), (5.5, 2.5))
    mask = rasterise([outer, inner], (10, 10))
    assert mask.sum() == 64 - 9
    assert not mask[3:6, 3:6].any()


def test_a_keyhole_equals_its_outline_and_hole():
    keyhole = polygon(
        (0.5, 0.5), (4.0, 0.5), (4.0, 2.5), (2.5, 2.5), (2.5, 5.5), (5.5, 5.5), (5.5, 2.5), (4.0, 2.5),
        (4.0, 0.5), (8.5, 0.5), (8.5, 8.5), (0.5, 8.5),
    )  # fmt: skip
    outer = polygon((0.5, 0.5), (0.5, 8.5), (8.5, 8.5), (8.5, 0.5))
    inner = polygon((2.5, 2.5), (2.5, 5.5), (5.5, 5.5), (5.5, 2.5))
    assert np.array_equal(rasterise([keyhole], (10, 10)), rasterise([outer, inner], (10, 10)))


def test_neighbours_that_share_an_edge_through_centres_share_no_voxel_and_leave_none_out():
    left = polygon((0, 0), (0, 4), (6, 4), (6, 0))
    right = polygon((0, 4), (0, 9), (6, 9), (6, 4))
    a, b = rasterise([left], (8, 10)), rasterise([right], (8, 10))
    assert not (a & b).any()
    assert np.array_equal(a | b, rasterise([polygon((0, 0), (0, 9), (6, 9), (6, 0))], (8, 10)))
    assert (a | b).sum() == 6 * 9


def test_a_contour_beyond_the_edges_is_cut_at_them():
    mask = rasterise([polygon((-5, -5), (-5, 3.5), (2.5, 3.5), (2.5, -5))], (4, 6))
    assert mask.sum() == 3 * 4
    assert not rasterise([polygon((-5, -5), (-5, -2), (-2, -2), (-2, -5))], (4, 6)).any()
