"""How wide a network is at its widest, from its parameters alone: no network is built to plan its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxtrial.daemon.models.manifest import Engine

UNET3D_CHANNELS = (8, 16, 32, 64)
"""Width of each level unless the manifest says otherwise."""


def unet3d(channels: Sequence[int]) -> float:
    """Return the full-resolution channels that a U-Net holds at its worst moment.

    The first level of the decoder with folded norms: skip and upsampled half, and their concatenation.
    """
    return 4.0 * channels[0]


def meshnet(layers: Sequence[Mapping[str, Any]]) -> float:
    """Return the full-resolution channels that a row of layers holds at the worst of them."""
    return float(max(layer["inputs"] + layer["outputs"] for layer in layers))


def peak_channels(engine: Engine) -> float:
    """Return the full-resolution channels that are alive together; 0 where there is no network."""
    match engine.architecture:
        case "unet3d":
            return unet3d(engine.parameters.get("channels", UNET3D_CHANNELS))
        case "meshnet":
            return meshnet(engine.parameters["layers"])
        case _:
            return 0.0
