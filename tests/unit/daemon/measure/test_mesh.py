"""Surfaces of balls, whose volume and area are known, read back by another program."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from phantoms import axial_grid, ellipsoid, oblique_grid

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.measure.mesh import Mesh, surface, write_stl
from voxtrial.daemon.volume import Grid

VOLUME, AREA = 4 / 3 * np.pi * 1000, 4 * np.pi * 100


def ball(spacing: float, grid: Grid | None = None) -> tuple[Grid, np.ndarray]:
    """Distance inside a ball of 10 mm, mm."""
    n = int(26 / spacing)
    grid = grid or axial_grid((n, n, n), (spacing, spacing, spacing))
    return grid, 10 - ellipsoid(grid, (1, 1, 1))


@pytest.mark.parametrize("kind", ["distance", "probability"])
def test_ball_at_half_a_millimetre_is_within_a_fifth_of_a_percent(kind: str) -> None:
    grid, distance = ball(0.5)
    field, level = (distance, 0.0) if kind == "distance" else (np.clip(distance / 1.5 + 0.5, 0, 1), 0.5)
    mesh = surface(field, grid, level)
    assert mesh.volume_mm3 == pytest.approx(VOLUME, rel=0.002)
    assert mesh.area_mm2 == pytest.approx(AREA, rel=0.002)
    assert mesh.is_watertight
    assert mesh.euler_number == 2
    centre = grid.world((np.array(grid.shape) - 1) / 2)
    assert np.abs(np.linalg.norm(mesh.vertices - centre, axis=1) - 10).max() < 0.02


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (30.0, -20.0, 110.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_orientation_of_the_grid_changes_nothing(angles: tuple[float, float, float], flip: bool) -> None:
    """Triangles face outwards, also on a grid of negative determinant."""
    grid = oblique_grid((26, 40, 40), (1.0, 0.65, 0.65), angles)
    _, distance = ball(1.0, grid)
    if flip:
        grid.affine[:3, 3] += grid.affine[:3, 2] * 39
        grid.affine[:3, 2] *= -1
    mesh = surface(distance, grid, 0.0)
    assert mesh.volume_mm3 == pytest.approx(VOLUME, rel=0.01)
    assert mesh.is_watertight
    middle = mesh.vertices.mean(axis=0)
    corners = mesh.vertices[mesh.triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("ij,ij->i", normal, corners.mean(axis=1) - middle) > 0).mean() > 0.999


def test_label_is_refused_because_its_area_never_converges() -> None:
    grid, distance = ball(1.0)
    for label in (distance > 0, (distance > 0).astype(np.uint8) * 3):
        with pytest.raises(Refused) as refusal:
            surface(label, grid, 0.5)
        assert refusal.value.rule == "binary_field"


def test_body_at_the_border_of_the_grid_is_closed() -> None:
    grid = axial_grid((10, 26, 26))
    _, distance = ball(1.0, axial_grid((26, 26, 26)))
    mesh = surface(distance[8:18], grid, 0.0)
    assert mesh.is_watertight
    assert mesh.euler_number == 2


def test_two_bodies_and_a_tunnel_are_counted() -> None:
    """Euler number 4 for two balls, 0 for a ring."""
    grid, distance = ball(1.0, axial_grid((26, 26, 26)))
    two = surface(np.concatenate([distance, distance], axis=2), axial_grid((26, 26, 52)), 0.0)
    assert two.euler_number == 4
    z, y, x = (np.arange(26) - 12.5 for _ in range(3))
    ring = 3.2 - np.hypot(np.hypot(y[:, None], x) - 8, z[:, None, None])
    mesh = surface(ring, grid, 0.0)
    assert mesh.euler_number == 0
    assert mesh.volume_mm3 == pytest.approx(2 * np.pi**2 * 8 * 3.2**2, rel=0.02)


def test_samples_exactly_on_the_level_keep_the_surface_closed() -> None:
    grid = axial_grid((12, 12, 12))
    distance = 4.0 - np.abs(np.stack(np.meshgrid(*[np.arange(12.0) - 6] * 3, indexing="ij"))).max(axis=0)
    mesh = surface(distance, grid, 0.0)
    assert mesh.is_watertight
    assert mesh.euler_number == 2


def test_field_below_the_level_has_no_surface() -> None:
    grid, distance = ball(1.0)
    with pytest.raises(Refused, match="never passes"):
        surface(distance, grid, 11.0)


def test_open_surface_is_not_watertight() -> None:
    grid, distance = ball(1.0)
    mesh = surface(distance, grid, 0.0)
    assert not Mesh(vertices=mesh.vertices, triangles=mesh.triangles[1:]).is_watertight


def test_stl_is_read_back_with_its_coordinates(tmp_path: Path) -> None:
    """By hand, after the format: 80 bytes, a count, then 12 floats and 2 bytes for each triangle."""
    grid, distance = ball(1.0)
    mesh = surface(distance, grid, 0.0)
    path = tmp_path / "ball.stl"
    write_stl(mesh, path)
    data = path.read_bytes()
    (count,) = struct.unpack_from("<I", data, 80)
    assert count == len(mesh.triangles)
    assert len(data) == 84 + 50 * count
    for k in (0, count // 2, count - 1):
        values = np.array(struct.unpack_from("<12fH", data, 84 + 50 * k)[:12]).reshape(4, 3)
        np.testing.assert_allclose(values[1:], mesh.vertices[mesh.triangles[k]], rtol=1e-6)
        assert np.linalg.norm(values[0]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="solid"):
        write_stl(mesh, path, header="solid ball")
