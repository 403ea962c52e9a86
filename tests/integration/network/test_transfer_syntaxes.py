"""Every transfer syntax that the listener accepts with a file of each: kept byte for byte as it travelled."""

from __future__ import annotations

from pathlib import Path

import peers
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from voxtrial.daemon.network import contexts
from voxtrial.daemon.network.scp import Listener
from voxtrial.daemon.network.scu import Peer, store
from voxtrial.daemon.network.spool import dataset_digest
from voxtrial.db.studies import Instance

# pydicom's packaged test files: made by modalities, GDCM and DCMTK
FILES = {
    ImplicitVRLittleEndian: "MR_small_implicit.dcm",
    ExplicitVRLittleEndian: "CT_small.dcm",
    DeflatedExplicitVRLittleEndian: "image_dfl.dcm",
    ExplicitVRBigEndian: "MR_small_bigendian.dcm",
    JPEGBaseline8Bit: "SC_rgb_jpeg_dcmtk.dcm",
    JPEGExtended12Bit: "JPEG-lossy.dcm",
    JPEGLosslessSV1: "SC_rgb_jpeg_gdcm.dcm",
    JPEGLSLossless: "MR_small_jpeg_ls_lossless.dcm",
    JPEG2000Lossless: "MR_small_jp2klossless.dcm",
    JPEG2000: "JPEG2000.dcm",
    RLELossless: "MR_small_RLE.dcm",
}
UNKNOWN_TO_STORESCP = {JPEGLossless, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}  # DCMTK 3.6.7
MADE = {JPEGLossless, JPEGLSNearLossless, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K}


def file_of(syntax: str, folder: Path) -> Path:
    """Return a file in the syntax: pydicom's, compressed here, or with code streams that only say so."""
    if syntax in FILES:
        path = get_testdata_file(FILES[syntax], download=False)
        assert path is not None
        return Path(path)
    path = folder / "made.dcm"
    plain = get_testdata_file("MR_small.dcm", download=False)
    if syntax == JPEGLossless:
        peers.run([peers.DCMTK / "dcmcjpeg", "+el", plain, path])
        return path
    ds = pydicom.dcmread(plain)
    if syntax == JPEGLSNearLossless:
        ds.compress(syntax, jls_error=2, generate_instance_uid=False)
    else:  # no encoder of high-throughput JPEG 2000 is installed, and the listener does not look inside
        ds.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(range(256)) * 7])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    return path


def test_a_file_of_every_syntax_is_tried() -> None:
    assert FILES.keys() | MADE == set(contexts.TRANSFER_SYNTAXES)


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("syntax", contexts.TRANSFER_SYNTAXES, ids=lambda uid: uid.keyword)
def test_objects_are_kept_as_they_are_stored_at_the_sender(
    listener: Listener, engine: Engine, tmp_path: Path, syntax: str
) -> None:
    path = file_of(syntax, tmp_path)
    (outcome,) = store([path], Peer("127.0.0.1", listener.port, "VOXTRIAL"))
    assert outcome.status == 0, outcome.reason
    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    kept = listener.settings.site.data / row.path
    assert row.transfer_syntax_uid == syntax
    assert pydicom.dcmread(kept).file_meta.TransferSyntaxUID == syntax
    assert row.sha256 == dataset_digest(kept) == dataset_digest(path)


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(
    "syntax",
    sorted(set(contexts.COMPRESSED_SYNTAXES) - UNKNOWN_TO_STORESCP),
    ids=lambda uid: uid.keyword,
)
def test_dcmtk_sends_what_its_own_receiver_gets_bit_for_bit(
    listener: Listener, engine: Engine, tmp_path: Path, syntax: str
) -> None:
    path = file_of(syntax, tmp_path)
    with peers.storescp(tmp_path / "reference", "+B", "+xa") as port:
        peers.dcmsend([path], port, "--decompress-never", called="STORESCP")
    peers.dcmsend([path], listener.port, "--decompress-never")
    (reference,) = (tmp_path / "reference").iterdir()
    with Session(engine) as session:
        row = session.scalars(select(Instance)).one()
    assert row.transfer_syntax_uid == syntax
    assert pydicom.dcmread(reference).file_meta.TransferSyntaxUID == syntax
    assert row.sha256 == dataset_digest(reference)
