"""A store gives back the model that was locked, or says which ones it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.errors import Fatal, Misconfigured
from voxtrial.daemon.models.manifest import MANIFEST_NAME
from voxtrial.daemon.models.store import BUILTIN, ModelStore


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Folder of a model with a weights file."""
    folder = tmp_path / "network"
    folder.mkdir()
    text = (BUILTIN / "otsu" / MANIFEST_NAME).read_text()
    text = text.replace('name = "otsu"', 'name = "mine"').replace(
        'activation = "none"', 'activation = "none"\nweights = "w.safetensors"'
    )
    (folder / MANIFEST_NAME).write_text(text)
    save_file({"a": np.arange(4.0)}, folder / "w.safetensors")
    return folder


def test_builtin_models_are_in_every_store(tmp_path: Path) -> None:
    names = {model.manifest.identity.name for model in ModelStore(tmp_path / "empty").list()}
    assert {"nodule-phantom", "otsu", "threshold"} <= names


def test_added_model_is_found_by_name_version_and_digest(tmp_path: Path, network: Path) -> None:
    store = ModelStore(tmp_path / "store")
    added = store.add(network)
    for name in ("mine", "mine@1.0.0", added.digest, added.digest[:8]):
        assert store.get(name).digest == added.digest
    assert store.add(network).folder == added.folder
    assert [path.name for path in store.root.iterdir()] == [added.digest]


def test_weights_are_part_of_the_digest(tmp_path: Path, network: Path) -> None:
    store = ModelStore(tmp_path / "store")
    first = store.add(network)
    save_file({"a": np.arange(4.0) + 1}, network / "w.safetensors")
    assert store.add(network).digest != first.digest
    with pytest.raises(Misconfigured, match=f"Several models.*{first.digest[:12]}"):
        store.get("mine")


def test_changed_weights_are_fatal(tmp_path: Path, network: Path) -> None:
    store = ModelStore(tmp_path / "store")
    added = store.add(network)
    weights = added.folder / "w.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Fatal, match="changed on disk"):
        store.get("mine")


def test_unknown_name_comes_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nearest: nodule-phantom"):
        ModelStore(tmp_path).get("nodul-fantom")


def test_missing_weights_are_named(tmp_path: Path, network: Path) -> None:
    (network / "w.safetensors").unlink()
    with pytest.raises(Misconfigured, match=r"w\.safetensors"):
        ModelStore(tmp_path / "store").add(network)


def test_interrupted_copy_leaves_no_model(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "store")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        store.add(network)
    assert list(store.root.iterdir()) == []


def test_command_line_adds_lists_and_verifies(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOXTRIAL_SITE__DATA", str(tmp_path / "data"))
    run = CliRunner()
    added = json.loads(run.invoke(app, ["models", "add", str(network), "--json"]).stdout)
    listed = json.loads(run.invoke(app, ["models", "list", "--json"]).stdout)
    assert added["digest"] in [one["digest"] for one in listed]
    shown = json.loads(run.invoke(app, ["models", "show", "mine", "--json"]).stdout)
    assert shown["manifest"]["engine"]["weights"] == "w.safetensors"
    assert run.invoke(app, ["models", "verify"]).exit_code == 0
    stored = Path(added["folder"]) / MANIFEST_NAME
    stored.chmod(0o644)
    stored.write_text(stored.read_text().replace("512", "256"))
    broken = run.invoke(app, ["models", "verify", "--json"])
    assert broken.exit_code == 1
    assert [one["problem"] != "" for one in json.loads(broken.stdout)].count(True) == 1
