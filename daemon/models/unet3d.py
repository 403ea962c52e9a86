"""3-D U-Net with fixed statistics: the same voxel gets the same answer whatever window it is seen in.

Two convolutions of 3 x 3 x 3 with batch norm and ReLU at each level, max pooling down, transposed
convolutions of 2 x 2 x 2 up, skip connections by concatenation.

References
----------
Cicek et al. 2016, doi:10.1007/978-3-319-46723-8_49.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from voxtrial.daemon.models import footprint


class UNet3d(nn.Module):
    """Image (n, inputs, z, y, x) to logits (n, outputs, z, y, x).

    Parameters
    ----------
    channels
        Width of each level; every level below the first halves the resolution.
    inputs, outputs
        Channels of the image and of the logits.

    Notes
    -----
    Every extent must be a multiple of ``alignment``.
    """

    def __init__(
        self, channels: Sequence[int] = footprint.UNET3D_CHANNELS, *, inputs: int = 1, outputs: int = 1
    ) -> None:
        super().__init__()
        widths = [inputs, *channels]
        self.channels = tuple(channels)
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise(widths))
        pairs = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, wide, 2, stride=2) for wide, deep in pairs)
        self.merge = nn.ModuleList(_block(2 * wide, wide) for wide, _ in pairs)
        self.head = nn.Conv3d(channels[0], outputs, 1)

    @property
    def alignment(self) -> int:
        """Windows must start at, and extents be, multiples of this."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def receptive_radius(self) -> int:
        """Voxels that an output voxel can see to its farther side, at the worst place in a pooling cell."""
        reaches = [_reach(0, p, p, len(self.channels) - 1) for p in range(self.alignment)]
        return max(max(p - low, high - p) for p, (low, high) in enumerate(reaches))

    @property
    def peak_channels(self) -> float:
        """Channels at full resolution that are alive together at the worst moment."""
        return footprint.unet3d(self.channels)

    def fold_norms(self) -> None:
        """Fold the fixed statistics into the convolutions and lay them out channels last: 1.5 times as fast.

        The network must be in evaluation mode; its answers differ by rounding only.
        """
        for block in (*self.down, *self.merge):
            assert isinstance(block, nn.Sequential)
            for convolution, norm in ((0, 1), (3, 4)):
                plain, statistics = block[convolution], block[norm]
                assert isinstance(plain, nn.Conv3d)
                assert isinstance(statistics, nn.BatchNorm3d)
                block[convolution] = fuse_conv_bn_eval(plain, statistics)
                block[norm] = nn.Identity()
        lay_out_channels_last(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        skips: list[Tensor] = []
        features = image
        for level, block in enumerate(self.down):
            features = block(features if level == 0 else nn.functional.max_pool3d(features, 2))
            skips.append(features)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([skips.pop(), up(features)], dim=1))
        logits: Tensor = self.head(features)
        return logits


def lay_out_channels_last(network: nn.Module) -> None:
    """Give the convolutions of ``network`` the layout in which they are fastest on a processor."""
    for weights in network.parameters():
        if weights.ndim == 5:
            weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm3d(outputs),
        nn.ReLU(inplace=True),
    )


def _reach(level: int, low: int, high: int, deepest: int) -> tuple[int, int]:
    """Return the input interval of ``level`` that the output interval ``low`` to ``high`` depends on."""
    low, high = low - 2, high + 2
    if level == deepest:
        return low, high
    below = _reach(level + 1, low // 2, high // 2, deepest)
    return min(low, 2 * below[0]) - 2, max(high, 2 * below[1] + 1) + 2
