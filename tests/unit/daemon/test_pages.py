"""The last entries of huge pages, found by their addresses, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from voxtrial.daemon.pages import take_pages

PAGE = 2 << 20


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
@pytest.mark.parametrize("shift", [0, 1, 1000, 77_777])
@pytest.mark.parametrize(
    ("begin", "end", "stop"),
    [(0, 10, 10), (5, 600_000, 2_000_000), (1_000_000, 1_000_001, 1_000_001), (7, 7, 9)],
)
def test_only_ends_of_pages_between_begin_and_stop_are_written(
    dtype: type[np.number[np.integer]], shift: int, begin: int, end: int, stop: int
) -> None:
    """By the definition, entry by entry: the end of the page under an entry, or the last of one's own."""
    flat = np.ones(2_200_000, dtype)[shift:]
    address = flat.ctypes.data + np.arange(flat.size) * flat.itemsize
    expected = set()
    for page in np.unique(address[begin:end] // PAGE):
        on_page = np.flatnonzero(address[:stop] // PAGE == page)
        expected.add(int(on_page[-1]))
    take_pages(flat, begin, end, stop)
    assert set(np.flatnonzero(flat == 0).tolist()) == expected
