"""The Dice loss and its gradient, by hand."""

from __future__ import annotations

import pytest
import torch

from voxtrial.daemon.learn.losses import dice_bce_loss, dice_loss, focal_loss, soft_dice

P = torch.tensor([0.9, 0.6, 0.2, 0.1], dtype=torch.float64)
T = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)


def test_soft_dice_of_four_voxels() -> None:
    """METHODS row 18: 2 * 1.5 / 3.8 = 0.78947; squared 3 / 3.22 = 0.93168."""
    assert float(soft_dice(P, T)) == pytest.approx(0.789473684, abs=1e-9)
    assert float(soft_dice(P, T, squared=True)) == pytest.approx(0.931677019, abs=1e-9)


def test_gradient_is_the_closed_form() -> None:
    """dL/dp = -2 (t S - I) / S^2 with I = 1.5 and S = 3.8."""
    p = P.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(1 - soft_dice(p, T), p)
    closed = -2 * (T * 3.8 - 1.5) / 3.8**2
    assert torch.allclose(gradient, closed, atol=1e-15)
    assert gradient.tolist() == pytest.approx([-0.31856, -0.31856, 0.20776, 0.20776], abs=1e-5)


def test_two_empty_images_agree() -> None:
    nothing = torch.zeros(5)
    assert float(soft_dice(nothing, nothing)) == 1.0


def test_loss_terms_add_up_and_focal_without_focus_is_half_the_entropy() -> None:
    logits = torch.logit(P)
    entropy = torch.nn.functional.binary_cross_entropy(P, T)
    assert float(dice_bce_loss(logits, T)) == pytest.approx(float(dice_loss(logits, T) + entropy))
    assert float(focal_loss(logits, T, gamma=0, alpha=0.5)) == pytest.approx(float(entropy) / 2)


def test_focal_loss_of_one_voxel() -> None:
    """Lin 2017, eq. 5: -alpha (1 - p)^gamma log p with p = 0.9, alpha 0.25, gamma 2."""
    expected = -0.25 * 0.1**2 * float(torch.log(torch.tensor(0.9, dtype=torch.float64)))
    assert float(focal_loss(torch.logit(P[:1]), T[:1])) == pytest.approx(expected)
