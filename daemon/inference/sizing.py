"""What a whole job will take, planned from the headers of a study and the manifest of a model.

No pixel is read and no network is built: the queue wants to know before anybody runs the job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from voxtrial.daemon.harmonize.grids import isotropic_grid
from voxtrial.daemon.harmonize.steps import AnyStep, Conform, Resample
from voxtrial.daemon.inference import memory
from voxtrial.daemon.inference.memory import MIB
from voxtrial.daemon.models import footprint
from voxtrial.daemon.models.manifest import Manifest
from voxtrial.daemon.volume import Grid, Shape

PROCESS_MIB = 500.0
"""Resident memory of a job's process beside its voxels: libraries, DICOM objects. Measured: 430 to 600."""
SOURCE_VOXEL_BYTES = 8
"""First input as the scanner gave it, in its own type, with masks and labels on its grid."""
FURTHER_VOXEL_BYTES = 4
"""Every further input as the scanner gave it: nothing is measured or encoded on its grid."""


def planned_peak_mib(manifest: Manifest, sources: Mapping[str, Grid]) -> int:
    """Return the most resident memory that the process of a job will hold, MiB.

    Parameters
    ----------
    sources
        Grid of the chosen series by input role.
    """
    shape = _harmonized_shape(sources[manifest.inputs[0].role], manifest.inputs[0].harmonization.steps)
    tiling = manifest.tiling
    is_cut = tiling.mode in ("exact", "blended")
    window = tuple(map(min, shape, tiling.tile)) if is_cut else shape
    plan = memory.plan(
        window=window,
        shape=shape,
        peak_channels=footprint.peak_channels(manifest.engine),
        # every input as its recipe left it, and stacked for the network; answers, their sums and weights
        volume_channels=2 * len(manifest.inputs) + len(manifest.outputs) + 2,
    )
    first, *further = (math.prod(sources[one.role].shape) for one in manifest.inputs)
    source_bytes = first * SOURCE_VOXEL_BYTES + sum(further) * FURTHER_VOXEL_BYTES
    return math.ceil(PROCESS_MIB + plan.peak_mib + source_bytes / MIB)


def _harmonized_shape(grid: Grid, steps: Sequence[AnyStep]) -> Shape:
    """Return the shape that the recipe brings a volume to."""
    for step in steps:
        if isinstance(step, Resample):
            grid = isotropic_grid(grid, step.spacing_mm)
        elif isinstance(step, Conform):
            return step.shape
    return grid.shape
