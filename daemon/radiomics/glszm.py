"""Grey level size zones: how large the connected patches of a level are (IBSI 9SAK)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from voxtrial.daemon.radiomics import grey_level_matrix
from voxtrial.daemon.radiomics.aggregation import (
    Columns,
    Dimension,
    Matrices,
    Values,
    aggregate_undirected,
)
from voxtrial.daemon.radiomics.region import Region

KEYS = (
    ("Small zone emphasis", "5QRC"),
    ("Large zone emphasis", "48P8"),
    ("Low grey level zone emphasis", "XMSY"),
    ("High grey level zone emphasis", "5GN9"),
    ("Small zone low grey level emphasis", "5RAI"),
    ("Small zone high grey level emphasis", "HW1V"),
    ("Large zone low grey level emphasis", "YH51"),
    ("Large zone high grey level emphasis", "J17V"),
    ("Grey level non-uniformity", "JNSA"),
    ("Normalised grey level non-uniformity", "Y1RO"),
    ("Zone size non-uniformity", "4JP3"),
    ("Normalised zone size non-uniformity", "VB3A"),
    ("Zone percentage", "P30P"),
    ("Grey level variance", "BYLV"),
    ("Zone size variance", "3NSA"),
    ("Zone size entropy", "GU8N"),
)


def features(region: Region, dimensions: Sequence[Dimension]) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of the 16 size zone features.

    References
    ----------
    Thibault et al. 2014, doi:10.1109/TBME.2013.2284600.
    """

    def count(by_slice: bool) -> tuple[Matrices, Columns]:
        zones = region.zones_in_slices if by_slice else region.zones_in_volume
        return zones.count(zones.size)

    return aggregate_undirected(
        dimensions, count, region.voxels_per_slice, partial(grey_level_matrix.statistics, keys=KEYS)
    )
