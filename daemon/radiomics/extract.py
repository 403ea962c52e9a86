"""All IBSI 1 features of a region, each with its family, its identifier and the way it was aggregated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from voxtrial.daemon.harmonize.resample import finer_than_source
from voxtrial.daemon.radiomics import (
    glcm,
    gldzm,
    glrlm,
    glszm,
    intensity_histogram,
    intensity_statistics,
    intensity_volume_histogram,
    local_intensity,
    morphology,
    ngldm,
    ngtdm,
)
from voxtrial.daemon.radiomics.aggregation import Values
from voxtrial.daemon.radiomics.configuration import Configuration
from voxtrial.daemon.radiomics.placement import Placement
from voxtrial.daemon.radiomics.region import Region, prepare
from voxtrial.daemon.radiomics.spatial_autocorrelation import stride
from voxtrial.daemon.volume import Mask, Volume

Aggregated = Iterable[tuple[str, Values]]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One number. ``aggregation_id`` is empty for families that have no texture matrices."""

    family: str
    feature: str
    ibsi_id: str
    aggregation_id: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Features:
    """Every feature of one region under one configuration.

    Parameters
    ----------
    configuration, configuration_digest
        Name and digest of the configuration.
    notes
        What a reader must know: interpolation beyond the acquisition, and which features are undefined (NaN)
        for this region, and why.
    """

    configuration: str
    configuration_digest: str
    rows: tuple[Feature, ...]
    notes: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def value(self, ibsi_id: str, aggregation_id: str = "", *, feature: str | None = None) -> float:
        """Return one value; ``feature`` tells apart the two fractions that share BC2M or GBPN.

        Raises
        ------
        KeyError
            No such feature, or more than one.
        """
        found = [
            row.value
            for row in self.rows
            if (row.ibsi_id, row.aggregation_id) == (ibsi_id, aggregation_id)
            and feature in (None, row.feature)
        ]
        if len(found) != 1:
            raise KeyError(
                f"{len(found)} features with identifier {ibsi_id} and aggregation {aggregation_id!r}"
            )
        return found[0]


def extract(
    volume: Volume,
    mask: Mask,
    configuration: Configuration,
    *,
    families: Sequence[str] = (),
    placement: Placement | None = None,
    report_progress: Callable[[str], None] = lambda _: None,
) -> Features:
    """Return the features of ``mask`` in ``volume``.

    Parameters
    ----------
    volume, mask
        On the same grid.
    families
        Names out of `FAMILIES`; all when empty.
    placement
        Moves the grid of interpolation; see `voxtrial.daemon.radiomics.stability`.
    report_progress
        Called with the name of each family when it is done.

    Raises
    ------
    Refused
        See `voxtrial.daemon.radiomics.region.prepare`.

    Notes
    -----
    A feature that a region does not have, e.g. the correlation of a constant, is NaN and named in the notes.

    References
    ----------
    Zwanenburg et al. 2020, doi:10.1148/radiol.2020191145.
    """
    region = prepare(volume, mask, configuration, placement)
    rows = []
    for family, count in FAMILIES.items():
        if families and family not in families:
            continue
        for aggregation_id, values in count(region, configuration):
            rows += [
                Feature(
                    family=family,
                    feature=name,
                    ibsi_id=ibsi_id,
                    aggregation_id=aggregation_id,
                    value=float(value),
                )
                for (name, ibsi_id), value in values.items()
            ]
        report_progress(family)
    return Features(
        configuration=configuration.name,
        configuration_digest=configuration.digest,
        rows=tuple(rows),
        notes=tuple(_notes(volume, region, rows)),
    )


def _notes(volume: Volume, region: Region, rows: list[Feature]) -> Iterator[str]:
    intensities = region.intensities
    if finer := finer_than_source(volume.grid, region.grid):
        yield finer
    if (step := stride(region.intensity)) > 1:
        yield f"Moran's I and Geary's C use one voxel in {step} along each axis of this large region."
    if intensities.size == 1:
        yield "The region has one voxel: it has no variation and no neighbours."
    elif intensities.min() == intensities.max():
        yield f"All {intensities.size} voxels of the region have the intensity {intensities[0]:g}."
    elif np.ptp(region.levels[region.intensity]) == 0:
        yield "All intensities of the region fall into one bin; smaller bins would show its texture."
    undefined = dict.fromkeys(f"{row.family}: {row.feature}" for row in rows if np.isnan(row.value))
    if undefined:
        yield f"Undefined for this region, given as NaN: {'; '.join(undefined)}."


def _morphology(region: Region, _: Configuration) -> Aggregated:
    yield "", morphology.features(region.image, region.morphology, region.intensity, region.spacing_mm)


def _local_intensity(region: Region, _: Configuration) -> Aggregated:
    yield "", local_intensity.features(region.image, region.intensity, region.spacing_mm)


def _intensity_statistics(region: Region, _: Configuration) -> Aggregated:
    yield "", intensity_statistics.features(region.intensities)


def _intensity_histogram(region: Region, _: Configuration) -> Aggregated:
    yield "", intensity_histogram.features(region.levels[region.intensity], region.n_levels)


def _intensity_volume_histogram(region: Region, configuration: Configuration) -> Aggregated:
    grades = intensity_volume_histogram.grade(
        region.intensities, configuration.intensity_volume_histogram, configuration.range_of_bins
    )
    yield "", intensity_volume_histogram.features(grades)


def _glcm(region: Region, configuration: Configuration) -> Aggregated:
    texture = configuration.texture
    return glcm.features(region.levels, region.n_levels, texture.dimensions, texture.distance)


def _glrlm(region: Region, configuration: Configuration) -> Aggregated:
    return glrlm.features(region.levels, region.n_levels, configuration.texture.dimensions)


def _glszm(region: Region, configuration: Configuration) -> Aggregated:
    return glszm.features(region, configuration.texture.dimensions)


def _gldzm(region: Region, configuration: Configuration) -> Aggregated:
    return gldzm.features(region, configuration.texture.dimensions)


def _ngtdm(region: Region, configuration: Configuration) -> Aggregated:
    texture = configuration.texture
    return ngtdm.features(region.levels, region.n_levels, texture.dimensions, texture.distance)


def _ngldm(region: Region, configuration: Configuration) -> Aggregated:
    texture = configuration.texture
    return ngldm.features(
        region.levels,
        region.n_levels,
        texture.dimensions,
        distance=texture.distance,
        coarseness=texture.coarseness,
    )


FAMILIES: dict[str, Callable[[Region, Configuration], Aggregated]] = {
    "morphology": _morphology,
    "local_intensity": _local_intensity,
    "intensity_statistics": _intensity_statistics,
    "intensity_histogram": _intensity_histogram,
    "intensity_volume_histogram": _intensity_volume_histogram,
    "glcm": _glcm,
    "glrlm": _glrlm,
    "glszm": _glszm,
    "gldzm": _gldzm,
    "ngtdm": _ngtdm,
    "ngldm": _ngldm,
}
