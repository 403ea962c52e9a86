"""Losses that a segmentation network is trained with.

References
----------
Milletari et al. 2016 (Dice), doi:10.1109/3DV.2016.79. Lin et al. 2017 (focal), doi:10.1109/ICCV.2017.324.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_dice(probability: Tensor, target: Tensor, *, squared: bool = False) -> Tensor:
    """Return 2 I / S over all voxels of the batch: I = sum p t, S = sum p + sum t (or of their squares).

    Two empty images agree: the coefficient is 1.
    """
    intersection = (probability * target).sum()
    size = (probability**2 + target**2).sum() if squared else (probability + target).sum()
    return torch.where(size > 0, 2 * intersection / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - soft Dice of the sigmoid."""
    return 1 - soft_dice(torch.sigmoid(logits), target)


def dice_bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return Dice loss plus binary cross entropy, which keeps a gradient where the lesion is missed whole."""
    return dice_loss(logits, target) + functional.binary_cross_entropy_with_logits(logits, target)


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Return binary cross entropy in which a voxel weighs (1 - p_t)^gamma, the positive class alpha."""
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = torch.sigmoid(logits)
    missed = p * (1 - target) + (1 - p) * target
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * missed**gamma * entropy).mean()
