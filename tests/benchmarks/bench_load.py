"""Load a 300-slice 512 x 512 CT series from uncompressed files, sorted by position and rescaled to HU.

Every reader lists the folder, sorts, reads and rescales; all results are equal. Ours also checks the
geometry.
Times are with a warm page cache; memory is the growth of the peak resident set of a fresh process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from reporting import Bench, interleaved

sys.path.insert(0, str(Path(__file__).parents[1]))
from phantoms import stack

SLICES, ROWS, COLUMNS = 300, 512, 512
VOLUME_MB = SLICES * ROWS * COLUMNS * 2 / 1e6

Reader = Callable[[Path], Any]


def voxtrial(folder: Path) -> np.ndarray:
    from voxtrial.daemon.dicom.pixels import read_folder

    return read_folder(folder).array


def simpleitk(folder: Path) -> Any:
    """Return SimpleITK's own image: turning it into an array would cost a copy."""
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def dicomsdl_by_position(folder: Path) -> list[Any]:
    import dicomsdl

    return sorted(
        (dicomsdl.open(str(path)) for path in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2]
    )


def dicomsdl(folder: Path) -> np.ndarray:
    """Stack the rescaled slices that dicomsdl gives (float32), as its documentation does."""
    return np.stack([data_set.pixelData() for data_set in dicomsdl_by_position(folder)])


def dicomsdl_by_hand(folder: Path) -> np.ndarray:
    """Copy dicomsdl's stored values into one array and rescale there."""
    found = dicomsdl_by_position(folder)
    volume = np.empty((len(found), found[0].Rows, found[0].Columns), np.int16)
    for data_set, out in zip(found, volume, strict=True):
        out[...] = data_set.pixelData(storedvalue=True)
        if data_set.RescaleIntercept:
            np.add(out, np.int16(data_set.RescaleIntercept), out=out)
    return volume


def pydicom(folder: Path) -> np.ndarray:
    import pydicom

    found = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    volume = np.empty((len(found), found[0].Rows, found[0].Columns), np.int16)
    for data_set, out in zip(found, volume, strict=True):
        out[...] = data_set.pixel_array
        if data_set.RescaleIntercept:
            np.add(out, np.int16(data_set.RescaleIntercept), out=out)
    return volume


READERS: dict[str, Reader] = {
    "voxtrial": voxtrial,
    "SimpleITK": simpleitk,
    "dicomsdl": dicomsdl,
    "dicomsdl, rescaled by hand": dicomsdl_by_hand,
    "pydicom": pydicom,
}


def as_array(image: Any) -> np.ndarray:
    import SimpleITK as sitk

    return image if isinstance(image, np.ndarray) else sitk.GetArrayFromImage(image)


def copy_bytes(folder: Path) -> np.ndarray:
    """Read every file into one array: what no reader can be faster than."""
    files = sorted(folder.iterdir())
    volume = np.empty((len(files), files[0].stat().st_size), np.uint8)
    for path, out in zip(files, volume, strict=True):
        with path.open("rb", buffering=0) as file:
            file.readinto(out)
    return volume


def peak_growth_mb(reader: str, folder: Path) -> float:
    """Growth of the peak resident set while ``reader`` loads ``folder`` in a process of its own."""
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import bench_load\n"
        "tiny, folder = pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4])\n"
        "read = bench_load.READERS[sys.argv[2]]; read(tiny)\n"
        "pathlib.Path('/proc/self/clear_refs').write_text('5')\n"
        "peak = lambda: int(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak(); volume = read(folder); print((peak() - before) * 1024 / 1e6)"
    )
    here = str(Path(__file__).parent)
    arguments = [sys.executable, "-c", code, here, reader, str(folder.parent / "tiny"), str(folder)]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def write_series(folder: Path, slices: int, size: int, *, unsigned: bool) -> Path:
    rng = np.random.default_rng(1)
    plane = rng.integers(-1024, 3000, (size, size)).astype(np.int16)

    def as_scanners_send(_: int, ds: object) -> None:
        stored = np.frombuffer(ds.PixelData, "<i2") + np.int16(1024)
        ds.PixelData = stored.astype("<u2").tobytes()
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 0, 12, 11, "-1024"

    volume = np.stack([np.roll(plane, k, axis=1) for k in range(slices)])
    stack(folder, volume, edit=as_scanners_send if unsigned else None)
    return folder


def main() -> None:
    bench = Bench("load", ("SimpleITK", "dicomsdl", "pydicom"))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_series(root / "tiny", 3, 16, unsigned=False)
        for label, unsigned in (("signed, intercept 0", False), ("12 bit unsigned, intercept -1024", True)):
            folder = write_series(root / label, SLICES, ROWS, unsigned=unsigned)
            for name, read in READERS.items():
                assert np.array_equal(as_array(read(folder)), voxtrial(folder)), name
            runs = {name: partial(read, folder) for name, read in READERS.items()}
            seconds = interleaved(runs | {"reading the bytes": partial(copy_bytes, folder)}, rounds=5)
            ours = seconds["voxtrial"]
            bench.add_speedup(f"load {label}", ours, "SimpleITK", seconds["SimpleITK"], 6)
            bench.add_speedup(f"load {label}", ours, "dicomsdl", seconds["dicomsdl"], 3)
            for name in ("dicomsdl, rescaled by hand", "pydicom", "reading the bytes"):
                bench.add_speedup(f"load {label}", ours, name, seconds[name], None)
            bench.add(
                f"memory {label}",
                peak_growth_mb("voxtrial", folder),
                "MB",
                peer="size of the volume",
                peer_value=VOLUME_MB,
                target=1.2,
            )
            for name in list(READERS)[1:]:
                bench.add(f"memory {label}: {name}", peak_growth_mb(name, folder), "MB")
    bench.finish()


if __name__ == "__main__":
    main()
