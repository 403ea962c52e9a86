"""How fast instances are received: Voxtrial against storescp, Orthanc and stock pynetdicom, in the same run.

The sender is always DCMTK's storescu with ``TCP_NODELAY=1`` on both sides, but for the rows that measure
senders with Nagle's algorithm. Receivers take turns within each round. Voxtrial and Orthanc (default) wait
for the disk before they answer, storescp and stock pynetdicom never do. Voxtrial hashes every object and
commits its row; so does the floor, a program in C that does nothing else and shows what these duties cost in
any language (where there is a C compiler).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import peers
import phantoms
from ingest_peers import Receiver, build_floor, floor, orthanc, stock_pynetdicom, storescp, voxtrial
from pydicom.filereader import dcmread
from pydicom.uid import (
    EnhancedCTImageStorage,
    MRImageStorage,
    generate_uid,
)
from reporting import Bench
from wire import Wire

TITLE = "VOXTRIAL"


def send(receiver: Receiver, batches: Sequence[Sequence[Path]], environment: dict[str, str]) -> float:
    """Send each batch with a storescu of its own, all at once; return the seconds until the last ended."""
    commands = [
        [
            *(str(peers.DCMTK / "storescu"), "-xe", "-aec", TITLE, "127.0.0.1", str(receiver.port)),
            *map(str, batch),
        ]
        for batch in batches
    ]
    os.sync()  # what an earlier receiver left unwritten must not be paid for by this one's fsync
    begin = time.perf_counter()
    running = [
        subprocess.Popen(
            c, env={"PATH": "/usr/bin", **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for c in commands
    ]
    for process in running:
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(
                f"{receiver.name}: {process.returncode} {said.decode(errors='replace')[-500:]}"
            )
    return time.perf_counter() - begin


@dataclass
class Corpus:
    """Instances of fresh UIDs; every run gets its own, since a known object is cheaper to receive."""

    template: bytes
    uid: bytes
    folder: Path
    count: int = 0

    @classmethod
    def of(cls, path: Path, folder: Path) -> Corpus:
        return cls(
            path.read_bytes(), str(dcmread(path, stop_before_pixels=True).SOPInstanceUID).encode(), folder
        )

    def take(self, count: int) -> list[Path]:
        """Return ``count`` new files that differ in their SOP Instance UID only."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        files = []
        for _ in range(count):
            self.count += 1
            new = b"%s%09d" % (self.uid[:-9], self.count)  # unlike any other corpus
            path = self.folder / f"{self.count}.dcm"
            path.write_bytes(self.template.replace(self.uid, new))
            files.append(path)
        return files


def split(files: Sequence[Path], parts: int) -> list[list[Path]]:
    return [list(files[n::parts]) for n in range(parts)]


@dataclass
class Measured:
    seconds: list[float]
    cpu: list[float]


def contest(
    receivers: Sequence[Receiver],
    corpus: Corpus,
    *,
    instances: int,
    senders: int,
    rounds: int,
    environment: dict[str, str] = peers.NO_NAGLE,
) -> dict[str, Measured]:
    """Let every receiver take the same load once a round; seconds and CPU seconds per instance."""
    measured = {r.name: Measured([], []) for r in receivers}
    for number in range(rounds + 1):
        for receiver in receivers:
            batches = split(corpus.take(instances if number else max(senders, 8)), senders)
            before = receiver.cpu_seconds()
            seconds = send(receiver, batches, environment)
            if number:  # the first round warms up
                measured[receiver.name].seconds.append(seconds / instances)
                measured[receiver.name].cpu.append((receiver.cpu_seconds() - before) / instances)
    return measured


def ratio(measured: dict[str, Measured], ours: str, theirs: str, what: str = "seconds") -> float:
    """Median of the ratios of single rounds: noise that lasts longer than a round cancels."""
    pairs = zip(getattr(measured[ours], what), getattr(measured[theirs], what), strict=True)
    return statistics.median(a / b for a, b in pairs)


def row(
    bench: Bench,
    name: str,
    measured: dict[str, Measured],
    peer: str,
    target: float | None,
    of: str = "voxtrial",
) -> None:
    bench.add(
        name,
        statistics.median(measured[of].seconds) * 1000,
        "ms/instance",
        peer=peer,
        peer_value=statistics.median(measured[peer].seconds) * 1000,
        target=target,
        ratio=ratio(measured, of, peer),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--instances", type=int, default=200)
    arguments.add_argument("--folder", type=Path, help="Where receivers write; default: the system's.")
    options = arguments.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=options.folder))
    spread(root)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    outgoing = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=memory))
    try:
        measure(root, outgoing, options.rounds, options.instances)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)


def spread(root: Path) -> None:
    """Let ext4 place each receiver's folder in another part of the disk, where nothing was deleted lately.

    Without a journal ext4 steps over every inode that was freed in the last minutes, one by one: after a test
    run this took a fifth of the machine's time, from whoever creates files there.
    """
    subprocess.run(["chattr", "+T", root], check=False, capture_output=True)


