"""What the documentation says is what the code does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from voxtrial.daemon.settings import Settings, load
from voxtrial.db.engine import connect
from voxtrial.db.migrate import upgrade

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location(
    "reference_pages", Path(__file__).with_name("reference_pages.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
reference_pages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference_pages)


@pytest.mark.parametrize("page", sorted(reference_pages.PAGES))
def test_reference_page_is_the_one_that_the_code_writes(page: str) -> None:
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == reference_pages.PAGES[page](), "run: make docs"


def test_the_sample_configuration_loads_and_names_every_key() -> None:
    sample = ROOT / "deploy" / "voxtrial.toml"
    assert load(sample).destinations[0].name == "pacs"
    text = sample.read_text(encoding="utf-8")
    missing = [key for key in _keys(Settings) if not re.search(rf"\b{key}\b", text)]
    assert missing == []


def test_the_configuration_of_the_compose_file_loads() -> None:
    assert load(ROOT / "deploy" / "compose.toml").routes[0].model == "nodule-phantom"


def _keys(model: type[BaseModel]) -> list[str]:
    found = []
    for key, field in model.model_fields.items():
        section = reference_pages._section_of(field.annotation)
        found += [key] if section is None else [key, *_keys(section)]
    return found


def _links(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [t for t in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in t]


@pytest.mark.parametrize(
    "page",
    [
        p
        for p in ROOT.rglob("*.md")
        if not {".venv", "build", "node_modules"} & set(p.relative_to(ROOT).parts)
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    assert [link for link in _links(page) if not (page.parent / link).exists()] == []


def test_every_change_fragment_is_short() -> None:
    long = {p.name: len(p.read_text().splitlines()) for p in (ROOT / "changes").glob("*.md")}
    assert {name: n for name, n in long.items() if n > 12} == {}


def test_compose_mounts_only_files_that_exist() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    mounts = re.findall(r"- \./([\w./-]+):", text)
    assert mounts
    assert [m for m in mounts if not (ROOT / "deploy" / m).exists()] == []


def test_the_probe_of_compose_asks_as_its_daemon_runs(tmp_path: Path) -> None:
    """The command of the health check in a shell, with files of the test in place of the container's."""
    service = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))["services"][
        "voxtrial"
    ]
    kind, probe = service["healthcheck"]["test"]
    (start,) = service["command"]
    assert kind == "CMD-SHELL"
    assert probe.replace(" voxtrial health ", " exec voxtrial serve ") == start

    (tmp_path / "site").mkdir()
    upgrade(connect(f"sqlite:///{tmp_path}/site/voxtrial.db"))
    (tmp_path / "password").write_text("secret")
    configuration = tmp_path / "voxtrial.toml"
    configuration.write_text(f'[site]\ndata = "{tmp_path}/site"\n[listener]\nwatermark_mib = 0\n')
    here = probe.replace("$$", "$").replace("/run/secrets/postgres_password", str(tmp_path / "password"))
    here = here.replace("/etc/voxtrial/voxtrial.toml", str(configuration))
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}

    def status() -> int:
        return subprocess.run(["/bin/sh", "-c", here], env=environment, check=False).returncode

    assert status() == 0
    configuration.write_text(f'[site]\ndata = "{tmp_path}/site"\n[listener]\nwatermark_mib = 1000000000\n')
    assert status() == 1


def test_dockerfile_copies_only_what_exists() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [s for line in re.findall(r"^COPY (.+)$", text, re.M) for s in line.split()[:-1]]
    assert [s for s in copied if not (ROOT / s).exists()] == []
    assert "USER voxtrial" in text


def test_the_pins_cover_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    names = {re.split(r"[\[<>=! ]", d)[0].lower().replace("_", "-") for d in wanted}
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in pins if "==" in line}
    assert names - pinned == set()
