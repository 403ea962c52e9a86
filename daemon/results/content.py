"""What a report is made from: findings and the work that found them, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from voxtrial.daemon.results.codes import Concept
from voxtrial.daemon.results.uids import derived_uid


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One measured number with its concept and unit."""

    concept: Concept
    value: float
    unit: Concept


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One region that the model found, on the source grid.

    Parameters
    ----------
    roi
        Number within the report, from 1; also the segment number.
    mask
        (z, y, x) bool on the grid of the source series.
    category, type
        Segmented property category and type (PS3.16 CID 7150 ff.).
    site
        Anatomic region; None where the model does not say.
    volumetric
        Quantities of the whole region: they stand in the TID 1411 group.
    planar
        Quantities of the key slice: they stand in the TID 1410 group, and nowhere else.
    key_slice
        Index of the slice that the planar quantities were measured in; None: no planar group.
    display_rgb
        Recommended display colour, 0 to 255.
    """

    roi: int
    label: str
    mask: NDArray[np.bool_]
    category: Concept
    type: Concept
    site: Concept | None = None
    volumetric: tuple[Quantity, ...] = ()
    planar: tuple[Quantity, ...] = ()
    key_slice: int | None = None
    display_rgb: tuple[int, int, int] = (255, 160, 0)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was run on which input: everything that a result's identity is derived from.

    Parameters
    ----------
    source
        Headers of the source series without pixel data: one a slice in slice order, or the one
        multi-frame object.
    frames
        1-based frame of each slice, in slice order, when the source is multi-frame; empty otherwise.
    source_digests
        SHA-256 of each source instance, in the same order.
    first_started_at
        Start of the first attempt; every date and time in the objects comes from it.
    """

    site: str
    source: tuple[Dataset, ...]
    source_digests: tuple[str, ...]
    frames: tuple[int, ...] = ()
    model_name: str
    model_version: str
    model_digest: str
    recipe_digest: str
    code_version: str
    first_started_at: datetime
    intended_use: str = ""
    parameters: tuple[str, ...] = ()
    predecessor: Dataset | None = None
    series_number: int = 9000
    target: Concept | None = None
    """What the model looks for; an empty report says that it is absent."""
    _uids: dict[tuple[str, int], str] = field(default_factory=dict, repr=False, compare=False)

    def uid(self, kind: str, index: int = 0) -> str:
        """Return the UID of object ``kind`` number ``index``: same work, same UID; any change, a new one."""
        key = (kind, index)
        if key not in self._uids:
            first = self.source[0]
            self._uids[key] = derived_uid(
                self.site,
                first.StudyInstanceUID,
                *(f"{d.SOPInstanceUID}:{s}" for d, s in zip(self.source, self.source_digests, strict=True)),
                self.model_digest,
                self.recipe_digest,
                self.code_version,
                *self.parameters,
                "" if self.predecessor is None else str(self.predecessor.SOPInstanceUID),
                kind,
                str(index),
            )
        return self._uids[key]

    @property
    def device_uid(self) -> str:
        """UID of the model as a device: it changes with every retraining (IHE AIR 6.5.3.1)."""
        return derived_uid("device", self.model_digest)

    def tracking_uid(self, roi: int) -> str:
        """Return the UID under which finding ``roi`` is known in every object of this work."""
        return self.uid("tracking", roi)

    def tracking_id(self, roi: int) -> str:
        """Return the name under which a reader sees finding ``roi``."""
        return f"{self.model_name} {roi}"
