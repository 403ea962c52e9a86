"""Crops fall on lesions, on what could be taken for one, or anywhere, and carry their target along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxtrial.daemon.learn.train import Centre, Example, Phase, crop, fit
from voxtrial.daemon.models.unet3d import UNet3d


def field() -> Example:
    """A bright lesion in one corner, a bright vessel in the opposite one, nothing between."""
    image, target = np.zeros((64, 64, 64), np.float32), np.zeros((64, 64, 64), np.float32)
    image[4:8, 4:8, 4:8] = target[4:8, 4:8, 4:8] = 1.0
    image[56:60, 56:60, 56:60] = 0.8
    return Example(image=image, target=target)


@pytest.mark.parametrize(
    ("on", "lesion", "vessel"), [(Centre.LESION, True, False), (Centre.TISSUE, False, True)]
)
def test_a_crop_holds_what_it_was_asked_for(on: Centre, lesion: bool, vessel: bool) -> None:
    for seed in range(20):
        image, target = crop(field(), 24, np.random.default_rng(seed), on=on)
        assert image.shape == target.shape == (24, 24, 24)
        assert target.any() == lesion
        assert ((image > 0.5) & (target == 0)).any() == vessel


def test_a_crop_on_a_lesion_falls_anywhere_in_a_field_without_one() -> None:
    empty = Example(image=np.zeros((30, 30, 30), np.float32), target=np.zeros((30, 30, 30), np.float32))
    image, target = crop(empty, 24, np.random.default_rng(0), on=Centre.LESION)
    assert image.shape == (24, 24, 24)
    assert not target.any()


def test_statistics_stand_still_while_the_network_settles() -> None:
    """The second phase moves the weights, and leaves the means of batch norm where the field put them."""

    def trained(settle: int) -> UNet3d:
        torch.manual_seed(0)
        network = UNet3d((2, 4))
        fit(
            network,
            [field()],
            learning=Phase(steps=4, batch=1, size=24),
            settling=Phase(steps=settle, batch=1, size=24, learning_rate=1e-2),
        )
        return network

    short, long = trained(3), trained(6)
    assert not short.training
    for name, tensor in short.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor, long.state_dict()[name])
    assert not torch.equal(short.head.weight, long.head.weight)
