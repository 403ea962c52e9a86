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
import mmap
import os
from enum import Enum
from pathlib import Path

from voxtrial.daemon.network import part10
from voxtrial.daemon.network.scan import Identity

COPY_BYTES = 1 << 20
BUFFER_BYTES = 1 << 20
"""A part is written in pieces of this size; all but multi-frame objects are one piece."""
KEPT_BUFFERS = 16
HASH_BYTES = 1 << 18
"""A part is hashed in pieces of about this size, which the processor's cache still holds."""
BLOCK_BYTES = 4096
"""Direct writes begin and end at multiples of this."""


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
        # Text, since building a Path takes time where every instance passes
        self._root, self._below = os.fspath(self.root), f"{data}/"
        self._parts = f"{self.incoming}/{os.getpid()}"
        self._numbers = itertools.count()
        self._made: set[str] = set()
        self._buffers: list[memoryview] = []
        for folder in (self.incoming, self.quarantine):
            folder.mkdir(parents=True, exist_ok=True)

    def begin(self, prefix: bytes = b"") -> Part:
        """Open a new part, which begins with ``prefix``.

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
            path = f"{self._parts}-{next(self._numbers)}.part"
            try:
                return Part(self, path, prefix)
            except FileExistsError:
                continue  # left by a process of the same number that was killed

    def take_buffer(self) -> memoryview:
        """Return a buffer of ``BUFFER_BYTES`` for one part; its pages are touched already, if it was used."""
        try:
            return self._buffers.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, BUFFER_BYTES))

    def give_buffer(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        if len(self._buffers) < KEPT_BUFFERS:
            self._buffers.append(buffer)

    def final_path(self, identity: Identity) -> str:
        """Return where the object of ``identity``, whose UIDs have been validated, lies."""
        return (
            f"{self._root}/{identity.study_instance_uid}/{identity.series_instance_uid}"
            f"/{identity.sop_instance_uid}.dcm"
        )

    def relative(self, path: str | Path) -> str:
        """Return ``path`` below the data folder, as rows keep it."""
        return os.fspath(path).removeprefix(self._below)

    def make_series_folder(self, folder: str) -> None:
        """Make the folder of a series; its name is durable when the durability says so."""
        if folder in self._made:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        if self.durability is Durability.FILE_AND_DIRECTORY:
            for parent in (Path(folder).parent, self.root):
                sync_folder(parent)
        if len(self._made) > 4096:
            self._made.clear()
        self._made.add(folder)

    def forget_series_folder(self, folder: str) -> None:
        """Make the folder again when it is needed: somebody has removed it."""
        self._made.discard(folder)


class Part:
    """One object on its way to disk; nobody else may touch it while it is locked.

    What is awaited before the answer is written past the page cache: the copy into it takes more processor
    time than the rest of the way to the disk.
    """

    def __init__(self, spool: Spool, path: str, prefix: bytes) -> None:
        self.spool = spool
        self.path = path
        self._direct = spool.durability is not Durability.NONE
        self._fd = _create(path, direct=self._direct)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._buffer = spool.take_buffer()
        self._buffer[: len(prefix)] = prefix
        self._filled = self._hashed = len(prefix)
        self._digest = hashlib.sha256()
        self._is_placed = False

    def place(self, count: int) -> memoryview:
        """Return where up to ``count`` bytes are to lie that ``write`` takes next; empty: anywhere."""
        place = self._buffer[self._filled : self._filled + count]
        self._is_placed = bool(place)
        return place

    def write(self, data: bytes | memoryview) -> None:
        """Take ``data``; it goes to the disk with the piece that it belongs to.

        Raises
        ------
        OSError
            The disk is full or broken.
        """
        end = self._filled + len(data)
        if self._is_placed:
            self._is_placed = False
            self._take(end)
            return
        if end > BUFFER_BYTES:
            data = memoryview(data)
            while end > BUFFER_BYTES:
                room = BUFFER_BYTES - self._filled
                self._buffer[self._filled :] = data[:room]
                self._filled = BUFFER_BYTES
                self._write_out()
                data, end = data[room:], len(data) - room
        self._buffer[self._filled : end] = data
        self._take(end)

    def _take(self, end: int) -> None:
        self._filled = end
        if end - self._hashed >= HASH_BYTES:
            self._hash()

    def _hash(self) -> None:
        self._digest.update(self._buffer[self._hashed : self._filled])
        self._hashed = self._filled

    def _write_out(self) -> None:
        """Write the buffer: whole blocks past the cache, and the end of the last block through it."""
        self._hash()
        count = self._filled
        end = count - count % BLOCK_BYTES if self._direct else count
        self._write_all(self._buffer[:end])
        if end < count:
            self._go_through_cache()
            self._write_all(self._buffer[end:count])
        self._filled = self._hashed = 0

    def _write_all(self, data: memoryview) -> None:
        """Write ``data``; a short write is followed by another, so that the reason shows."""
        while data:
            try:
                written = os.write(self._fd, data)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._go_through_cache()  # this file system has other blocks
                continue
            if written == 0:
                raise DiskFull(errno.ENOSPC, "a write came back empty")
            if written % BLOCK_BYTES and self._direct:
                self._go_through_cache()
            data = data[written:]

    def _go_through_cache(self) -> None:
        fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)  # of the flags that can be changed we set no other
        self._direct = False

    def digest(self) -> str:
        """Return the SHA-256 of what came after the prefix."""
        self._hash()
        return self._digest.hexdigest()

    def _finish(self) -> None:
        if self._filled:
            self._write_out()

    def keep(self, final: str) -> None:
        """Give the part its final name and wait for the disk.

        Raises
        ------
        FileExistsError
            An object of that name exists; the part is still there.
        OSError
            The disk is full or broken; there is no file of the final name.
        """
        self._finish()
        try:
            self._link(final)
            self._sync(final)
        finally:
            self.close()
        os.unlink(self.path)  # noqa: PTH108 - on the path of every instance

    def _link(self, final: str) -> None:
        folder = os.path.dirname(final)  # noqa: PTH120 - see Spool
        self.spool.make_series_folder(folder)
        try:
            os.link(self.path, final)
        except FileNotFoundError:
            self.spool.forget_series_folder(folder)
            self.spool.make_series_folder(folder)
            os.link(self.path, final)

    def _sync(self, final: str) -> None:
        if self.spool.durability is Durability.NONE:
            return
        try:
            os.fsync(self._fd)
            if self.spool.durability is Durability.FILE_AND_DIRECTORY:
                sync_folder(Path(final).parent)
        except OSError:
            Path(final).unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Close the file, which also unlocks it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.spool.give_buffer(self._buffer)

    def discard(self) -> None:
        """Delete the part."""
        self.close()
        Path(self.path).unlink(missing_ok=True)

    def quarantine(self, sha256: str) -> Path:
        """Move the part to the quarantine, under its digest: equal bytes are kept once."""
        self._finish()
        self.close()
        place = self.spool.quarantine / f"{sha256}.dcm"
        Path(self.path).replace(place)
        return place


def _create(path: str, *, direct: bool) -> int:
    """Open a new file, past the page cache where the file system can."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    if not direct:
        return os.open(path, flags, 0o640)
    try:
        return os.open(path, flags | os.O_DIRECT, 0o640)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags & ~os.O_EXCL, 0o640)  # some file systems create it before they refuse


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
