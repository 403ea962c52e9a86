"""Decode pixels that do not lie in a file as they are: compressed, deflated, big endian.

The decoders are pydicom's plugins (libjpeg, OpenJPEG, CharLS, RLE, GDCM). Whatever they do with damaged
data, the caller sees a refusal.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from voxtrial.daemon.dicom.elements import PYDICOM_FAILURES, quietly
from voxtrial.daemon.errors import Refused


@functools.cache
def can_decode(transfer_syntax_uid: str) -> bool:
    """Whether a decoder for the transfer syntax is installed."""
    try:
        with quietly():
            return bool(get_decoder(UID(transfer_syntax_uid)).is_available)
    except NotImplementedError:
        return False


def decode(data_set: Dataset, path: Path, *, index: int | None = None) -> NDArray[Any]:
    """Return the stored pixels of ``data_set``, of one frame where its 0-based ``index`` is given.

    Raises
    ------
    Refused
        ``undecodable``, with the transfer syntax and the decoder's words.
    """
    try:
        with quietly():
            return np.asarray(pixel_array(data_set, index=index, raw=True))
    except BaseException as error:
        # The RLE decoder is written in Rust: where it panics, the exception is no Exception.
        if not isinstance(error, PYDICOM_FAILURES) and type(error).__module__ != "pyo3_runtime":
            raise
        syntax = str(data_set.file_meta.get("TransferSyntaxUID", "")) or "no transfer syntax"
        reason = str(error).split("\n", maxsplit=1)[0]
        message = f"{path.name} ({syntax}) cannot be decoded: {reason}"
        raise Refused(message, rule="undecodable") from error
