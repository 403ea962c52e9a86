"""Parts arrive on disk byte for byte, whatever their size and whatever the file system can."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxtrial.daemon.network.spool import BLOCK_BYTES, BUFFER_BYTES, Durability, Part, Spool

SIZES = (
    0,
    1,
    BLOCK_BYTES - 1,
    BLOCK_BYTES,
    BLOCK_BYTES + 1,
    BUFFER_BYTES - 1,
    BUFFER_BYTES,
    2 * BUFFER_BYTES + 5,
)


def stored(spool: Spool, data: bytes, piece: int) -> bytes:
    """Write ``data`` in pieces and return what the file holds."""
    part = spool.begin()
    for at in range(0, len(data), piece):
        part.write(data[at : at + piece])
    final = spool.root / "study" / "series" / f"{len(list(spool.root.rglob('*.dcm')))}.dcm"
    part.keep(str(final))
    assert list(spool.incoming.iterdir()) == []
    return final.read_bytes()


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("size", SIZES)
def test_the_file_holds_what_was_written(tmp_path: Path, durability: Durability, size: int) -> None:
    spool = Spool(tmp_path, durability)
    data = random.Random(size).randbytes(size)
    assert stored(spool, data, 100_003) == data


def test_a_piece_longer_than_the_buffer_is_written_whole(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3 * BUFFER_BYTES + 1)
    assert stored(Spool(tmp_path), data, len(data)) == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    st.lists(
        st.tuples(st.booleans(), st.one_of(st.integers(0, 5_000), st.integers(0, BUFFER_BYTES + 9))),
        max_size=9,
    ),
    st.binary(max_size=400),
)
def test_pieces_that_lie_in_their_place_and_others_make_one_file(
    tmp_path: Path, pieces: list[tuple[bool, int]], prefix: bytes
) -> None:
    spool = Spool(tmp_path, Durability.NONE)
    part, expected = spool.begin(prefix), b""
    for in_place, size in pieces:
        data: bytes | memoryview = random.Random(size).randbytes(size)
        place = part.place(size) if in_place else memoryview(b"")
        if place:  # less than asked for where the buffer ends
            place[:] = data = data[: len(place)]
        part.write(place or data)
        expected += data
    sha256 = part.digest()
    final = spool.root / "study" / "series" / f"{len(list(spool.root.rglob('*.dcm')))}.dcm"
    part.keep(str(final))
    assert final.read_bytes() == prefix + expected
    assert sha256 == hashlib.sha256(expected).hexdigest()


def test_a_buffer_that_is_used_again_leaves_nothing_of_the_last_object(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert stored(spool, b"A" * 10_000, 4096) == b"A" * 10_000
    assert stored(spool, b"B" * 100, 4096) == b"B" * 100


def test_what_is_awaited_goes_past_the_page_cache(tmp_path: Path) -> None:
    """ext4 and XFS can; a file system that cannot opens the part in the ordinary way."""
    part = Spool(tmp_path).begin()
    direct = fcntl.fcntl(part._fd, fcntl.F_GETFL) & os.O_DIRECT
    part.discard()
    try:
        probe = os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    except OSError:
        assert not direct
    else:
        os.close(probe)
        assert direct


def test_a_file_system_that_refuses_direct_files_gets_ordinary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777, **options: int) -> int:
        descriptor = real_open(path, flags & ~os.O_DIRECT, mode, **options)
        if flags & os.O_DIRECT:  # tmpfs did it this way: the file is there, and the call fails
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return descriptor

    monkeypatch.setattr(os, "open", refuse)
    data = random.Random(2).randbytes(BUFFER_BYTES + 77)
    assert stored(Spool(tmp_path), data, 65_536) == data


def test_a_file_system_that_refuses_direct_writes_gets_ordinary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write

    def refuse(descriptor: int, data: bytes | memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", refuse)
    data = random.Random(3).randbytes(BUFFER_BYTES + 77)
    assert stored(Spool(tmp_path), data, 65_536) == data


def test_short_writes_are_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, bytes(data[:5000])))
    data = random.Random(4).randbytes(50_000)
    assert stored(Spool(tmp_path, Durability.NONE), data, 7_000) == data


def test_parts_at_the_same_time_have_buffers_of_their_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    parts: list[tuple[Part, bytes]] = [(spool.begin(), bytes([n]) * 5000) for n in range(40)]
    for part, data in parts:
        part.write(data)
    for number, (part, data) in enumerate(parts):
        final = spool.root / "study" / "series" / f"{number}.dcm"
        part.keep(str(final))
        assert final.read_bytes() == data
