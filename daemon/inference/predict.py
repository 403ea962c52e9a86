"""One locked model over harmonized volumes: probabilities on the grid that the model saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from voxtrial.daemon.errors import Refused
from voxtrial.daemon.models import thresholds
from voxtrial.daemon.models.manifest import OutputLabel
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.volume import Grid, Volume

Progress = Callable[[float], None]
"""Called with the fraction that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a model says about every voxel.

    Parameters
    ----------
    probabilities
        (c, z, y, x) float32, 0 to 1. One channel for each output, or for each label from 0 (background) when
        ``exclusive``.
    grid
        Lattice of the last three axes.
    exclusive
        Whether the channels of a voxel sum to one, so that the largest is its label.
    facts
        How it was computed (tiles, device, planned memory): JSON values for provenance.
    """

    probabilities: NDArray[np.float32]
    grid: Grid
    exclusive: bool
    model_digest: str
    facts: dict[str, str | int | float] = field(default_factory=dict)

    def of(self, label: OutputLabel) -> NDArray[np.float32]:
        """Return the (z, y, x) probability of ``label``."""
        return np.asarray(self.probabilities[label.index if self.exclusive else label.index - 1])

    def labels(self, threshold: float = 0.5) -> NDArray[np.uint8]:
        """Return the (z, y, x) label of every voxel: the largest channel, or the last above the cut."""
        if self.exclusive:
            return np.asarray(self.probabilities.argmax(axis=0), np.uint8)
        labels = np.zeros(self.grid.shape, np.uint8)
        for channel, probability in enumerate(self.probabilities, start=1):
            labels[probability > threshold] = channel
        return labels


def predict(
    model: StoredModel,
    volumes: dict[str, Volume],
    *,
    threads: int = 1,
    memory_mib: float | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Run ``model`` over ``volumes``, one for each of its input roles, already harmonized.

    Parameters
    ----------
    volumes
        By role; several inputs must stand on the same grid.
    threads
        Cores that the engine may use; a process keeps the last value it was given.
    memory_mib
        Memory that the prediction may take; None: what the machine has available now.
    progress
        Told how far it is.

    Raises
    ------
    Refused
        An input is missing (``missing_input``), the inputs stand on different grids (``grids_differ``), the
        intensities are not finite (``not_finite``), or the machine is too small (``memory``).
    Retryable
        The machine is large enough but its memory is taken at the moment.
    """
    inputs = _inputs(model, volumes)
    first = inputs[0]
    engine = model.manifest.engine
    facts: dict[str, str | int | float] = {"architecture": engine.architecture, "precision": engine.precision}
    match engine.architecture:
        case "otsu" | "threshold":
            cut = thresholds.otsu if engine.architecture == "otsu" else thresholds.threshold
            probabilities = cut(first.array, engine.parameters)[None].astype(np.float32)
        case _:
            from voxtrial.daemon.inference.network import run

            stacked = np.stack([volume.array.astype(np.float32, copy=False) for volume in inputs])
            probabilities, how = run(
                model, stacked, threads=threads, memory_mib=memory_mib, progress=progress
            )
            facts |= how
    if progress:
        progress(1.0)
    return Prediction(
        probabilities=probabilities,
        grid=first.grid,
        exclusive=engine.activation == "softmax",
        model_digest=model.digest,
        facts=facts,
    )


def _inputs(model: StoredModel, volumes: dict[str, Volume]) -> list[Volume]:
    """Return the volumes in the order of the manifest, checked."""
    ordered = []
    for one in model.manifest.inputs:
        if one.role not in volumes:
            raise Refused(f"{model.manifest.title} needs the input {one.role}", rule="missing_input")
        ordered.append(volumes[one.role])
    for one, volume in zip(model.manifest.inputs, ordered, strict=True):
        if not ordered[0].grid.agrees_with(volume.grid):
            raise Refused(
                f"Inputs {model.manifest.inputs[0].role} and {one.role} stand on different grids; "
                "the recipe must bring them together",
                rule="grids_differ",
            )
        if not np.isfinite(volume.array).all():
            raise Refused(f"Input {one.role} holds values that are not finite", rule="not_finite")
    return ordered
