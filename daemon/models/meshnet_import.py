"""Take over a MeshNet that is described by JSON beside a safetensors file, and make it one of our models.

The JSON lists every layer, the grid and normalisation of the input, and the labels. The labels get their
SNOMED codes here, and the input its recipe: conform to the cube, scale to 8 bit, normalise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.models.digest import file_sha256
from voxtrial.daemon.models.manifest import MANIFEST_NAME, Code
from voxtrial.daemon.models.toml import inline, lines

ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
BRAIN = Code("12738006", "SCT", "Brain")

CONCEPTS: dict[str, tuple[Code, Code]] = {
    "white matter": (TISSUE, Code("389080008", "SCT", "White Matter")),
    "grey matter": (TISSUE, Code("389081007", "SCT", "Gray Matter")),
    "brain mask": (ANATOMICAL_STRUCTURE, BRAIN),
    **{
        name: (ANATOMICAL_STRUCTURE, Code(value, "SCT", meaning))
        for name, value, meaning in (
            ("cerebral-white-matter", "68523003", "Cerebral White Matter"),
            ("cerebral-cortex", "40146001", "Cerebral Cortex"),
            ("lateral-ventricle", "66720007", "Lateral Ventricle"),
            ("inferior-lateral-ventricle", "53118009", "Inferior Horn of Lateral Ventricle"),
            ("cerebellum-white-matter", "33060004", "Cerebellar White Matter"),
            ("cerebellum-cortex", "25991003", "Cerebellar Cortex"),
            ("thalamus", "42695009", "Thalamus"),
            ("caudate", "11000004", "Caudate Nucleus"),
            ("putamen", "89278009", "Putamen"),
            ("pallidum", "14738005", "Globus Pallidus"),
            ("3rd-ventricle", "49841001", "Third Ventricle"),
            ("4th-ventricle", "35918002", "Fourth Ventricle"),
            ("brain-stem", "119238007", "Brain Stem"),
            ("hippocampus", "5366008", "Hippocampus"),
            ("amygdala", "4958002", "Amygdala"),
            ("accumbens-area", "427667007", "Nucleus Accumbens"),
            ("ventraldc", "87563008", "Diencephalon"),
        )
    },
}
"""Segmented property category and type of each label name, in lower case."""

NORMALISATION: dict[str, dict[str, Any]] = {
    "minmax": {"step": "minmax", "to": [0.0, 1.0]},
    "quantile_0.05_0.95": {"step": "percentile", "low": 5.0, "high": 95.0, "to": [0.0, 1.0], "clip": False},
}
WEIGHTS = "weights.safetensors"


def convert(folder: Path, out: Path) -> None:
    """Write ``model.toml`` and the weights of the MeshNet in ``folder`` into the existing folder ``out``.

    Raises
    ------
    Misconfigured
        Not exactly one description, weights that are missing or not those that it names, or a layer, label or
        normalisation that we do not know.
    """
    description = _description(folder)
    source = folder / str(description["weights_file"])
    if not source.is_file():
        raise Misconfigured(f"{folder}: the weights {source.name} that the description names are missing")
    if (found := file_sha256(source)) != description["weights_sha256"]:
        raise Misconfigured(f"{source} has SHA-256 {found[:12]}; the description names another")
    shutil.copyfile(source, out / WEIGHTS)
    (out / MANIFEST_NAME).write_text(_manifest(description), "utf-8")


def _description(folder: Path) -> dict[str, Any]:
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        if isinstance(content, dict) and "architecture" in content and "weights_file" in content:
            found.append(content)
    if len(found) != 1:
        raise Misconfigured(f"{folder} must hold one JSON description of a MeshNet, found {len(found)}")
    return dict(found[0])


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    """Return one layer in our words; anything that would change the answer must be known."""
    norm = str(layer["norm"] or "none")
    reach = layer["kernel_size"] // 2 * layer["dilation"]
    if layer["stride"] != 1 or layer["padding_mode"] != "zeros" or layer["padding"] != reach:
        raise Misconfigured(f"MeshNet layer {layer['index']}: only stride 1 and zero padding are known")
    if norm != "none" and not norm.startswith("instance_norm(affine=False, eps=1e-5"):
        raise Misconfigured(f"MeshNet layer {layer['index']}: norm {norm} is not known")
    return {
        "inputs": layer["in_channels"],
        "outputs": layer["out_channels"],
        "kernel": layer["kernel_size"],
        "dilation": layer["dilation"],
        "bias": layer["bias"],
        "norm": "none" if norm == "none" else "instance",
        "activation": layer["activation"] or "none",
    }


def _recipe(image: dict[str, Any]) -> list[dict[str, Any]]:
    normalisation = NORMALISATION.get(image["normalisation"])
    if normalisation is None:
        raise Misconfigured(f"MeshNet normalisation {image['normalisation']} is not known")
    conform = {"step": "conform", "shape": image["size"], "spacing_mm": image["spacing_mm"]}
    return [
        {**conform, "axes": image["orientation"], "centre": "volume", "interpolator": "linear"},
        {
            "step": "percentile",
            "low": 0.0,
            "high": 99.9,
            "region": "nonzero",
            "to": [0.0, 255.0],
            "integer": True,
        },
        normalisation,
    ]


def _output(index: int, name: str) -> str:
    if name.lower() not in CONCEPTS:
        raise Misconfigured(f"MeshNet label {name} has no code here; known are {', '.join(CONCEPTS)}")
    category, kind = CONCEPTS[name.lower()]
    hue = (index * 0.381966) % 1.0  # golden angle: neighbours differ
    rgb = [round(255 * (0.55 + 0.45 * _wave(hue + shift))) for shift in (0.0, 1 / 3, 2 / 3)]
    return f"""
