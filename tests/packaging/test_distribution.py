"""The wheel holds every file of the packages, and nothing of the tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the files that git knows, so that no build folder stays behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked("daemon", "validation", "db", "pyproject.toml", "README.md", "LICENSE"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def tracked(*paths: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.split()


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("voxtrial/")}
    expected = {f"voxtrial/{name}" for name in tracked("daemon", "validation", "db")}
    assert expected - inside == set(), "list the folder in pyproject.toml: packages and package-data"
    assert inside - expected == set()


def test_the_top_level_has_only_our_namespace(wheel: Path) -> None:
    tops = {n.split("/")[0] for n in zipfile.ZipFile(wheel).namelist()}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"voxtrial"}


def test_validation_and_db_import_without_torch_and_dicom() -> None:
    code = """
import importlib, importlib.abc, pkgutil, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "SimpleITK", "pydicom", "pynetdicom", "highdicom"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import voxtrial.db
import voxtrial.validation

for package in (voxtrial.validation, voxtrial.db):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
