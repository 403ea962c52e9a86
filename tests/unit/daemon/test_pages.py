"""The last entries of huge pages, found by their addresses, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from phantoms import axial_grid

from voxtrial.daemon.harmonize.resample import array_to_grid
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


@pytest.mark.parametrize("threads", [2, 7])
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_slabs_of_threads_do_not_touch_each_other(threads: int, dtype: type[np.number[np.integer]]) -> None:
    """Slabs end inside huge pages: SimpleITK's values everywhere, to the rounding of 3,000 in float32."""
    source, target = axial_grid((12, 256, 256), (2.5, 0.8, 0.8)), axial_grid((28, 204, 204), (1.0, 1.0, 1.0))
    array = (1000 * np.random.default_rng(4).standard_normal(source.shape)).astype(dtype)
    image = SimpleITK.GetImageFromArray(array.astype(float))
    image.SetSpacing((0.8, 0.8, 2.5))
    image.SetOrigin(source.affine[:3, 3].tolist())
    theirs = SimpleITK.Resample(
        image,
        [204, 204, 28],
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        target.affine[:3, 3].tolist(),
        [1.0, 1.0, 1.0],
    )
    ours = array_to_grid(array, source, target, threads=threads)
    np.testing.assert_allclose(ours, SimpleITK.GetArrayFromImage(theirs), atol=2e-3)
