"""Published MeshNet weights give the logits and labels that an independent forward gave."""

from __future__ import annotations

import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from voxtrial.daemon.dicom import pixels
from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.inference.predict import predict
from voxtrial.daemon.models import architectures
from voxtrial.daemon.models.meshnet_import import convert
from voxtrial.daemon.models.store import ModelStore, StoredModel
from voxtrial.daemon.volume import Affine, Volume

pytestmark = pytest.mark.shared_data

NAMES = ("model5_gw_ae", "model20chan3cls", "model18cls", "mindgrab")
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def added(shared_data: Path, folder: Path, name: str) -> StoredModel:
    converted = folder / "converted"
    converted.mkdir()
    convert(shared_data / "models" / name, converted)
    return ModelStore(folder / "store").add(converted)


def read(path: Path) -> tuple[np.ndarray, Affine]:
    """Return a NIfTI's array in its own index order and its affine to LPS."""
    stored = nibabel.load(path)
    return np.asarray(stored.dataobj), RAS_TO_LPS @ stored.affine


def dice(a: np.ndarray, b: np.ndarray, label: int) -> float:
    return 2 * float(((a == label) & (b == label)).sum()) / float((a == label).sum() + (b == label).sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slab", [24, 5])
def test_logits_of_the_golden_patch(shared_data: Path, tmp_path: Path, name: str, slab: int) -> None:
    golden = load_file(shared_data / "models" / name / "golden_24cube.safetensors")
    network = architectures.load(added(shared_data, tmp_path, name))
    with torch.inference_mode():
        logits = network.by_layers(golden["input"], slab=slab)
    assert float((logits - golden["logits"]).abs().max()) <= 1e-4


def test_labels_are_coded_and_white_matter_is_one(shared_data: Path, tmp_path: Path) -> None:
    outputs = added(shared_data, tmp_path, "model5_gw_ae").manifest.outputs
    assert [(o.index, o.type.value) for o in outputs] == [(1, "389080008"), (2, "389081007")]


def test_weights_that_are_not_those_described_are_refused(shared_data: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    copy.mkdir()
    out.mkdir()
    for path in (shared_data / "models" / "model5_gw_ae").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "model5_gw_ae.safetensors").write_bytes(b"other")
    with pytest.raises(Misconfigured, match="SHA-256"):
        convert(copy, out)


@pytest.mark.nightly
@pytest.mark.learn
@pytest.mark.timeout(1800)
def test_brain_from_dicom_gets_the_labels_of_an_independent_forward(
    shared_data: Path, tmp_path: Path
) -> None:
    """384 DICOM slices, conformed by the recipe, against plain torch on the NIfTI that others conformed."""
    with tarfile.open(shared_data / "brain" / "t1_dicom_384_native.tar.xz", "r:xz") as archive:
        archive.extractall(tmp_path, filter="data")
    model = added(shared_data, tmp_path, "model5_gw_ae")
    (wanted,) = model.manifest.inputs
    conformed = wanted.harmonization.apply(pixels.read_folder(tmp_path / "dicoms")).volume
    reference, affine = read(shared_data / "brain" / "t1_dicom_conformed_LIA_256_uint8.nii.gz")
    assert np.abs(conformed.affine - affine).max() < 1e-4
    assert (np.abs(conformed.array * 255 - reference) > 1).mean() < 1e-3
    labels = predict(model, {"t1": conformed}).labels()
    expected = independent_labels(shared_data, reference / 255.0)
    assert min(dice(labels, expected, label) for label in (1, 2)) > 0.97


def independent_labels(shared_data: Path, image: np.ndarray) -> np.ndarray:
    """Return model5_gw_ae's labels by nothing but functional calls over the published tensors."""
    tensors = load_file(shared_data / "models" / "model5_gw_ae" / "model5_gw_ae.safetensors")
    features = torch.from_numpy(image.astype(np.float32))[None, None]
    with torch.inference_mode():
        for number, dilation in enumerate((1, 2, 4, 8, 16, 8, 4, 2, 1)):
            features = torch.conv3d(
                features,
                tensors[f"conv{number}.weight"],
                tensors[f"conv{number}.bias"],
                padding=dilation,
                dilation=dilation,
            ).relu_()
        features = torch.conv3d(features, tensors["conv9.weight"], tensors["conv9.bias"])
    return features[0].argmax(dim=0).numpy()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(n, marks=[pytest.mark.nightly, pytest.mark.learn]) for n in NAMES[1:])]
)
def test_brainchop_head_gets_the_expected_labels(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Dice > 0.99 with the labels beside the models: full cube for the small one, upstream's crop else."""
    model = added(shared_data, tmp_path, name)
    array, affine = read(shared_data / "brain" / "brainchop_t1" / "t1_crop.nii.gz")
    scaled = Volume(array=array.astype(np.float32), affine=affine)
    normalise = Recipe.from_steps(model.manifest.inputs[0].recipe[2:])  # the head is conformed already
    scaled = normalise.apply(scaled).volume
    kind = "full256" if name == "model5_gw_ae" else "crop"
    expected, _ = read(shared_data / "models" / "expected_labels" / f"t1_crop__{name}__{kind}.nii.gz")
    box = tuple(slice(0, n) for n in expected.shape)
    if kind == "crop":
        box = upstream_crop(shared_data, name, scaled.array)
        scaled = scaled.with_array(np.ascontiguousarray(scaled.array[box]))
    labels = np.zeros(expected.shape, np.uint8)
    labels[box] = predict(model, {"t1": scaled}).labels()
    found = [dice(labels, expected, label) for label in range(1, int(expected.max()) + 1)]
    assert min(found) > 0.99


def upstream_crop(shared_data: Path, name: str, image: np.ndarray) -> tuple[slice, ...]:
    """Return the box that the expected labels were computed in: normalised value > threshold, and padding."""
    import json

    text = (shared_data / "models" / name / f"{name}.json").read_text()
    options = json.loads(text)["upstream_runtime_options"]
    above = np.argwhere(image > options["autoThreshold"] * image.max())
    pad = options["cropPadding"]
    low = np.maximum(above.min(axis=0) - pad, 0)
    high = np.minimum(above.max(axis=0) + pad + 1, image.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
