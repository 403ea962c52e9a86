"""From a manifest and a safetensors file to a network that is ready to answer."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from voxtrial.daemon.errors import Fatal, Misconfigured
from voxtrial.daemon.models.manifest import Manifest
from voxtrial.daemon.models.meshnet import MeshNet
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.models.unet3d import UNet3d


class Network(Protocol):
    """What tiling and memory planning ask of an architecture."""

    @property
    def alignment(self) -> int:
        """Windows start at, and extents are, multiples of this."""

    @property
    def receptive_radius(self) -> int | None:
        """Voxels that an output voxel can see to each side; None when it sees the whole window."""

    @property
    def peak_channels(self) -> float:
        """Channels at full resolution that are alive together at the worst moment."""

    def __call__(self, image: Tensor) -> Tensor:
        """Image (1, inputs, z, y, x) to logits (1, channels, z, y, x)."""


def channels_out(manifest: Manifest) -> int:
    """Return how many channels the network of ``manifest`` answers with."""
    return len(manifest.outputs) + (manifest.engine.activation == "softmax")


def build(manifest: Manifest) -> nn.Module:
    """Return the network of ``manifest`` with random weights.

    Raises
    ------
    Misconfigured
        ``engine.parameters`` do not fit the architecture.
    """
    parameters: dict[str, Any] = manifest.engine.parameters
    try:
        match manifest.engine.architecture:
            case "unet3d":
                return UNet3d(**parameters, inputs=len(manifest.inputs), outputs=channels_out(manifest))
            case "meshnet":
                return MeshNet(**parameters)
            case other:
                raise Misconfigured(f"{manifest.title}: {other} is not a network")
    except (TypeError, KeyError) as error:
        raise Misconfigured(f"{manifest.title}: engine.parameters do not fit: {error}") from error


def load(model: StoredModel) -> nn.Module:
    """Return the network of ``model`` with its weights, in evaluation mode, without gradients.

    Raises
    ------
    Fatal
        The weights are no safetensors file, or not those of this architecture.
    """
    network = build(model.manifest)
    if model.weights is None:
        raise Fatal(f"{model.manifest.title} names no weights")
    try:
        tensors = load_file(model.weights)
        wanted = network.state_dict().keys()
        network.load_state_dict({name: tensor for name, tensor in tensors.items() if name in wanted})
    except (SafetensorError, OSError, RuntimeError) as error:
        raise Fatal(f"{model.manifest.title}: the weights cannot be loaded: {error}") from error
    network.eval().requires_grad_(False)
    if isinstance(network, UNet3d):
        network.fold_norms()
    return network


def as_network(module: nn.Module) -> Network:
    """Return ``module`` under the interface that tiling uses."""
    return cast(Network, module)


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
