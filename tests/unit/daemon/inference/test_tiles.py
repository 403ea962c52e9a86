"""Tiles are exact when the halo holds the receptive field, and visibly wrong when it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from voxtrial.daemon.errors import Misconfigured
from voxtrial.daemon.inference import tiles
from voxtrial.daemon.inference.network import logits_of
from voxtrial.daemon.models.manifest import Tiling
from voxtrial.daemon.models.unet3d import UNet3d


def four_convolutions() -> nn.Sequential:
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 4), (4, 4), (4, 4), (4, 1)):
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


def as_forward(network: nn.Module) -> tiles.Forward:
    def forward(window: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(window))[None])[0].numpy()

    return forward


@pytest.mark.parametrize(("halo", "exact"), [(4, True), (5, True), (3, False), (2, False), (0, False)])
def test_four_convolutions_need_a_halo_of_four(halo: int, exact: bool) -> None:
    """METHODS row 44: with L stacked 3 x 3 x 3 convolutions the error is exactly 0 from halo L on."""
    forward = as_forward(four_convolutions())
    image = np.random.default_rng(0).standard_normal((1, 23, 26, 31)).astype(np.float32)
    windows = tiles.exact_windows((23, 26, 31), (16, 16, 16), (halo, halo, halo))
    error = float(np.abs(tiles.run_exact(forward, image, 1, windows) - forward(image)).max())
    assert (error == 0.0) is exact
    assert exact or error > 1e-3


def test_every_voxel_is_kept_once_and_windows_stay_within_the_tile() -> None:
    shape, count = (50, 17, 130), np.zeros((50, 17, 130), int)
    for window in tiles.exact_windows(shape, (24, 24, 40), (8, 8, 8), alignment=8):
        count[window.kept] += 1
        assert all(s.stop - s.start <= t for s, t in zip(window.seen, (24, 24, 40), strict=True))
        assert all(s.start % 8 == 0 for s in window.seen)
    assert (count == 1).all()


def test_pooling_network_is_exact_with_aligned_windows() -> None:
    torch.manual_seed(1)
    network = UNet3d((4, 6)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    image = np.random.default_rng(2).standard_normal((1, 36, 30, 32)).astype(np.float32)
    halo = (network.receptive_radius + 1) // 2 * 2
    tiling = Tiling(mode="exact", tile=(2 * halo + 4,) * 3, halo=(halo,) * 3)
    tiled, facts = logits_of(network, image, 1, tiling)
    whole, _ = logits_of(network, image, 1, Tiling(mode="whole"))
    assert facts["windows"] >= 4
    assert np.abs(tiled - whole).max() <= 1e-6


def test_halo_below_the_receptive_field_is_refused() -> None:
    network = UNet3d((4, 6)).eval()
    with pytest.raises(Misconfigured, match="halo of at least"):
        logits_of(
            network,
            np.zeros((1, 32, 32, 32), np.float32),
            1,
            Tiling(mode="exact", tile=(32,) * 3, halo=(4,) * 3),
        )


def test_misaligned_tiles_are_refused() -> None:
    with pytest.raises(Misconfigured, match="multiples of 4"):
        tiles.exact_windows((64, 64, 64), (30, 32, 32), (4, 4, 4), alignment=4)


def test_blended_windows_average_to_the_same_constant_and_cover_the_volume() -> None:
    shape = (37, 20, 41)
    windows = tiles.blended_windows(shape, (16, 32, 16), 0.5, alignment=1)
    image = np.full((1, *shape), 2.5, np.float32)
    blended = tiles.run_blended(lambda window: window, image, 1, windows)
    assert np.abs(blended - 2.5).max() <= 1e-5
    starts = sorted({w[0].start for w in windows})
    assert starts[0] == 0
    assert windows[-1][0].stop == 37
    assert max(np.diff(starts)) <= 8


def test_blending_weighs_the_middle_of_a_window_most() -> None:
    weight = tiles.gaussian_weight((9, 9, 9))
    assert weight[4, 4, 4] == weight.max() == pytest.approx(1)
    assert weight.min() == pytest.approx(tiles.SMALLEST_WEIGHT)


def test_threads_do_not_change_the_answer() -> None:
    network = four_convolutions()
    image = np.random.default_rng(5).standard_normal((1, 24, 24, 24)).astype(np.float32)
    answers = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        answers.append(as_forward(network)(image))
    torch.set_num_threads(1)
    assert (answers[0] == answers[2]).all()
    assert np.abs(answers[0] - answers[1]).max() <= 1e-6