def measure(root: Path, outgoing: Path, rounds: int, instances: int) -> None:
    """Measure all rows; receivers write below ``root``, the senders' files lie in memory."""
    bench = Bench("ingest", ["pynetdicom", "pydicom", "sqlalchemy"])
    generator = np.random.default_rng(1)
    (ct_file,) = phantoms.ct_series(
        root / "ct", generator.integers(-1000, 1000, (1, 512, 512)).astype(np.int16)
    )
    (small,) = phantoms.ct_series(root / "mr", generator.integers(0, 1000, (1, 256, 256)).astype(np.int16))
    ds = dcmread(small)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.Modality = "MR"
    ds.save_as(small)
    ct, mr = Corpus.of(ct_file, outgoing / "ct"), Corpus.of(small, outgoing / "mr")

    with ExitStack() as stack:
        ours = stack.enter_context(voxtrial(root / "voxtrial"))
        plain = stack.enter_context(storescp(root / "storescp"))
        fork = stack.enter_context(storescp(root / "fork", "--fork"))
        fork.name = "storescp --fork"
        archive = stack.enter_context(orthanc(root / "orthanc"))
        stock = stack.enter_context(stock_pynetdicom(root / "stock"))
        undurable = stack.enter_context(voxtrial(root / "undurable", fsync="none"))
        undurable.name = "voxtrial, fsync none"
        program = build_floor(root / "program")
        lowest = [stack.enter_context(floor(program, root / "floor"))] if program else []
        everyone = [ours, undurable, plain, fork, *lowest, archive, stock]

        for senders in (1, 4, 8):
            load = contest(everyone, ct, instances=instances, senders=senders, rounds=rounds)
            label = f"CT 512 KiB, {senders} sender{'s' * (senders > 1)}"
            row(bench, label, load, "orthanc", 0.8 if senders == 1 else 0.6)
            row(bench, label, load, "storescp --fork", None if senders == 1 else 1.0)
            row(bench, label, load, "voxtrial, fsync none", None)
            row(bench, label, load, "storescp", None)
            row(bench, label, load, "pynetdicom", None)
            for receiver in lowest:
                row(bench, label, load, receiver.name, None)
                row(bench, f"{label}, the floor in C", load, fork.name, None, of=receiver.name)
            bench.add(
                f"{label}, receiver CPU",
                statistics.median(load["voxtrial"].cpu) * 1000,
                "ms/instance",
                peer="orthanc",
                peer_value=statistics.median(load["orthanc"].cpu) * 1000,
                target=0.5,
                ratio=ratio(load, "voxtrial", "orthanc", "cpu"),
            )
        load = contest([ours, archive, plain], mr, instances=instances, senders=1, rounds=rounds)
        row(bench, "MR 130 KiB, 1 sender", load, "orthanc", 1.0)
        row(bench, "MR 130 KiB, 1 sender", load, "storescp", None)

        many_associations(bench, ours, mr, 100)
        nagle(bench, root, ct, ours, rounds=3)
        echoes(bench, ours, stock)
    big_object(bench, root)
    bench.finish()


def many_associations(bench: Bench, ours: Receiver, corpus: Corpus, associations: int) -> None:
    """Associations at the same time, each of a storescu process; a sender that fails raises."""
    files = corpus.take(associations * 4)
    seconds = send(ours, split(files, associations), peers.NO_NAGLE)
    bench.add(f"{associations} associations at once, 4 MR each, failed senders", 0, "senders")
    bench.add(f"{associations} associations at once, 4 MR each", seconds, "s")
    bench.add(f"memory after {associations} associations, all processes", ours.resident_mib(), "MiB")


def nagle(bench: Bench, root: Path, corpus: Corpus, ours: Receiver, rounds: int) -> None:
    """Senders as the field has them: Nagle's algorithm on, at both ends of DCMTK's own pair."""
    with storescp(root / "nagle", environment={"PATH": "/usr/bin"}) as theirs:
        load = contest([ours, theirs], corpus, instances=50, senders=1, rounds=rounds, environment={})
    row(bench, "CT, sender with Nagle on", load, "storescp", 0.1)


def echoes(bench: Bench, ours: Receiver, stock: Receiver, count: int = 500) -> None:
    """C-ECHO inside an association, medians of single round trips."""

    def latency(receiver: Receiver) -> float:
        times = []
        with Wire(receiver.port).associate() as wire:
            for _ in range(count):
                begin = time.perf_counter()
                wire.echo()
                times.append(time.perf_counter() - begin)
            wire.release()
        return statistics.median(times)

    runs: dict[str, list[float]] = {"ours": [], "stock": []}
    for _ in range(3):
        runs["ours"].append(latency(ours))
        runs["stock"].append(latency(stock))
    bench.add(
        "C-ECHO inside an association",
        statistics.median(runs["ours"]) * 1000,
        "ms",
        peer="pynetdicom",
        peer_value=statistics.median(runs["stock"]) * 1000,
        target=0.4,
    )


def big_object(bench: Bench, root: Path, mebibytes: int = 100) -> None:
    """One multi-frame object of 100 MiB: time against storescp, and how much memory it leaves behind."""
    (path,) = phantoms.ct_series(root / "big", np.zeros((1, 512, 512), np.int16))
    ds = dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames = mebibytes * 2
    ds.PixelData = bytes(mebibytes << 20)
    files = []
    for number in range(3):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(root / f"big-{number}.dcm")
        files.append(root / f"big-{number}.dcm")
    with voxtrial(root / "big-voxtrial", workers=1) as ours, storescp(root / "big-storescp") as theirs:
        send(ours, [[path]], peers.NO_NAGLE)
        before = ours.resident_mib()
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for file in files:
            times["ours"].append(send(ours, [[file]], peers.NO_NAGLE))
            times["theirs"].append(send(theirs, [[file]], peers.NO_NAGLE))
        grown = ours.resident_mib() - before
    bench.add(
        f"one object of {mebibytes} MiB",
        statistics.median(times["ours"]),
        "s",
        peer="storescp",
        peer_value=statistics.median(times["theirs"]),
    )
    bench.add(
        f"memory growth by objects of {mebibytes} MiB", grown, "MiB", target=1.0, ratio=max(grown, 0.0) / 16
    )


if __name__ == "__main__":
    main()
