"""Train a segmentation network on crops: AdamW, cosine schedule, fixed seed, statistics frozen at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from voxtrial.daemon.learn.losses import dice_bce_loss

Progress = Callable[[int, float], None]
"""Called with the number of steps that are done and the running loss."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One harmonized image (z, y, x) float32 and the share of lesion in each voxel, 0 to 1."""

    image: NDArray[np.float32]
    target: NDArray[np.float32]


def crop(
    example: Example, size: int, rng: np.random.Generator, *, on_lesion: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a cube of ``size`` voxels, flipped at random; around a lesion if asked and there is one."""
    limits = np.array(example.image.shape) - size
    start = rng.integers(0, limits + 1)
    lesion = np.flatnonzero(example.target > 0.5) if on_lesion else np.array([], int)
    if lesion.size:
        voxel = np.array(np.unravel_index(rng.choice(lesion), example.target.shape))
        start = np.clip(voxel - rng.integers(size // 6, size - size // 6, 3), 0, limits)
    box = tuple(slice(s, s + size) for s in start)
    flips = tuple(slice(None, None, int(s)) for s in rng.choice([-1, 1], 3))
    image, target = example.image[box][flips], example.target[box][flips]
    if rng.random() < 0.5:
        image, target = image.swapaxes(1, 2), target.swapaxes(1, 2)
    return image, target


def fit(
    network: nn.Module,
    examples: Sequence[Example],
    *,
    steps: int,
    batch: int = 4,
    size: int = 40,
    learning_rate: float = 3e-3,
    lesion_share: float = 0.6,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Train ``network`` in place and leave it in evaluation mode.

    Parameters
    ----------
    steps, batch, size
        Number of updates; crops in each; edge of a crop in voxels.
    lesion_share
        Share of the crops that hold a lesion; the others fall anywhere, so that vessels are learned as well.
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=learning_rate, total_steps=steps, pct_start=0.1
    )

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rng.integers(0, len(examples), batch)
        crops = [crop(examples[i], size, rng, on_lesion=rng.random() < lesion_share) for i in chosen]
        image, target = (torch.from_numpy(np.stack(c)[:, None]) for c in zip(*crops, strict=True))
        return image.contiguous(memory_format=torch.channels_last_3d), target

    network.train()
    running = 0.0
    for step in range(steps):
        image, target = draw()
        loss = dice_bce_loss(network(image), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if progress:
            progress(step + 1, running)
    freeze_statistics(network, (draw()[0] for _ in range(24)))


@torch.no_grad()
def freeze_statistics(network: nn.Module, images: Iterable[torch.Tensor]) -> None:
    """Replace the running averages of batch norm by the mean over ``images``, then switch to evaluation.

    The running average lags behind weights that still move; a network is judged with the statistics that its
    final weights produce.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    network.train()
    for image in images:
        network(image)
    for norm in norms:
        norm.momentum = 0.1
    network.eval()