[[outputs]]
index = {index}
name = "{name.lower().replace(" ", "-")}"
label = "{name.replace("-", " ")}"
category = {inline(category)}
type = {inline(kind)}
site = {inline(BRAIN)}
rgb = {rgb}
"""


def _wave(turn: float) -> float:
    """Return a triangle wave of period 1 between -1 and 1."""
    return abs((turn % 1.0) * 4 - 2) - 1


def _manifest(description: dict[str, Any]) -> str:
    layers = [_layer(layer) for layer in description["architecture"]["layers"]]
    labels = sorted((int(index), name) for index, name in description["output"]["labels"].items())
    outputs = "".join(_output(index, name) for index, name in labels if index > 0)
    seen = 1 + 2 * sum(layer["kernel"] // 2 * layer["dilation"] for layer in layers)
    whole = any(layer["norm"] == "instance" for layer in layers)
    field = "" if whole else f"receptive_field = [{seen}, {seen}, {seen}]\n"
    spacing = [float(s) for s in description["input"]["spacing_mm"]]
    source = description["source"]
    return f"""# Taken over from {source["repository"]} {source["path"]} at {source["commit"]}.

[identity]
name = "{description["name"].lower()}"
version = "1.0.0"
description = {inline(description["description"][:64])}
intended_use = {inline(description["intended_use"])}
licence = {inline(description["licence"])}
manufacturer = {inline(source["repository"])}
family = ["123110", "DCM", "Artificial Intelligence"]

[[inputs]]
role = "t1"
selector = {{ modality = "MR", minimum_slices = 20, prefer = "most_slices" }}
recipe = [
{lines(_recipe(description["input"]))}
]

[engine]
architecture = "meshnet"
activation = "softmax"
precision = "float32"
weights = "{WEIGHTS}"

[engine.parameters]
layers = [
{lines(layers)}
]

[tiling]
mode = "layers"
slab = 32
{outputs}
[findings]
rule = "label"

[training]
data = {inline(description["intended_use"])}
spacing_mm = {spacing}
{field}"""
