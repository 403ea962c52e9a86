"""Studies from disk: folders, DICOMDIR, zip archives, each object through the same intake as C-STORE.

Names in archives name nothing here: where an object is stored follows from its UIDs, so that no archive can
write outside the store. Archives are read as streams, within bounds on entries and expansion.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydicom.errors import InvalidDicomError
from pydicom.filereader import dcmread
from pydicom.uid import MediaStorageDirectoryStorage
from sqlalchemy import select

from voxtrial.daemon.errors import Misconfigured, Retryable
from voxtrial.daemon.network import part10
from voxtrial.daemon.network.intake import Answer, Intake, Offer
from voxtrial.daemon.network.ledger import Origin
from voxtrial.daemon.network.scan import Malformed, Scanner
from voxtrial.daemon.network.spool import COPY_BYTES
from voxtrial.daemon.network.status import StoreStatus
from voxtrial.db.studies import Instance

HEAD_BYTES = 1 << 16
"""Read first, to learn whose object it is."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
MAXIMUM_ENTRIES = 1_000_000
MAXIMUM_ENTRY_BYTES = 8 << 30
MAXIMUM_EXPANSION = 200
"""Unpacked size over packed size of an archive, beyond its first GiB."""
UNQUESTIONED_BYTES = 1 << 30

