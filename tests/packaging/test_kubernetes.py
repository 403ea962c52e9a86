"""The Kubernetes manifests agree with each other, with the commands, and with the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from voxtrial.daemon.cli import app
from voxtrial.daemon.settings import load

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def manifests() -> list[dict[str, Any]]:
    return [
        document
        for name in KUSTOMIZATION["resources"]
        for document in yaml.safe_load_all((FOLDER / name).read_text())
        if document
    ]


def pods() -> dict[str, dict[str, Any]]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests()
        if one["kind"] in ("Deployment", "StatefulSet", "Job")
    }


def test_every_manifest_is_listed() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


def test_configuration_is_valid_and_names_the_services_that_exist() -> None:
    settings = load(FOLDER / "voxtrial.toml")
    services = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "Service"}
    scheduler, port = settings.compute.cluster.removeprefix("tcp://").split(":")
    assert services[scheduler]["ports"] == [{"port": int(port)}]
    assert services["listener"]["ports"] == [{"port": settings.listener.port}]


@pytest.mark.parametrize("name", ["upgrade", "listener", "duties", "worker"])
def test_commands_exist(name: str) -> None:
    arguments = pods()[name]["containers"][0]["args"]
    command = arguments[: arguments.index("--config")]
    assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0


def test_volumes_mounted_are_volumes_declared() -> None:
    claims = {one["metadata"]["name"] for one in manifests() if one["kind"] == "PersistentVolumeClaim"}
    for name, pod in pods().items():
        declared = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= declared | {"state"}, name
        for volume in pod.get("volumes", []):
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in claims
