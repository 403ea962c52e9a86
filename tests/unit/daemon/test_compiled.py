"""The cache of machine code saves time and can only cost time."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from voxtrial.daemon.compiled import in_slabs

KERNEL = """
import sys
import numpy as np
from voxtrial.daemon.compiled import compiled

@compiled
def total(values):
    result = 0.0
    for v in values:
        result += v
    return result

assert total(np.arange(5.0)) == 10.0
print(len(total.stats.cache_hits))
"""


def run(folder: Path, **environment: str) -> int:
    """Run the kernel in a fresh interpreter; return how many signatures came from the cache."""
    module = folder / "kernel.py"
    if not module.exists():
        module.write_text(KERNEL, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(module)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


def test_second_process_finds_the_machine_code(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    assert run(tmp_path) == 1


def test_damaged_cache_is_compiled_again(tmp_path: Path) -> None:
    run(tmp_path)
    files = list((tmp_path / "cache").rglob("*.nb?"))
    assert len(files) == 2
    for path in files:
        path.write_bytes(path.read_bytes()[:40])
    assert run(tmp_path) == 0


def test_without_any_writable_folder_kernels_still_run(tmp_path: Path) -> None:
    """The only folder offered is a file."""
    (tmp_path / "cache").write_text("not a folder", encoding="utf-8")
    assert run(tmp_path, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator") == 0


def test_many_first_starts_at_once_share_one_cache(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL, encoding="utf-8")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, [tmp_path] * 4))
    assert run(tmp_path) == 1


def test_recipes_are_read_without_loading_compiler_or_scipy() -> None:
    code = (
        "import sys, voxtrial.daemon.harmonize.recipe as r; "
        "r.Recipe.from_steps([{'step': 'resample'}]).digest; "
        "print([m for m in ('numba', 'scipy', 'torch', 'SimpleITK', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("length", "threads"), [(0, 1), (1, 4), (7, 3), (100, 2)])
def test_slabs_cover_every_item_once(length: int, threads: int) -> None:
    seen: list[int] = []
    in_slabs(lambda a, b: seen.extend(range(a, b)), length, threads=threads)
    assert sorted(seen) == list(range(length))


def test_error_in_one_slab_reaches_the_caller() -> None:
    def fail(begin: int, end: int) -> None:
        if end == 10:
            raise ArithmeticError(begin)

    with pytest.raises(ArithmeticError):
        in_slabs(fail, 10, threads=2)