UNREADABLE = (
    *(OSError, EOFError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What a damaged, encrypted or strangely packed archive raises, besides a damaged disk."""


@dataclass(frozen=True)
class Source:
    """One file or archive entry that may be a DICOM object."""

    name: str
    open: Callable[[], IO[bytes]]


@dataclass
class Imported:
    """What one import did."""

    new: int = 0
    known: int = 0
    """Stored before, with equal content."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files that are no object, by reason."""

    def skip(self, reason: str) -> None:
        """Count a file that is no object."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def sources(path: Path, result: Imported) -> Iterator[Source]:
    """Yield what ``path`` offers: a file, a folder to any depth, a DICOMDIR's files, a zip's entries.

    Links to files are followed, links to folders are not. Folders that cannot be read, and archives that
    cannot be taken as a whole, are refused in ``result``.

    Raises
    ------
    Misconfigured
        There is no such file or folder.
    """
    if path.is_dir():
        yield from _of_folder(path, result)
    elif not path.is_file():
        raise Misconfigured(f"There is no file or folder {path}.")
    elif path.name.upper() == "DICOMDIR":
        yield from _of_directory(path, result)
    else:
        yield from _of_file(path, result)


def import_source(source: Source, intake: Intake, result: Imported, *, calling_ae: str = "IMPORT") -> None:
    """Store one source and count what became of it.

    Raises
    ------
    Retryable
        There is no room, or no database: the sources that follow would fare no better.
    """
    try:
        answer = _take(source, intake, Origin(calling_ae=calling_ae, peer_address="disk"))
    except InvalidDicomError as error:
        if source.name.lower().endswith(ARCHIVES):
            result.refused.append((source.name, "an archive that is not opened here; unpack it first"))
        else:
            result.skip(str(error))
    except UNREADABLE as error:
        result.refused.append((source.name, _said(error)))
    else:
        if answer.status is StoreStatus.OUT_OF_RESOURCES:
            raise Retryable(
                f"Stopped at {source.name}: {answer.comment}. What was imported stays; start again when that "
                "is mended."
            )
        if answer.status is not StoreStatus.SUCCESS:
            result.refused.append((source.name, f"{answer.status:04X} {answer.comment}"))
        elif answer.new:
            result.new += 1
        else:
            result.known += 1


@dataclass(frozen=True)
class Body:
    """A dataset behind its file meta group, its first bytes read to see whose it is."""

    transfer_syntax_uid: str
    head: bytes
    rest: BinaryIO

    @classmethod
    def of(cls, stream: BinaryIO) -> Body:
        """Read up to the head.

        Raises
        ------
        InvalidDicomError
            The stream holds no Part 10 file, or a DICOMDIR.
        """
        transfer_syntax_uid, beyond = part10.read_meta(stream)
        return cls(transfer_syntax_uid, beyond + stream.read(HEAD_BYTES), stream)

    def study_instance_uid(self) -> str:
        """Return the study that the dataset names; empty when the head does not reach there."""
        return self._seen()["study_instance_uid"]

    def _seen(self) -> dict[str, str]:
        scanner = Scanner(self.transfer_syntax_uid)
        try:
            scanner.feed(self.head)
        except Malformed as error:
            raise InvalidDicomError("a DICOM file that cannot be read") from error
        return scanner.seen()

    def offer(self, origin: Origin) -> Offer:
        """Return the offer under the UIDs that the dataset names itself.

        Raises
        ------
        InvalidDicomError
            The dataset names no object, or is a DICOMDIR.
        """
        uids = self._seen()
        if not uids["sop_class_uid"] or not uids["sop_instance_uid"]:
            raise InvalidDicomError("a DICOM file without SOP class or instance")
        if uids["sop_class_uid"] == MediaStorageDirectoryStorage:
            raise InvalidDicomError("a DICOMDIR")
        return Offer(
            sop_class_uid=uids["sop_class_uid"],
            sop_instance_uid=uids["sop_instance_uid"],
            transfer_syntax_uid=self.transfer_syntax_uid,
            origin=origin,
        )

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole dataset, once."""
        return chain((self.head,), iter(partial(self.rest.read, COPY_BYTES), b""))


def _take(source: Source, intake: Intake, origin: Origin) -> Answer:
    """Store ``source``; what is stored already is only read, so that an import can be resumed."""
    with source.open() as stream:
        body = Body.of(cast("BinaryIO", stream))
        offer = body.offer(origin)
        stored = _stored_digest(intake, offer.sop_instance_uid)
        if stored is None:
            return _receive(body, offer, intake)
        digest = hashlib.sha256()
        for piece in body.pieces():
            digest.update(piece)
        if digest.hexdigest() == stored:
            return Answer(StoreStatus.SUCCESS)
    with source.open() as stream:
        return _receive(Body.of(cast("BinaryIO", stream)), offer, intake)


def _receive(body: Body, offer: Offer, intake: Intake) -> Answer:
    reception = intake.begin(offer)
    try:
        for piece in body.pieces():
            reception.write(piece)
    except BaseException:
        reception.abandon()
        raise
    return reception.finish()


def _stored_digest(intake: Intake, sop_instance_uid: str) -> str | None:
    query = select(Instance.sha256).where(
        Instance.sop_instance_uid == sop_instance_uid, Instance.deleted_at.is_(None)
    )
    with intake.ledger.engine.connect().execution_options(read_only=True) as connection:
        return connection.execute(query).scalar()


def _of_folder(path: Path, result: Imported) -> Iterator[Source]:
    def refuse(error: OSError) -> None:
        result.refused.append((str(error.filename), _said(error)))

    for folder, subfolders, names in os.walk(path, onerror=refuse):
        subfolders.sort()
        for name in subfolders:
            if Path(folder, name).is_symlink():
                result.skip("a link to a folder")
        for name in sorted(names):
            child = Path(folder, name)
            if child.is_file():
                yield from _of_file(child, result)
            else:
                result.skip("a broken link" if child.is_symlink() else "no file")


def _of_file(path: Path, result: Imported) -> Iterator[Source]:
    if zipfile.is_zipfile(path):
        yield from _of_archive(path, result)
    else:
        yield Source(str(path), _reader(path))


def _reader(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def _of_archive(path: Path, result: Imported) -> Iterator[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            reason = _distrust(entries, path.stat().st_size)
            if reason:
                result.refused.append((str(path), reason))
                return
            for entry in entries:
                yield Source(f"{path}:{entry.filename}", partial(archive.open, entry))
    except UNREADABLE as error:
        result.refused.append((str(path), _said(error)))


def _said(error: Exception) -> str:
    """Return an error in words: without the number of the system, and with what to do where we know it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "password required" in str(error):
        return "encrypted; unpack it first"
    return str(error)


def _distrust(entries: list[zipfile.ZipInfo], packed: int) -> str:
    """Return why the archive is taken for a bomb; empty when it is not."""
    unpacked = sum(entry.file_size for entry in entries)
    if len(entries) > MAXIMUM_ENTRIES:
        return f"{len(entries)} entries, {MAXIMUM_ENTRIES} are allowed"
    if any(entry.file_size > MAXIMUM_ENTRY_BYTES for entry in entries):
        return f"an entry of more than {MAXIMUM_ENTRY_BYTES >> 30} GiB"
    if unpacked > UNQUESTIONED_BYTES and unpacked > MAXIMUM_EXPANSION * packed:
        return f"{packed} bytes would unpack to {unpacked}"
    return ""


def _of_directory(path: Path, result: Imported) -> Iterator[Source]:
    """Yield the files that a DICOMDIR lists (PS3.10 8), as far as they lie below its folder."""
    try:
        records = dcmread(path).get("DirectoryRecordSequence") or ()
    except (InvalidDicomError, OSError) as error:
        result.refused.append((str(path), _said(error)))
        return
    root = path.parent.resolve()
    for record in records:
        name = record.get("ReferencedFileID")
        if not name:
            continue
        parts = [name] if isinstance(name, str) else list(name)
        target = _listed(root, parts).resolve()
        if not target.is_relative_to(root):
            result.refused.append((str(target), "the DICOMDIR points outside its folder"))
        elif not target.is_file():
            result.refused.append((str(target), "the DICOMDIR names it, but it is missing"))
        else:
            yield Source(str(target), _reader(target))


def _listed(root: Path, parts: list[str]) -> Path:
    """Return the file that a DICOMDIR means: a mounted CD may show its capital letters as small ones."""
    target = root
    for part in parts:
        exact = target / part
        if not exact.exists() and target.is_dir():
            exact = next((c for c in target.iterdir() if c.name.lower() == part.lower()), exact)
        target = exact
    return target
