"""Load the machine code of the kernels that every job needs, once, before jobs are forked.

Imported by the server that jobs are forked from: each job would otherwise read the same code from the cache,
about a second of its own. Only kernels on one thread are called here; nothing that starts a thread, which a
fork would not take along.
"""

from __future__ import annotations

import numpy as np

from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.volume import Volume

_STEPS = (
    {"step": "resample", "spacing_mm": [1.0, 1.0, 1.0], "interpolator": "linear"},
    {"step": "window", "low": -1000.0, "high": 400.0, "to": [0.0, 1.0]},
)


def load_kernels() -> None:
    """Run the commonest recipe over a few voxels of each type that a scanner gives."""
    affine = np.diag([2.5, 0.8, 0.8, 1.0])
    for dtype in (np.int16, np.float32):
        array = np.zeros((4, 5, 6), dtype)
        Recipe.from_steps(_STEPS).apply(Volume(array=array, affine=affine, unit="[hnsf'U]"))


load_kernels()
