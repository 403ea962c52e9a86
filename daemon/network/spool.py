"""Where received objects lie below the data folder, and how bytes become one of them.

An object arrives as ``spool/incoming/*.part``, locked by its writer, and becomes
``spool/<study>/<series>/<sop>.dcm`` by a hard link, which never overwrites, before the fsync: the journal
commit then carries the new name too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
from enum import Enum
from pathlib import Path

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.scan import Identity

COPY_BYTES = 1 << 20


class Durability(Enum):
    """What is on disk before an instance is acknowledged."""

    FILE = "file"
    """The file; on ext4 and XFS its directory entry goes with it."""
    FILE_AND_DIRECTORY = "file+dir"
    """The file and the folders that name it, for every other file system."""
    NONE = "none"
    """Nothing is awaited: a power cut may lose acknowledged instances."""


class DiskFull(OSError):
    """Free space is below the watermark, or a write came back short."""


class Spool:
    """The folders of received objects.

    Parameters
    ----------
    data
        The site's data folder.
    durability
        What ``Part.keep`` waits for.
    watermark_bytes
        Free space below which no new object is begun.
    """

    def __init__(
        self, data: Path, durability: Durability = Durability.FILE, watermark_bytes: int = 0
    ) -> None:
        self.data = data
        self.root = data / "spool"
        self.incoming = self.root / "incoming"
        self.quarantine = data / "quarantine"
        self.durability = durability
        self.watermark_bytes = watermark_bytes
        self._numbers = itertools.count()
        self._made: set[str] = set()
        for folder in (self.incoming, self.quarantine):
            folder.mkdir(parents=True, exist_ok=True)

    def begin(self) -> Part:
        """Open a new part.

        Raises
        ------
        DiskFull
            Free space is below the watermark.
        OSError
            The part cannot be created.
        """
        if self.watermark_bytes:
            room = os.statvfs(self.incoming)
            free = room.f_bavail * room.f_frsize
            if free < self.watermark_bytes:
                raise DiskFull(errno.ENOSPC, f"{free >> 20} MiB free, below the watermark")
        while True:
            path = f"{self.incoming}/{os.getpid()}-{next(self._numbers)}.part"
            try:
                return Part(self, path)
            except FileExistsError:
                continue  # left by a process of the same number that was killed

    def final_path(self, identity: Identity) -> Path:
        """Return where the object of ``identity``, whose UIDs have been validated, lies."""
        study, series, instance = (
            identity.study_instance_uid,
            identity.series_instance_uid,
            identity.sop_instance_uid,
        )
        return Path(f"{self.root}/{study}/{series}/{instance}.dcm")

    def relative(self, path: Path) -> str:
        """Return ``path`` below the data folder, as rows keep it."""
        return os.fspath(path).removeprefix(f"{self.data}/")

    def make_series_folder(self, folder: Path) -> None:
        """Make the folder of a series; its name is durable when the durability says so."""
        if str(folder) in self._made:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.durability is Durability.FILE_AND_DIRECTORY:
            for parent in (folder.parent, self.root):
                sync_folder(parent)
        if len(self._made) > 4096:
            self._made.clear()
        self._made.add(str(folder))


class Part:
    """One object on its way to disk; nobody else may touch it while it is locked."""

    def __init__(self, spool: Spool, path: str) -> None:
        self.spool = spool
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``.

        Raises
        ------
        OSError
            The disk is full or broken. A short write is followed by another, so that the reason shows.
        """
        written = os.write(self._fd, data)
        while written < len(data):
            more = os.write(self._fd, memoryview(data)[written:])
            if more == 0:
                raise DiskFull(errno.ENOSPC, "a write came back empty")
            written += more

    def keep(self, final: Path) -> None:
        """Give the part its final name and wait for the disk.

        Raises
        ------
        FileExistsError
            An object of that name exists; the part is still there.
        OSError
            The disk is full or broken; there is no file of the final name.
        """
        try:
            self._link(final)
            self._sync(final)
        finally:
            self.close()
        os.unlink(self.path)  # noqa: PTH108 - on the path of every instance

    def _link(self, final: Path) -> None:
        self.spool.make_series_folder(final.parent)
        try:
            os.link(self.path, final)
        except FileNotFoundError:  # the folder was removed since it was made
            self.spool._made.discard(str(final.parent))
            self.spool.make_series_folder(final.parent)
            os.link(self.path, final)

    def _sync(self, final: Path) -> None:
        if self.spool.durability is Durability.NONE:
            return
        try:
            os.fsync(self._fd)
            if self.spool.durability is Durability.FILE_AND_DIRECTORY:
                sync_folder(final.parent)
        except OSError:
            final.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Delete the part."""
        self.close()
        Path(self.path).unlink(missing_ok=True)

    def quarantine(self, sha256: str) -> Path:
        """Move the part to the quarantine, under its digest: equal bytes are kept once."""
        self.close()
        place = self.spool.quarantine / f"{sha256}.dcm"
        Path(self.path).replace(place)
        return place


def sync_folder(folder: Path) -> None:
    """Wait until the entries of ``folder`` are on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def dataset_digest(path: Path, *, sync: bool = False) -> str:
    """Return the SHA-256 of the dataset of a stored file, without preamble and file meta.

    ``sync`` waits until the file is on disk: its writer may not have come to that yet.
    """
    digest = hashlib.sha256()
    handle, _ = part10.open_dataset(path)
    with handle:
        if sync:
            os.fsync(handle.fileno())
        while piece := handle.read(COPY_BYTES):
            digest.update(piece)
    return digest.hexdigest()
