"""Where the evidence for a finding lies: feature maps weighted by their gradient (Grad-CAM), in 3-D.

The map is as coarse as the layer that it is taken from, and says so: after three poolings at 1 mm a cell is
8 mm wide, and nothing finer can be read from it however smooth it looks.

References
----------
Selvaraju et al. 2017 (Grad-CAM), doi:10.1109/ICCV.2017.74. Vinogradova et al. 2020 (for segmentation: the
score is the sum of the logits where the network is positive), doi:10.1609/aaai.v34i10.7244.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from voxtrial.daemon.errors import Fatal, Misconfigured
from voxtrial.daemon.inference.tiles import padded_shape
from voxtrial.daemon.models import architectures
from voxtrial.daemon.models.manifest import Code
from voxtrial.daemon.models.store import StoredModel
from voxtrial.daemon.volume import Grid, Spacing, Volume

QUANTITY = Code("130403", "DCM", "Gradient-weighted class activation")


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """A map of evidence on the grid of the model.

    Parameters
    ----------
    array
        (z, y, x) float32, 0 to 1; all 0 where the network is positive nowhere.
    resolution_mm
        Extent of one cell of the layer along (z, y, x).
    """

    array: NDArray[np.float32]
    grid: Grid
    resolution_mm: Spacing
    layer: str
    quantity: Code = QUANTITY


def gradcam(
    model: StoredModel, volumes: dict[str, Volume], *, layer: str = "", threads: int = 1
) -> AttentionMap:
    """Return the evidence of ``model`` for the label that its manifest names, over harmonized ``volumes``.

    Parameters
    ----------
    layer
        Layer of the network; empty: the manifest's.

    Raises
    ------
    Misconfigured
        The manifest asks for no explanation, or the network has no such layer.
    """
    explain = model.manifest.explain
    if explain is None:
        raise Misconfigured(
            f"{model.manifest.title} names no layer to explain it by: add [explain] to model.toml"
        )
    torch.set_num_threads(threads)
    network = architectures.load(model)
    name = layer or explain.layer
    try:
        observed = network.get_submodule(name)
    except AttributeError as error:
        known = ", ".join(n for n, _ in network.named_modules() if n and n.count(".") < 2)
        raise Misconfigured(f"{model.manifest.title} has no layer {name}; its layers are {known}") from error
    inputs = [volumes[one.role] for one in model.manifest.inputs]
    grid = inputs[0].grid
    shape = padded_shape(grid.shape, architectures.as_network(network).alignment)
    margin = [(0, 0), *((0, a - b) for a, b in zip(shape, grid.shape, strict=True))]
    image = np.pad(np.stack([v.array.astype(np.float32) for v in inputs]), margin, mode="edge")
    channel = explain.output - (0 if model.manifest.engine.activation == "softmax" else 1)
    activation, gradient = observe(network, observed, torch.from_numpy(image)[None], channel)
    coarse = weighted(activation, gradient)
    cells = coarse.shape
    fine = nn.functional.interpolate(coarse[None, None], size=shape, mode="trilinear", align_corners=False)
    z, y, x = grid.shape
    array = fine[0, 0, :z, :y, :x].numpy()
    peak = float(array.max())
    cell_z, cell_y, cell_x = (n / c * s for n, c, s in zip(shape, cells, grid.spacing_mm, strict=True))
    return AttentionMap(
        array=np.asarray(array / peak if peak > 0 else array, np.float32),
        grid=grid,
        resolution_mm=(cell_z, cell_y, cell_x),
        layer=name,
    )


def observe(network: nn.Module, layer: nn.Module, image: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """Return activation and gradient (k, z, y, x) of ``layer`` for the score of ``channel``.

    The score is the sum of the logits where they are positive; for an answer without spatial axes it is the
    logit itself.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, answer: Tensor) -> Tensor:
        kept.append(answer.detach().requires_grad_())
        return kept[-1]

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = network(image)[0, channel]
            score = logits[logits > 0].sum() if logits.ndim else logits
            if not kept:
                raise Fatal("The layer that is to be explained took no part in the answer")
            (gradient,) = torch.autograd.grad(score, kept[0])
    finally:
        handle.remove()
    return kept[0].detach()[0], gradient[0]


def weighted(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the rectified sum of the feature maps (k, z, y, x), each weighted by its mean gradient."""
    weights = gradient.mean(dim=(1, 2, 3))
    return torch.relu(torch.einsum("k,kzyx->zyx", weights, activation))
