"""Grad-CAM against its closed form on a network whose last layer is an average and a linear map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.explain.gradcam import gradcam, observe, weighted
from voxtrial.daemon.models.store import ModelStore
from voxtrial.daemon.volume import Volume


class GlobalAverageNet(nn.Module):
    """Features, their mean, a linear map: the case in which Grad-CAM is CAM."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ReLU())
        self.linear = nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(image).mean(dim=(2, 3, 4)))
        return logits


def test_weights_are_those_of_the_linear_layer() -> None:
    """METHODS row 31: N alpha_k = w_k, so the map is the class activation map of Zhou 2016, divided by N."""
    network = GlobalAverageNet().eval()
    image = torch.randn(1, 1, 6, 7, 8)
    activation, gradient = observe(network, network.features, image, channel=2)
    voxels = 6 * 7 * 8
    assert torch.allclose(gradient.mean(dim=(1, 2, 3)) * voxels, network.linear.weight[2], atol=2e-7)
    expected = torch.relu((network.linear.weight[2][:, None, None, None] * network.features(image)[0]).sum(0))
    assert torch.allclose(weighted(activation, gradient) * voxels, expected, atol=1e-5)


def test_cell_is_as_wide_as_the_poolings_make_it(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get("nodule-phantom")
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    volume = Volume(array=np.zeros((20, 24, 30), np.float32), affine=affine)
    found = gradcam(model, {"ct": volume})
    assert found.array.shape == (20, 24, 30)
    assert found.resolution_mm == (8.0, 8.0, 8.0)
    assert not found.array.any()  # nothing is found in air, so there is no evidence
    assert gradcam(model, {"ct": volume}, layer="down.1").resolution_mm == (2.0, 2.0, 2.0)


def test_unknown_layer_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    model = ModelStore(tmp_path).get("nodule-phantom")
    volume = Volume(array=np.zeros((8, 8, 8), np.float32), affine=np.eye(4))
    with pytest.raises(Misconfigured, match=r"has no layer down\.7; its layers are .*down\.3"):
        gradcam(model, {"ct": volume}, layer="down.7")
    with pytest.raises(Misconfigured, match="names no layer"):
        gradcam(ModelStore(tmp_path).get("otsu"), {"ct": volume})
