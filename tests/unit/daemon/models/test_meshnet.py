"""The same answer in one piece, in slabs, and by the kernel for few channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from voxtrial.daemon.inference.network import logits_of
from voxtrial.daemon.models.manifest import Tiling
from voxtrial.daemon.models.meshnet import MeshNet
from voxtrial.daemon.models.narrow_convolution import convolve


def layer(inputs: int, outputs: int, dilation: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "inputs": inputs,
        "outputs": outputs,
        "kernel": 3,
        "dilation": dilation,
        "bias": True,
        "norm": "none",
        "activation": "relu",
    } | changes


def network(*layers: dict[str, Any]) -> MeshNet:
    torch.manual_seed(4)
    return MeshNet(layers).eval().requires_grad_(False)


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_kernel_for_few_channels_equals_torch(dilation: int, threads: int) -> None:
    rng = np.random.default_rng(dilation)
    image = rng.standard_normal((3, 9, 12, 17), np.float32)
    weight, bias = rng.standard_normal((5, 3, 3, 3, 3), np.float32), rng.standard_normal(5, np.float32)
    padded = np.pad(image, [(0, 0)] + [(dilation, dilation)] * 3)
    answer = np.empty((5, 9, 12, 17), np.float32)
    convolve(padded, weight, bias, dilation, answer, threads=threads)
    expected = torch.conv3d(
        *(torch.from_numpy(a) for a in (image[None], weight, bias)), padding=dilation, dilation=dilation
    )
    assert np.abs(answer - expected[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("width", [4, 12])
def test_slabs_change_nothing(width: int) -> None:
    net = network(layer(1, width, 2), layer(width, width, 4, activation="elu"), layer(width, 2, kernel=1))
    image = torch.randn(1, 1, 21, 10, 11)
    whole = net(image)
    for slab in (1, 4, 20):
        assert float((net.by_layers(image, slab=slab) - whole).abs().max()) <= 1e-6


def test_instance_norm_is_over_the_whole_volume() -> None:
    net = network(
        layer(1, 6, bias=False, norm="instance", activation="gelu"), layer(6, 2, kernel=1, activation="none")
    )
    image = torch.randn(1, 1, 16, 9, 9) + torch.arange(16.0)[:, None, None]
    first = torch.conv3d(image, net.get_submodule("conv0").weight, padding=1)
    expected = net.get_submodule("conv1")(torch.nn.functional.gelu(torch.nn.functional.instance_norm(first)))
    assert float((net.by_layers(image, slab=3) - expected).abs().max()) < 1e-5
    assert net.receptive_radius is None


def test_exact_tiles_of_a_meshnet_equal_one_pass() -> None:
    net = network(layer(1, 3, 1), layer(3, 3, 3), layer(3, 2, kernel=1, activation="none"))
    assert net.receptive_radius == 4
    image = np.random.default_rng(0).standard_normal((1, 20, 22, 18), np.float32)
    whole, _ = logits_of(net, image, 2, Tiling(mode="layers", slab=7))
    tiled, facts = logits_of(net, image, 2, Tiling(mode="exact", tile=(14, 14, 14), halo=(4, 4, 4)))
    assert facts["windows"] > 1
    assert np.abs(whole - tiled).max() == 0.0
