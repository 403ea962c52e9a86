"""Size and shape of a region from its mesh, its voxels and their principal axes (IBSI HCUG).

The mesh is the isosurface 0.5 of the binary mask, as IBSI defines it; its area is systematically larger than
that of the smooth surface behind the mask. Surfaces for measuring and printing come from
``voxtrial.daemon.measure.mesh``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from voxtrial.daemon.radiomics.aggregation import Values
from voxtrial.daemon.radiomics.spatial_autocorrelation import moran_and_geary
from voxtrial.daemon.volume import Spacing

Points = NDArray[np.float64]

LEGENDRE_TERMS = 20


def features(
    image: NDArray[np.float64],
    morphology: NDArray[np.bool_],
    intensity: NDArray[np.bool_],
    spacing_mm: Spacing,
) -> Values:
    """Return the 25 morphological features that have a consensus value.

    Parameters
    ----------
    image
        (z, y, x) intensities.
    morphology, intensity
        (z, y, x) morphological and intensity mask. Shape comes from the first; where intensities take part
        (centre of mass shift, integrated intensity, Moran, Geary) they come from the second.
    spacing_mm
        Voxel size along (z, y, x).
    """
    spacing = np.array(spacing_mm)
    vertices, volume, area = _mesh(morphology, spacing)
    hull = ConvexHull(vertices)
    voxels = np.argwhere(morphology) * spacing
    # Semi-axes of the ellipsoid with the second moments of the region.
    semi_axes = 2 * np.sqrt(np.maximum(_principal_variances(voxels), 0))
    major, minor, least = 2 * semi_axes
    sides = vertices.max(axis=0) - vertices.min(axis=0)
    box_area = 2 * (sides[0] * sides[1] + sides[0] * sides[2] + sides[1] * sides[2])
    # The isoperimetric quotient of a sphere is 36 pi V^2 / A^3 = 1.
    quotient = 36 * np.pi * volume**2 / area**3
    values = image[intensity]
    moran, geary = moran_and_geary(image, intensity, spacing)
    return {
        ("Volume (mesh)", "RNU0"): volume,
        ("Volume (voxel counting)", "YEKZ"): len(voxels) * float(spacing.prod()),
        ("Surface area (mesh)", "C0JK"): area,
        ("Surface to volume ratio", "2PR5"): area / volume,
        ("Compactness 1", "SKGS"): volume / (np.sqrt(np.pi) * area**1.5),
        ("Compactness 2", "BQWJ"): quotient,
        ("Spherical disproportion", "KRCK"): quotient ** (-1 / 3),
        ("Sphericity", "QCFX"): quotient ** (1 / 3),
        ("Asphericity", "25C7"): quotient ** (-1 / 3) - 1,
        ("Centre of mass shift", "KLMA"): _centre_of_mass_shift(image, intensity, voxels, spacing),
        ("Maximum 3D diameter", "L0JK"): float(pdist(vertices[hull.vertices]).max()),
        ("Major axis length", "TDIC"): major,
        ("Minor axis length", "P9VJ"): minor,
        ("Least axis length", "7J51"): least,
        ("Elongation", "Q3CK"): _quotient(minor, major),
        ("Flatness", "N17B"): _quotient(least, major),
        ("Volume density (axis-aligned bounding box)", "PBX1"): volume / float(sides.prod()),
        ("Area density (axis-aligned bounding box)", "R59B"): area / float(box_area),
        ("Volume density (approximate enclosing ellipsoid)", "6BDE"): _quotient(
            volume, 4 / 3 * np.pi * float(semi_axes.prod())
        ),
        ("Area density (approximate enclosing ellipsoid)", "RDD2"): _quotient(
            area, enclosing_ellipsoid_area(semi_axes)
        ),
        ("Volume density (convex hull)", "R3ER"): volume / hull.volume,
        ("Area density (convex hull)", "7T7F"): area / hull.area,
        ("Integrated intensity", "99N0"): float(values.mean()) * volume,
        ("Moran’s I index", "N365"): moran,
        ("Geary’s C measure", "NPT7"): geary,
    }


def enclosing_ellipsoid_area(semi_axes: NDArray[np.float64]) -> float:
    """Return the area of the approximate enclosing ellipsoid as IBSI defines it, by 20 Legendre terms.

    Parameters
    ----------
    semi_axes
        (3,) in falling order.

    Notes
    -----
    The series 4 pi a b sum_k (alpha beta)^k P_k(x) / (1 - 4 k²) with alpha² = 1 - b²/a²,
    beta² = 1 - c²/a² and x = (alpha² + beta²) / (2 alpha beta) is the definition behind the reference values.
    It is not the exact area (Carlson's R_G): for the digital phantom it lies 4 % below. The products
    q_k = (alpha beta)^k P_k(x) obey the recurrence of the polynomials without its division by alpha beta,
    which is zero for a sphere.

    References
    ----------
    IBSI RDD2; Maas 1994.
    """
    a, b, c = semi_axes
    if a == 0:
        return 0.0
    alpha2, beta2 = 1 - (b / a) ** 2, 1 - (c / a) ** 2
    half_sum, product = (alpha2 + beta2) / 2, alpha2 * beta2
    before, q, total = 0.0, 1.0, 0.0
    for k in range(LEGENDRE_TERMS + 1):
        total += q / (1 - 4 * k**2)
        before, q = q, ((2 * k + 1) * half_sum * q - k * product * before) / (k + 1)
    return float(4 * np.pi * a * b * total)


def _mesh(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[Points, float, float]:
    """Return vertices (n, 3) mm, enclosed volume mm³ and area mm² of the isosurface 0.5."""
    from skimage.measure import marching_cubes

    padded = np.pad(mask, 1).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(padded, level=0.5, spacing=tuple(spacing))
    vertices = vertices.astype(float)
    a, b, c = vertices[faces[:, 0]], vertices[faces[:, 1]], vertices[faces[:, 2]]
    volume = abs(float(np.einsum("ij,ij->", a, np.cross(b, c)))) / 6
    area = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
    return vertices, volume, area


def _principal_variances(points: Points) -> NDArray[np.float64]:
    """Variances (divisor n - 1) along the principal axes, largest first; zero for a single point."""
    centred = points - points.mean(axis=0)
    return np.asarray(np.linalg.eigvalsh(centred.T @ centred / max(len(points) - 1, 1))[::-1])


def _centre_of_mass_shift(
    image: NDArray[np.float64], intensity: NDArray[np.bool_], voxels: Points, spacing: NDArray[np.float64]
) -> float:
    """Distance between the centre of the region and its centre weighted by intensity; NaN for weight 0."""
    weights = image[intensity]
    total = weights.sum()
    if total == 0:
        return float("nan")
    weighted = weights @ (np.argwhere(intensity) * spacing) / total
    return float(np.linalg.norm(voxels.mean(axis=0) - weighted))


def _quotient(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
