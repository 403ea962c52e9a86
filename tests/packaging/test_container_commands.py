"""The commands of the Dockerfile, without a container engine: wheel, clean environment, configured start."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.nightly
@pytest.mark.operate
@pytest.mark.timeout(1800)
def test_the_image_holds_a_daemon_that_reads_its_configuration(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    source = tmp_path / "source"
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.M):
        *names, target = line.split()
        for name in names:
            if target.startswith("."):
                source.mkdir(exist_ok=True)
                run("cp", "-r", ROOT / name, source)
    wheels = tmp_path / "wheels"
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--constraint", "constraints.txt")
    run(*build, "--wheel-dir", wheels, ".[cluster,dicomweb]", cwd=source)
    venv.create(tmp_path / "venv", with_pip=True)
    bin_folder = tmp_path / "venv" / "bin"
    run(
        bin_folder / "pip",
        "install",
        "--quiet",
        "--no-index",
        "--find-links",
        wheels,
        "voxtrial[cluster,dicomweb]",
    )
    installed = run(bin_folder / "pip", "list")
    assert not re.search(r"^(pytest|hypothesis|mypy|ruff) ", installed, re.M)
    assert run(bin_folder / "pip", "check").startswith("No broken requirements")
    checked = run(
        bin_folder / "voxtrial",
        "config",
        "check",
        "--config",
        ROOT / "deploy" / "voxtrial.toml",
        cwd=tmp_path,
    )
    assert "all keys and models are known" in checked
    assert "serve" in run(bin_folder / "voxtrial", "--help", cwd=tmp_path)
