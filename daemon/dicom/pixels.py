"""Read the pixels of a checked series into a ``Volume``: rescaled slice by slice, in slice order.

Uncompressed little-endian pixels go from the file straight to their place in the volume; everything else is
decoded by pydicom, frame by frame. The result is int16 when the rescaled values are integers that fit, else
float32.

References
----------
PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.8.9.1 (PET units), C.7.5.1.1.2 (pixel padding).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from voxtrial.daemon.dicom.decoding import decode
from voxtrial.daemon.dicom.elements import read_data_set
from voxtrial.daemon.dicom.geometry import check
from voxtrial.daemon.dicom.pet import pet_unit, refuse_mixed_units
from voxtrial.daemon.dicom.plane import Plane
from voxtrial.daemon.dicom.series import SeriesFiles, group
from voxtrial.daemon.errors import Refused
from voxtrial.daemon.volume import Source, SourceInstance, Volume

HOUNSFIELD = "[hnsf'U]"
ARBITRARY = "1"

_INT16 = np.iinfo(np.int16)


def read(
    series: SeriesFiles, *, allow_tilt: bool = False, digests: Mapping[str, str] | None = None
) -> Volume:
    """Return the volume of ``series``.

    Parameters
    ----------
    series
        One candidate volume, from :func:`voxtrial.daemon.dicom.series.group`.
    allow_tilt
        Accept a sheared stack; the affine is then sheared as well.
    digests
        SHA-256 of the stored files by SOP Instance UID, copied into the source.

    Raises
    ------
    Refused
        By the geometry gate (see :func:`voxtrial.daemon.dicom.geometry.check`), or ``truncated``,
        ``undecodable``, ``mixed_pixels``, ``mixed_units`` for the pixels.

    Notes
    -----
    Padded pixels keep their value. ``source.acquisition`` gives it in the unit of the volume as
    ``PixelPaddingValue`` (and ``PixelPaddingRangeLimit``), when the slices agree on it.
    """
    geometry = check(series, allow_tilt=allow_tilt)
    if series.modality == "PT":
        refuse_mixed_units(series.files)
    rescale = [_rescale(plane) for plane in series.files]
    exact = _rescaled_in_place(series.files, rescale)
    return Volume(
        array=_rescaled_to_float(series.files, rescale) if exact is None else exact,
        affine=geometry.grid.affine,
        unit=unit(series.files[0]),
        source=_source(series, rescale, digests or {}),
    )


def read_folder(path: Path, *, allow_tilt: bool = False) -> Volume:
    """Return the one volume among the files of the folder ``path``.

    Raises
    ------
    Refused
        ``ambiguous_series`` if the folder holds several candidates; otherwise as :func:`read`.
    """
    found = group(file for file in Path(path).iterdir() if file.is_file())
    candidates = [series for series in found if series.refusal is None]
    if len(candidates) > 1:
        names = "; ".join(series.name for series in candidates)
        raise Refused(
            f"{path} holds {len(candidates)} volumes ({names}): choose one", rule="ambiguous_series"
        )
    if not found:
        raise Refused(f"{path} holds no files", rule="not_an_image")
    return read(candidates[0] if candidates else found[0], allow_tilt=allow_tilt)


def unit(plane: Plane) -> str:
    """Return the UCUM code of the rescaled values of ``plane``."""
    modality, rescale_type = plane.text("Modality"), plane.text("RescaleType")
    if modality == "CT" and rescale_type in {"", "HU"}:
        return HOUNSFIELD
    return pet_unit(plane) if modality == "PT" else ARBITRARY


def stored_type(plane: Plane) -> np.dtype[Any]:
    """Return the dtype of the stored pixels."""
    bits = plane.integer("BitsAllocated", 16)
    if bits not in {8, 16, 32}:
        message = f"{plane.path.name} stores {bits} bits a pixel; volumes are read from 8, 16 or 32"
        raise Refused(message, rule="undecodable")
    if not 0 < plane.integer("BitsStored", bits) <= bits:
        message = f"{plane.path.name} stores {plane.integer('BitsStored')} of {bits} allocated bits"
        raise Refused(message, rule="malformed_header")
    return np.dtype(f"<{'i' if plane.integer('PixelRepresentation') else 'u'}{bits // 8}")


def read_stored(plane: Plane, out: NDArray[Any], parsed: dict[Path, Dataset] | None = None) -> None:
    """Fill ``out`` (rows, columns; contiguous, of the stored dtype) with the stored pixels of ``plane``.

    ``parsed`` keeps multi-frame data sets between the calls for their frames.

    Unused high bits (old overlays, PS3.5 8.1.1) are cleared, or filled with the sign.
    """
    location = plane.header.pixel_location
    if location is None:
        _decode(plane, out, {} if parsed is None else parsed)
    else:
        offset = location.offset + ((plane.frame or 1) - 1) * out.nbytes
        descriptor = os.open(plane.path, os.O_RDONLY)
        try:
            got = os.preadv(descriptor, [out.data.cast("B")], offset)
        finally:
            os.close(descriptor)
        if got < out.nbytes:
            message = f"{plane.path.name} ends after {got} of {out.nbytes} bytes of pixels"
            raise Refused(message, rule="truncated")
    _clear_unused_bits(plane, out)


def _clear_unused_bits(plane: Plane, out: NDArray[Any]) -> None:
    unused = out.itemsize * 8 - plane.integer("BitsStored", out.itemsize * 8)
    if unused <= 0:
        return
    if out.dtype.kind == "i":
        low, high = -(1 << (out.itemsize * 8 - unused - 1)), (1 << (out.itemsize * 8 - unused - 1)) - 1
        if out.min() < low or out.max() > high:
            np.left_shift(out, unused, out=out)
            np.right_shift(out, unused, out=out)
    elif int(out.max()) >> (out.itemsize * 8 - unused):
        np.bitwise_and(out, (1 << (out.itemsize * 8 - unused)) - 1, out=out)


def _decode(plane: Plane, out: NDArray[Any], parsed: dict[Path, Dataset]) -> None:
    index = None if plane.frame is None else plane.frame - 1
    data_set = parsed.get(plane.path) or read_data_set(plane.path)
    if index is not None:
        parsed[plane.path] = data_set
    decoded = decode(data_set, plane.path, index=index)
    if decoded.shape != out.shape:
        message = f"{plane.path.name} decodes to {decoded.shape} pixels instead of {out.shape}"
        raise Refused(message, rule="undecodable")
    out[...] = decoded


def _rescale(plane: Plane) -> tuple[float, float]:
    """Return slope and intercept; of an enhanced PET, those that lead to its unit."""
    mapped = plane.text("Modality") == "PT" and "RealWorldValueSlope" in plane.values
    first, second = (f"{'RealWorldValue' if mapped else 'Rescale'}{end}" for end in ("Slope", "Intercept"))
    slope, intercept = plane.number(first, 1.0), plane.number(second)
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope):
        message = f"{plane.path.name}: {first} {slope} and {second} {intercept} are no rescaling"
        raise Refused(message, rule="malformed_header")
    return slope, intercept


def _rescaled_in_place(
    files: tuple[Plane, ...], rescale: list[tuple[float, float]]
) -> NDArray[np.int16] | None:
    """Return the volume as int16 if slopes and intercepts are integers and all values fit."""
    dtype = stored_type(files[0])
    if dtype.itemsize > 2 or any(slope % 1 or intercept % 1 for slope, intercept in rescale):
        return None
    volume = np.empty((len(files), *files[0].shape), np.int16)
    scratch = np.empty(files[0].shape, dtype)
    parsed: dict[Path, Dataset] = {}
    for plane, into, (slope, intercept) in zip(files, volume, rescale, strict=True):
        _same_type(plane, dtype)
        stored = into.view(dtype) if dtype.itemsize == 2 else scratch
        read_stored(plane, stored, parsed)
        if not _fits(*_possible(plane, dtype), slope, intercept) and not _fits(
            int(stored.min()), int(stored.max()), slope, intercept
        ):
            return None
        if slope != 1:
            into[...] = stored.astype(np.int64) * int(slope) + int(intercept)
        elif dtype.itemsize == 1:
            np.add(stored, np.int16(intercept), out=into, dtype=np.int16)
        elif intercept:  # modulo 2**16, so that unsigned values above 32767 come down into the range
            np.add(into, np.array(int(intercept)).astype(np.int16), out=into)
    return volume


def _possible(plane: Plane, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the least and the largest value that the stored bits can hold."""
    bits = plane.integer("BitsStored", dtype.itemsize * 8)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.kind == "i" else (0, (1 << bits) - 1)


