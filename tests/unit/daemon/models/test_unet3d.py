"""What a U-Net can see is what the arithmetic says, and BatchNorm makes it independent of the window."""

from __future__ import annotations

import pytest
import torch

from voxtrial.daemon.models.unet3d import UNet3d


@pytest.fixture
def network() -> UNet3d:
    torch.manual_seed(0)
    return UNet3d((2, 3, 4)).eval()


def test_default_width_has_the_published_size() -> None:
    """8-16-32-64 with two convolutions a level: 350 809 weights, counted layer by layer by hand."""
    block = [27 * (a * b + b * b) + 4 * b for a, b in ((1, 8), (8, 16), (16, 32), (32, 64))]
    merge = [27 * (2 * b * b + b * b) + 4 * b for b in (32, 16, 8)]
    up = [8 * a * b + b for a, b in ((64, 32), (32, 16), (16, 8))]
    count = sum(p.numel() for p in UNet3d().parameters())
    assert count == sum(block) + sum(merge) + sum(up) + 8 + 1 == 350_809


def test_receptive_radius_is_where_the_gradient_ends(network: UNet3d) -> None:
    """Positive weights and a linear activation regime: no path cancels, so the gradient shows every path."""
    for parameter in network.parameters():
        parameter.data.abs_()
    extent = 4 * ((2 * network.receptive_radius + 8) // 4 + 1)
    reach = 0
    for place in range(network.alignment):
        image = torch.ones(1, 1, extent, 4, 4, requires_grad=True)
        at = extent // 2 // 4 * 4 + place
        (gradient,) = torch.autograd.grad(network(image)[0, 0, at, 2, 2], image)
        seen = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3, 4)))
        reach = max(reach, at - int(seen.min()), int(seen.max()) - at)
    assert reach == network.receptive_radius


def test_three_levels_reach_as_far_as_a_stack_of_convolutions() -> None:
    """One level is two convolutions of 3: radius 2, as METHODS' (2L + 1) rule for L = 2."""
    assert UNet3d((4,)).receptive_radius == 2


def test_folded_norms_give_the_same_answer(network: UNet3d) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.normal_()
    image = torch.randn(1, 1, 16, 12, 20)
    with torch.inference_mode():
        before = network(image)
        network.fold_norms()
        after = network(image)
    assert float((before - after).abs().max()) <= 1e-5 * float(before.abs().max())
