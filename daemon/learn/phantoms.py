"""Chest phantoms of known truth: nodules of known volume and class in lung with vessels and chest wall.

Everything is drawn on a grid of 0.5 mm, finer than any scanner of :mod:`voxtrial.daemon.learn.scanner`, so
that the truth does not depend on who images it. Both classes of nodules follow the same law of size and
density: only the shape tells them apart (benign: nearly smooth, at most two spicules; malignant: lobulated,
five to twelve). The mask of a nodule is its solid body; spicules lie outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from voxtrial.daemon.volume import Grid, Mask

TRUTH_SPACING_MM = 0.5
LUNG_HU, SOFT_TISSUE_HU = -850.0, 40.0
LAYOUTS = 50
"""How often the layout is drawn again before a field counts as too small."""
CLEARANCE_MM = 2.0
"""Between the body of a nodule and the nearest vessel or wall."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Nodule:
    """One lesion of known truth.

    ``label`` is its value in ``Phantom.labels``; ``centre_mm`` is in LPS; ``volume_mm3`` counts truth voxels.
    """

    label: int
    centre_mm: tuple[float, float, float]
    radius_mm: float
    density_hu: float
    malignant: bool
    lobulation: float
    spicules: int
    volume_mm3: float


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A patient without noise: HU (z, y, x) on the truth grid, and where which nodule is."""

    hu: NDArray[np.float32]
    labels: NDArray[np.uint8]
    grid: Grid
    nodules: tuple[Nodule, ...]

    def mask(self, nodule: Nodule) -> Mask:
        """Return the solid body of ``nodule`` on the truth grid."""
        return Mask(
            array=self.labels == nodule.label, affine=self.grid.affine, label=f"nodule {nodule.label}"
        )


def chest_phantom(
    rng: np.random.Generator,
    field_mm: tuple[float, float, float] = (72.0, 96.0, 96.0),
    *,
    classes: Sequence[bool] | None = None,
    radius_mm: tuple[float, float] = (3.5, 8.5),
    vessels_per_litre: float = 22.0,
    wall: bool | None = None,
) -> Phantom:
    """Draw a field of lung.

    Parameters
    ----------
    field_mm
        Extent (z, y, x).
    classes
        One entry for each nodule, True for malignant; None: one or two nodules of either class.
    radius_mm
        Range of the mean radius of a nodule.
    vessels_per_litre
        Density of the trunks; each carries branches.
    wall
        Whether the chest wall enters at one side; None: in every third field.

    Raises
    ------
    ValueError
        The nodules do not fit into the field.
    """
    shape = tuple(round(extent / TRUTH_SPACING_MM) for extent in field_mm)
    grid = _centred_grid((shape[0], shape[1], shape[2]))
    if classes is None:
        classes = [bool(c) for c in rng.integers(0, 2, rng.integers(1, 3))]
    has_wall = bool(rng.random() < 1 / 3) if wall is None else wall
    hu = LUNG_HU + _parenchyma(rng, grid.shape)
    for _ in range(LAYOUTS):
        solid = _chest_wall(rng, grid.shape) if has_wall else np.zeros(grid.shape, np.float32)
        radii = [float(rng.uniform(*radius_mm)) for _ in classes]
        centres = _places(rng, solid, radii)
        if len(centres) == len(classes):
            break
    else:
        raise ValueError(f"{len(classes)} nodules do not fit into a field of {field_mm} mm")
    _add_vessels(rng, solid, centres, radii, vessels_per_litre * float(np.prod(field_mm)) * 1e-6)
    hu += solid * (SOFT_TISSUE_HU - hu)
    labels = np.zeros(grid.shape, np.uint8)
    nodules = [
        _add_nodule(rng, hu, labels, grid, number, centre, radius, malignant)
        for number, (centre, radius, malignant) in enumerate(
            zip(centres, radii, classes, strict=True), start=1
        )
    ]
    return Phantom(hu=hu, labels=labels, grid=grid, nodules=tuple(nodules))


def _centred_grid(shape: tuple[int, int, int]) -> Grid:
    """Return the truth grid with its centre at the origin of the patient."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, ::-1] * TRUTH_SPACING_MM
    affine[:3, 3] = -(np.array(shape[::-1]) - 1) / 2 * TRUTH_SPACING_MM
    return Grid(shape=shape, affine=affine)