def _fits(low: int, high: int, slope: float, intercept: float) -> bool:
    """Whether both ends fit int16 after rescaling."""
    ends = (low * slope + intercept, high * slope + intercept)
    return bool(_INT16.min <= min(ends) and max(ends) <= _INT16.max)


def _rescaled_to_float(files: tuple[Plane, ...], rescale: list[tuple[float, float]]) -> NDArray[np.float32]:
    dtype = stored_type(files[0])
    volume = np.empty((len(files), *files[0].shape), np.float32)
    stored = np.empty(files[0].shape, dtype)
    parsed: dict[Path, Dataset] = {}
    for plane, into, (slope, intercept) in zip(files, volume, rescale, strict=True):
        _same_type(plane, dtype)
        read_stored(plane, stored, parsed)
        np.add(stored * np.float64(slope), np.float64(intercept), out=into, casting="same_kind")
    return volume


def _same_type(plane: Plane, dtype: np.dtype[Any]) -> None:
    if stored_type(plane) != dtype:
        message = f"{plane.path.name} stores {stored_type(plane)} pixels, the first slice {dtype}"
        raise Refused(message, rule="mixed_pixels")


def _source(series: SeriesFiles, rescale: list[tuple[float, float]], digests: Mapping[str, str]) -> Source:
    acquisition = dict(series.acquisition)
    if series.part:
        acquisition["SeriesPart"] = series.part
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        values = {
            _padding(plane, keyword) * slope + intercept
            for plane, (slope, intercept) in zip(series.files, rescale, strict=True)
            if keyword in plane.values
        }
        if len(values) == 1:
            acquisition[keyword] = values.pop()
    return Source(
        study_instance_uid=series.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        frame_of_reference_uid=series.frame_of_reference_uid,
        modality=series.modality,
        patient_id=series.patient_id,
        instances=tuple(
            SourceInstance(
                sop_instance_uid=plane.sop_instance_uid,
                sop_class_uid=plane.text("SOPClassUID"),
                sha256=digests.get(plane.sop_instance_uid, ""),
                path=str(plane.path),
                frame=plane.frame,
            )
            for plane in series.files
        ),
        acquisition=acquisition,
    )


def _padding(plane: Plane, keyword: str) -> int:
    """Return the stored padding value with the sign that the pixels have."""
    raw = plane.integer(keyword)
    signed = plane.integer("PixelRepresentation") == 1 and raw >= 1 << 15
    return raw - (1 << 16) if signed else raw
