"""Grey level distance zones: how near the patches of a level lie to the border (IBSI VMDZ)."""

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
    ("Small distance emphasis", "0GBI"),
    ("Large distance emphasis", "MB4I"),
    ("Low grey level zone emphasis", "S1RA"),
    ("High grey level zone emphasis", "K26C"),
    ("Small distance low grey level emphasis", "RUVG"),
    ("Small distance high grey level emphasis", "DKNJ"),
    ("Large distance low grey level emphasis", "A7WM"),
    ("Large distance high grey level emphasis", "KLTH"),
    ("Grey level non-uniformity", "VFT7"),
    ("Normalised grey level non-uniformity", "7HP3"),
    ("Zone distance non-uniformity", "V294"),
    ("Normalised zone distance non-uniformity", "IATH"),
    ("Zone percentage", "VIWW"),
    ("Grey level variance", "QK93"),
    ("Zone distance variance", "7WT1"),
    ("Zone distance entropy", "GBDU"),
)


def features(region: Region, dimensions: Sequence[Dimension]) -> Iterator[tuple[str, Values]]:
    """Yield (aggregation id, values) of the 16 distance zone features.

    References
    ----------
    Thibault et al. 2014, doi:10.1109/TBME.2013.2284600.
    """

    def count(by_slice: bool) -> tuple[Matrices, Columns]:
        zones = region.zones_in_slices if by_slice else region.zones_in_volume
        return zones.count(zones.distance)

    return aggregate_undirected(
        dimensions, count, region.voxels_per_slice, partial(grey_level_matrix.statistics, keys=KEYS)
    )