def _parenchyma(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return the texture of lung, HU: smooth differences of aeration, drawn at 2 mm."""
    factor = 4
    coarse = rng.standard_normal([n // factor + 3 for n in shape], np.float32)
    coarse = ndimage.gaussian_filter(coarse, 1.0) * 110
    for axis, n in enumerate(shape):
        at = np.arange(n) / factor
        low = at.astype(int)
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        coarse = np.take(coarse, low, axis) * (1 - share) + np.take(coarse, low + 1, axis) * share
    return np.asarray(coarse, np.float32)


def _chest_wall(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return the share of soft tissue of a curved wall that enters at one side in y or x."""
    axis, high = int(rng.integers(1, 3)), bool(rng.integers(0, 2))
    z, y, x = (np.arange(n, dtype=np.float32) * TRUTH_SPACING_MM for n in shape)
    along, across = (y, x) if axis == 1 else (x, y)
    middle, bow = across[-1] * rng.uniform(0.3, 0.7), rng.uniform(80, 200)
    depth = rng.uniform(4, 10) + (across - middle) ** 2 / (2 * bow)
    ribs = 0.6 * np.sin(2 * np.pi * (z / rng.uniform(20, 30) + rng.random()))
    inward = (along[-1] - along) if high else along
    edge = depth[None, :] + ribs[:, None]
    if axis == 1:
        distance = edge[:, None, :] - inward[None, :, None]
    else:
        distance = edge[:, :, None] - inward[None, None, :]
    return np.asarray(np.clip(distance / TRUTH_SPACING_MM + 0.5, 0, 1), np.float32)


def _places(rng: np.random.Generator, solid: NDArray[np.float32], radii: Sequence[float]) -> list[Vector]:
    """Return centres (truth indices) inside the lung that keep the nodules apart and off the wall."""
    centres: list[Vector] = []
    for radius in radii:
        margin = (1.35 * radius + 4 * CLEARANCE_MM) / TRUTH_SPACING_MM
        for _ in range(400):
            low = np.minimum(margin, np.array(solid.shape) / 2 - 1)
            centre = rng.uniform(low, np.array(solid.shape) - 1 - low)
            apart = all(
                np.linalg.norm(centre - other) > margin + 1.35 * r / TRUTH_SPACING_MM
                for other, r in zip(centres, radii, strict=False)
            )
            z, y, x = (slice(int(max(c - margin, 0)), int(c + margin) + 1) for c in centre)
            if apart and not solid[z, y, x].any():
                centres.append(centre)
                break
    return centres


def _add_vessels(
    rng: np.random.Generator,
    solid: NDArray[np.float32],
    centres: Sequence[Vector],
    radii: Sequence[float],
    trunks: float,
) -> None:
    """Draw branching tubes into ``solid``, tapering and bending, around the nodules."""
    limits = np.array(solid.shape)
    stack = []
    for _ in range(max(1, rng.poisson(trunks))):
        face = int(rng.integers(0, 3))
        start = rng.uniform(0, limits - 1)
        start[face] = 0 if rng.random() < 0.5 else limits[face] - 1
        inward = rng.standard_normal(3)
        inward[face] = abs(inward[face]) * (1 if start[face] == 0 else -1) + 0.01
        stack.append((start, inward / np.linalg.norm(inward), float(rng.uniform(1.0, 2.6))))
    while stack:
        at, direction, radius = stack.pop()
        for _ in range(int(rng.uniform(40, 140))):
            direction = direction + 0.10 * rng.standard_normal(3)
            direction /= np.linalg.norm(direction)
            at = at + direction
            radius *= 0.9965
            if radius < 0.4 or (at < 0).any() or (at > limits - 1).any():
                break
            blocked = any(
                np.linalg.norm(at - centre) * TRUTH_SPACING_MM < 1.35 * r + radius + CLEARANCE_MM
                for centre, r in zip(centres, radii, strict=False)
            )
            if blocked:
                break
            _stamp(solid, at, radius)
            if radius > 0.7 and rng.random() < 0.03:
                aside = direction + 0.9 * rng.standard_normal(3)
                stack.append(
                    (at.copy(), aside / np.linalg.norm(aside), radius * float(rng.uniform(0.5, 0.8)))
                )


def _stamp(solid: NDArray[np.float32], at: Vector, radius_mm: float) -> None:
    """Add one anti-aliased ball of soft tissue at the truth index ``at``."""
    reach = radius_mm / TRUTH_SPACING_MM + 1
    low = np.maximum(np.ceil(at - reach).astype(int), 0)
    high = np.minimum(np.floor(at + reach).astype(int) + 1, solid.shape)
    if (low >= high).any():
        return
    z, y, x = (np.arange(a, b) - c for a, b, c in zip(low, high, at, strict=True))
    distance = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    share = np.clip(radius_mm / TRUTH_SPACING_MM - distance + 0.5, 0, 1).astype(np.float32)
    part = solid[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    np.maximum(part, share, out=part)


def _add_nodule(
    rng: np.random.Generator,
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    grid: Grid,
    number: int,
    centre: Vector,
    radius: float,
    malignant: bool,
) -> Nodule:
    """Draw one nodule with its spicules, and its body into ``labels``."""
    lobulation = float(rng.uniform(0.07, 0.17) if malignant else rng.uniform(0.01, 0.08))
    spicules = int(rng.integers(5, 13) if malignant else rng.integers(0, 3))
    density = float(rng.uniform(-20, 80))
    reach = (1.5 * radius + 7) / TRUTH_SPACING_MM
    low = np.maximum(np.floor(centre - reach).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach).astype(int) + 1, hu.shape)
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    axes = [(np.arange(a, b) - c) * TRUTH_SPACING_MM for a, b, c in zip(low, high, centre, strict=True)]
    offset = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    distance = np.linalg.norm(offset, axis=-1)
    unit = offset / np.maximum(distance, 1e-6)[..., None]
    surface = radius * (1 + lobulation * _lobes(rng, unit))
    body = np.clip((surface - distance) / TRUTH_SPACING_MM + 0.5, 0, 1)
    share = body.copy()
    for _ in range(spicules):
        np.maximum(share, _spicule(rng, offset, radius), out=share)
    texture = ndimage.gaussian_filter(rng.standard_normal(share.shape), 2.0) * 120
    hu[box] += (share * (density + texture - hu[box])).astype(np.float32)
    labels[box][distance <= surface] = number
    x, y, z = grid.world(centre)
    return Nodule(
        label=number,
        centre_mm=(float(x), float(y), float(z)),
        radius_mm=radius,
        density_hu=density,
        malignant=malignant,
        lobulation=lobulation,
        spicules=spicules,
        volume_mm3=float((labels[box] == number).sum()) * grid.voxel_volume_mm3,
    )


def _lobes(rng: np.random.Generator, unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a smooth function of direction with mean about 0 and standard deviation about 1."""
    total = np.zeros(unit.shape[:-1])
    count = 10
    for _ in range(count):
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        total += np.cos(rng.uniform(2.0, 5.0) * (unit @ axis) + rng.uniform(0, 2 * np.pi))
    return np.asarray(total * np.sqrt(2 / count))


def _spicule(rng: np.random.Generator, offset: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return the share of one tapering spike that stands out of the body."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    length, base = rng.uniform(2.5, 6.0), rng.uniform(0.6, 1.1)
    along = offset @ axis
    across = np.sqrt(np.maximum((offset**2).sum(axis=-1) - along**2, 0))
    width = base * np.clip(1 - (along - radius) / length, 0, 1)
    share = np.clip((width - across) / TRUTH_SPACING_MM + 0.5, 0, 1)
    return np.asarray(np.where((along > 0) & (width > 0), share, 0))
