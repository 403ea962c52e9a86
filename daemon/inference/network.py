"""Run a network over a volume the way its manifest says, within the memory that was planned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.inference import memory, tiles
from voxtrial.daemon.models import architectures
from voxtrial.daemon.models.manifest import Tiling
from voxtrial.daemon.models.meshnet import MeshNet
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.volume import Shape

Progress = Callable[[float], None]
Facts = dict[str, str | int | float]


def run(
    model: StoredModel,
    image: NDArray[np.float32],
    *,
    threads: int,
    memory_mib: float | None,
    progress: Progress | None,
) -> tuple[NDArray[np.float32], Facts]:
    """Return the probabilities (channels, z, y, x) of ``image`` (inputs, z, y, x), and how they were made."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # ten bits of mantissa are not the validated precision
    torch.backends.cudnn.deterministic = True
    manifest = model.manifest
    module = architectures.load(model)
    channels = architectures.channels_out(manifest)
    shape = image.shape[1:]
    whole = tiles.padded_shape(shape, architectures.as_network(module).alignment)
    margin = [(0, a - b) for a, b in zip(whole, shape, strict=True)]
    if any(after for _, after in margin):
        image = np.pad(image, [(0, 0), *margin], mode="edge")
    logits, facts = logits_of(
        module, image, channels, manifest.tiling, memory_mib=memory_mib, progress=progress
    )
    z, y, x = shape
    return activated(logits[:, :z, :y, :x], manifest.engine.activation), facts


def logits_of(
    module: nn.Module,
    image: NDArray[np.float32],
    channels: int,
    tiling: Tiling,
    *,
    memory_mib: float | None = None,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], Facts]:
    """Return the logits (channels, z, y, x) of ``image``, whose extents are multiples of the alignment.

    Raises
    ------
    Misconfigured
        The tiling cannot be what it says for this network: a halo below the receptive radius, a network that
        is no row of layers.
    """
    network = architectures.as_network(module)
    z, y, x = image.shape[1:]
    shape: Shape = (z, y, x)
    device = architectures.default_device()
    module.to(device)
    by_layers = tiling.mode == "layers"
    if by_layers and not isinstance(module, MeshNet):
        raise Misconfigured("tiling by layers needs a network that is a row of layers (meshnet)")
    if tiling.mode == "exact" and (
        network.receptive_radius is None or min(tiling.halo) < network.receptive_radius
    ):
        raise Misconfigured(
            f"exact tiling needs a halo of at least {network.receptive_radius or 'the whole volume'}, "
            f"the manifest says {tiling.halo}"
        )
    exact = (
        tiles.exact_windows(shape, tiling.tile, tiling.halo, alignment=network.alignment)
        if tiling.mode == "exact"
        else []
    )
    blended = (
        tiles.blended_windows(shape, tiling.tile, tiling.overlap, alignment=network.alignment)
        if tiling.mode == "blended"
        else []
    )
    seen = [window.seen for window in exact] or blended or [(slice(0, z), slice(0, y), slice(0, x))]
    largest = max(([s.stop - s.start for s in box] for box in seen), key=np.prod)
    planned = memory.plan(
        window=largest,
        shape=shape,
        peak_channels=network.peak_channels,
        volume_channels=len(image) + channels + (1 if blended else 0),
    )
    if device.type == "cpu":
        memory.admit(planned, memory_mib)

    def forward(window: NDArray[np.float32]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(np.ascontiguousarray(window))[None].to(device)
        if not isinstance(module, MeshNet):
            tensor = tensor.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            if by_layers:
                assert isinstance(module, MeshNet)
                answer = module.by_layers(tensor, slab=tiling.slab, progress=progress)
            else:
                answer = network(tensor)
        return np.asarray(answer[0].cpu().numpy())

    if exact:
        logits = tiles.run_exact(forward, image, channels, exact, progress=progress)
    elif blended:
        logits = tiles.run_blended(forward, image, channels, blended, progress=progress)
    else:
        logits = forward(image)
    facts: Facts = {
        "tiling": tiling.mode,
        "windows": len(seen),
        "planned_mib": round(planned.peak_mib),
        "device": device.type,
    }
    return logits, facts


def activated(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Return probabilities of ``logits`` (channels, z, y, x), computed in place plane by plane."""
    for k in range(logits.shape[1]):
        planes = torch.from_numpy(logits[:, k])
        if activation == "softmax":
            planes.copy_(torch.softmax(planes, dim=0))
        elif activation == "sigmoid":
            planes.sigmoid_()
    return logits
