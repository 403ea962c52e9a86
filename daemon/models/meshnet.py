"""MeshNet: dilated convolutions in a row, no pooling, one label for each voxel.

Because nothing but the previous layer is needed, a layer can be computed slab by slab over a whole volume:
the answer of one pass, instance norm included, with two activations in memory instead of a framework's many.

References
----------
Fedorov et al. 2017, doi:10.1109/IJCNN.2017.7966333.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from voxtrial.daemon.models import footprint
from voxtrial.daemon.models.narrow_convolution import MOST_PRODUCTS, convolve

Progress = Callable[[float], None]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu_,
    "elu": functional.elu_,
    "gelu": functional.gelu,
}
INSTANCE_NORM_EPSILON = 1e-5


class MeshNet(nn.Module):
    """Image (1, inputs, z, y, x) to logits (1, labels, z, y, x).

    Parameters
    ----------
    layers
        One mapping for each convolution with ``inputs``, ``outputs``, ``kernel`` (odd), ``dilation``,
        ``bias``, ``norm`` (``none`` or ``instance``) and ``activation`` (``none``, ``relu``, ``elu``,
        ``gelu``), in the order convolution, norm, activation. The volume is padded with zeros.
    """

    alignment = 1

    def __init__(self, layers: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.layers = [dict(layer) for layer in layers]
        for number, layer in enumerate(self.layers):
            convolution = nn.Conv3d(
                layer["inputs"],
                layer["outputs"],
                layer["kernel"],
                dilation=layer["dilation"],
                padding=layer["kernel"] // 2 * layer["dilation"],
                bias=layer["bias"],
            )
            self.add_module(f"conv{number}", convolution)

    @property
    def receptive_radius(self) -> int | None:
        """Voxels that an output voxel can see to each side; None with instance norm: the whole window."""
        if any(layer["norm"] == "instance" for layer in self.layers):
            return None
        return sum(int(layer["kernel"] // 2 * layer["dilation"]) for layer in self.layers)

    @property
    def peak_channels(self) -> float:
        """Channels at full resolution that are alive together at the worst layer."""
        return footprint.meshnet(self.layers)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits, each layer in one piece."""
        return self.by_layers(image, slab=image.shape[2])

    @torch.no_grad()
    def by_layers(self, image: Tensor, *, slab: int, progress: Progress | None = None) -> Tensor:
        """Return logits, each layer computed ``slab`` planes at a time; equal to :meth:`forward`."""
        features = image
        for number, layer in enumerate(self.layers):
            convolution = self.get_submodule(f"conv{number}")
            assert isinstance(convolution, nn.Conv3d)
            instance = layer["norm"] == "instance"
            activation = _ACTIVATIONS[layer["activation"]]
            features = _convolved(features, convolution, slab, None if instance else activation)
            if instance:
                _normalise_and_activate(features, activation, slab)
            if progress:
                progress((number + 1) / len(self.layers))
        return features


def _convolved(
    image: Tensor, convolution: nn.Conv3d, slab: int, activation: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Return the convolution of ``image``, activated when the activation needs no statistics first."""
    depth = image.shape[2]
    reach = int(convolution.kernel_size[0]) // 2 * int(convolution.dilation[0])
    products = convolution.in_channels * convolution.out_channels
    narrow = image.device.type == "cpu" and convolution.kernel_size[0] == 3 and products <= MOST_PRODUCTS
    result = image.new_empty((image.shape[0], convolution.out_channels, *image.shape[2:]))
    for begin in range(0, depth, slab):
        end = min(begin + slab, depth)
        low, high = max(begin - reach, 0), min(end + reach, depth)
        part = image[:, :, low:high]
        missing = (reach - (begin - low), reach - (high - end))
        answer = result[:, :, begin:end]
        if narrow:
            part = functional.pad(part, (reach, reach, reach, reach, *missing))
            _narrow(part, convolution, answer)
        else:
            if any(missing):
                part = functional.pad(part, (0, 0, 0, 0, *missing))
            answer.copy_(
                functional.conv3d(
                    part,
                    convolution.weight,
                    convolution.bias,
                    padding=(0, reach, reach),
                    dilation=convolution.dilation,
                )
            )
        if activation is not None:
            answer.copy_(activation(answer))
    return result


def _narrow(padded: Tensor, convolution: nn.Conv3d, answer: Tensor) -> None:
    """Fill ``answer`` with the valid convolution of one padded image, by the kernel for few channels."""
    bias = convolution.bias
    weight = convolution.weight.detach().numpy()
    convolve(
        padded[0].numpy(),
        weight,
        np.zeros(len(weight), np.float32) if bias is None else bias.detach().numpy(),
        int(convolution.dilation[0]),
        answer[0].numpy(),
        threads=torch.get_num_threads(),
    )


def _normalise_and_activate(features: Tensor, activation: Callable[[Tensor], Tensor], slab: int) -> None:
    """Subtract mean and divide by deviation of each channel over the whole volume, in place."""
    variance, mean = torch.var_mean(features, dim=(2, 3, 4), correction=0, keepdim=True)
    scale = torch.rsqrt(variance + INSTANCE_NORM_EPSILON)
    for begin in range(0, features.shape[2], slab):
        planes = features[:, :, begin : begin + slab]
        planes.copy_(activation((planes - mean) * scale))
