"""Train a segmentation network on crops: AdamW, cosine schedule, fixed seed, statistics frozen at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from voxtrial.daemon.learn.losses import dice_bce_loss
from voxtrial.daemon.models.unet3d import lay_out_channels_last

Progress = Callable[[int, float], None]
"""Called with the number of steps that are done and the running loss."""

TISSUE = 0.5
"""Harmonized intensity above which a voxel is vessel or wall when it is no lesion."""
STATISTICS_BATCHES = 24
"""Batches that the fixed statistics are the mean of."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One harmonized image (z, y, x) float32 and the share of lesion in each voxel, 0 to 1."""

    image: NDArray[np.float32]
    target: NDArray[np.float32]


class Centre(Enum):
    """What a crop falls on."""

    LESION = "lesion"
    TISSUE = "tissue"
    ANYWHERE = "anywhere"


def crop(
    example: Example, size: int, rng: np.random.Generator, *, on: Centre
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a cube of ``size`` voxels, flipped at random; around what is asked for, if there is any."""
    limits = np.array(example.image.shape) - size
    start = rng.integers(0, limits + 1)
    wanted = _voxels(example, on)
    if wanted.size:
        voxel = np.array(np.unravel_index(rng.choice(wanted), example.target.shape))
        start = np.clip(voxel - rng.integers(size // 6, size - size // 6, 3), 0, limits)
    box = tuple(slice(s, s + size) for s in start)
    flips = tuple(slice(None, None, int(s)) for s in rng.choice([-1, 1], 3))
    image, target = example.image[box][flips], example.target[box][flips]
    if rng.random() < 0.5:
        image, target = image.swapaxes(1, 2), target.swapaxes(1, 2)
    return image, target


def _voxels(example: Example, on: Centre) -> NDArray[np.intp]:
    """Return the flat indices that a crop may be centred on."""
    match on:
        case Centre.LESION:
            return np.flatnonzero(example.target > 0.5)
        case Centre.TISSUE:
            return np.flatnonzero((example.image > TISSUE) & (example.target == 0))
        case Centre.ANYWHERE:
            return np.array([], np.intp)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A run of updates under one learning rate schedule.

    Parameters
    ----------
    steps, batch, size
        Number of updates; crops in each; edge of a crop in voxels.
    lesion_share, tissue_share
        Share of the crops on a lesion, and on what could be taken for one: vessels and wall. The others fall
        anywhere.
    """

    steps: int
    batch: int = 4
    size: int = 40
    learning_rate: float = 3e-3
    lesion_share: float = 0.5
    tissue_share: float = 0.3

    def draw(
        self, examples: Sequence[Example], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch of images and targets (n, 1, z, y, x)."""
        centres = (Centre.LESION, Centre.TISSUE, Centre.ANYWHERE)
        shares = (self.lesion_share, self.tissue_share, 1 - self.lesion_share - self.tissue_share)
        chosen = rng.integers(0, len(examples), self.batch)
        wanted = rng.choice(len(centres), self.batch, p=shares)
        crops = [
            crop(examples[i], self.size, rng, on=centres[k]) for i, k in zip(chosen, wanted, strict=True)
        ]
        image, target = (torch.from_numpy(np.stack(c)[:, None]) for c in zip(*crops, strict=True))
        return image.contiguous(memory_format=torch.channels_last_3d), target


def fit(
    network: nn.Module,
    examples: Sequence[Example],
    *,
    learning: Phase,
    settling: Phase,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Train ``network`` in place and leave it in evaluation mode.

    Parameters
    ----------
    learning
        Updates under the statistics of each batch.
    settling
        Updates under the fixed statistics that the network is used with: those of crops anywhere, as a field
        of lung is mostly lung. Statistics of crops around lesions make lesions come out too small.
    """
    first = np.random.default_rng(seed)
    (second,) = first.spawn(1)
    lay_out_channels_last(network)
    network.train()
    _descend(network, examples, learning, first, progress)
    anywhere = replace(settling, lesion_share=0.0, tissue_share=0.0)
    freeze_statistics(network, (anywhere.draw(examples, second)[0] for _ in range(STATISTICS_BATCHES)))

    def further(step: int, loss: float) -> None:
        if progress:
            progress(learning.steps + step, loss)

    _descend(network, examples, settling, second, further)


def _descend(
    network: nn.Module,
    examples: Sequence[Example],
    phase: Phase,
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    """Update ``network`` in the mode that it is in."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=phase.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=phase.learning_rate, total_steps=phase.steps, pct_start=0.1
    )
    running = 0.0
    for step in range(phase.steps):
        image, target = phase.draw(examples, rng)
        loss = dice_bce_loss(network(image), target)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if progress:
            progress(step + 1, running)


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
