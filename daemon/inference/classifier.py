"""What a component is, from what can be measured: sixteen features of its shape and its rim.

Two logistic regressions over the same features of the network's own mask, their coefficients stored with
the weights: whether the component is a lesion or a piece of a vessel, and the malignancy of the lesion.
Vessels go on beyond the mask: their rim holds bright patches, and their shape is drawn out. Spicules are
thinner than the voxels of most scanners; what is left of them is a rim that is brighter and more uneven than
that of a smooth lesion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from scipy import ndimage, spatial
from skimage import measure

from voxtrial.daemon.errors import Fatal
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.volume import Volume

MARGIN_MM = 9.0
SHELLS_MM = ((0.5, 1.5), (1.5, 2.5), (2.5, 3.5), (3.5, 5.0))
FEATURES = (
    "log_volume",
    "sphericity",
    "radial_spread",
    "radial_maximum",
    "elongation",
    "flatness",
    "solidity",
    *(f"rim_mean_{low:g}_{high:g}_mm" for low, high in SHELLS_MM),
    *(f"rim_p95_{low:g}_{high:g}_mm" for low, high in SHELLS_MM),
    "rim_patches",
)
LESION = "lesion"
"""Name of the regression that tells lesions from vessels; the other bears the name of the score."""

Box = tuple[slice, slice, slice]
Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A logistic regression over standardised features."""

    mean: Vector
    scale: Vector
    coefficients: Vector
    intercept: Vector

    def probability(self, values: Vector) -> float:
        """Return the probability, 0 to 1, of the class that the coefficients point to."""
        logit = float(((values - self.mean) / self.scale) @ self.coefficients + self.intercept.item())
        return float(1 / (1 + np.exp(-logit)))

    def tensors(self, name: str) -> dict[str, Vector]:
        """Return what is stored with the weights, so that ``load`` finds it under ``name``."""
        return {f"{name}.{part}": tensor for part, tensor in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """The regressions of a model.

    ``lesion`` is None for a model whose components are all lesions.
    """

    model: StoredModel
    score: Logistic
    lesion: Logistic | None

    @classmethod
    def load(cls, model: StoredModel) -> Self:
        """Read the coefficients from the weights of ``model``.

        Raises
        ------
        Fatal
            The weights hold no coefficients, or for other features than these.
        """
        if model.weights is None:
            raise Fatal(f"{model.manifest.title} asks for a classifier but has no weights")
        with safe_open(str(model.weights), "numpy") as file:
            names = (file.metadata() or {}).get("features", "")
            if names != ",".join(FEATURES):
                raise Fatal(
                    f"{model.manifest.title} was trained on other features than this version measures"
                )

            def regression(name: str) -> Logistic:
                try:
                    parts = {part: file.get_tensor(f"{name}.{part}") for part in Logistic.__annotations__}
                except SafetensorError as error:
                    raise Fatal(f"{model.manifest.title}: the weights hold no {name} classifier") from error
                return Logistic(**parts)

            rejects = model.manifest.findings.minimum_lesion_probability > 0
            return cls(
                model=model,
                score=regression(model.manifest.scores[0].name),
                lesion=regression(LESION) if rejects else None,
            )

    def scores(self, image: Volume, probability: NDArray[np.float32], box: Box) -> dict[str, float] | None:
        """Return the scores, 0 to 1, of the component whose ``probability`` lies in ``box`` of ``image``.

        None: it is no lesion.
        """
        rule = self.model.manifest.findings
        values = features(image, probability, box, threshold=rule.threshold)
        if self.lesion and self.lesion.probability(values) < rule.minimum_lesion_probability:
            return None
        return {self.model.manifest.scores[0].name: self.score.probability(values)}


def features(
    image: Volume, probability: NDArray[np.float32], box: Box, *, threshold: float
) -> NDArray[np.float64]:
    """Measure one lesion.

    Parameters
    ----------
    image
        Harmonized input on the grid of the network.
    probability
        Of the lesion alone, inside ``box`` of that grid.
    threshold
        The lesion is where the probability lies above.

    Returns
    -------
    values
        One for each name of ``FEATURES``. Rim values are contrasts: 0 is the lung around, 1 the lesion.
    """
    spacing = np.array(image.spacing_mm)
    grown = [round(MARGIN_MM / s) for s in spacing]
    wide = tuple(
        slice(max(s.start - g, 0), min(s.stop + g, n))
        for s, g, n in zip(box, grown, image.array.shape, strict=True)
    )
    inner = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True))
    field = np.zeros([w.stop - w.start for w in wide], np.float32)
    field[inner] = probability
    region = field > threshold
    intensity = image.array[wide].astype(np.float64)
    return np.array([*_shape(field, region, threshold, spacing), *_rim(intensity, region, spacing)])


def _shape(
    field: NDArray[np.float32], region: NDArray[np.bool_], threshold: float, spacing: NDArray[np.float64]
) -> list[float]:
    """Return the seven features of the surface at ``threshold``."""
    vertices, faces, _, _ = measure.marching_cubes(
        np.pad(field, 1), threshold, spacing=tuple(float(s) for s in spacing)
    )
    area = float(measure.mesh_surface_area(vertices, faces))
    corners = vertices[faces].astype(np.float64)
    volume = (
        abs(float(np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum())) / 6
    )
    hull = spatial.ConvexHull(vertices)
    points = np.argwhere(region) * spacing
    centre = points.mean(axis=0) + spacing  # the padding moved the mesh by one voxel
    radius = np.linalg.norm(vertices - centre, axis=1)
    axes = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(points.T) + np.diag(spacing**2) / 12), 1e-9))
    return [
        float(np.log(volume)),
        float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area),
        float(radius.std() / radius.mean()),
        float(radius.max() / radius.mean()),
        float(axes[1] / axes[2]),
        float(axes[0] / axes[2]),
        float(volume / hull.volume),
    ]


def _rim(
    intensity: NDArray[np.float64], region: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> list[float]:
    """Return the nine features of the shells around the region."""
    distance = ndimage.distance_transform_edt(~region, sampling=spacing)
    around = intensity[(distance > 5) & (distance <= MARGIN_MM)]
    lung = float(np.median(around)) if around.size else float(intensity.min())
    contrast = (intensity - lung) / max(float(np.median(intensity[region])) - lung, 1e-3)
    shells = [contrast[(distance > low) & (distance <= high)] for low, high in SHELLS_MM]
    _, patches = ndimage.label((contrast > 0.3) & (distance > 1.5) & (distance <= 3.0))
    return [
        *(float(shell.mean()) if shell.size else 0.0 for shell in shells),
        *(float(np.percentile(shell, 95)) if shell.size else 0.0 for shell in shells),
        float(patches),
    ]
