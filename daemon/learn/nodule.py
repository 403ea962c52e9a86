"""Make the built-in model from nothing: ``python -m voxtrial.daemon.learn.nodule --out DIR``.

Phantoms are drawn, imaged by random scanners, harmonized by the recipe that the manifest then locks, and a
U-Net learns the masks. What the network marks in fresh phantoms is measured: two logistic regressions learn
to tell lesions from pieces of vessels, and the class. The cut on the probability is set so that volumes are
right in the median, and operating points are frozen, both on training-domain phantoms. Then the model is
judged on held-out phantoms and its card written.

The draws depend on the seed alone; with one thread the same machine gives the same bytes again.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar
from safetensors.numpy import save_file

from voxtrial.daemon.harmonize.resample import array_to_grid
from voxtrial.daemon.inference.classifier import FEATURES
from voxtrial.daemon.learn import card, held_out
from voxtrial.daemon.learn.candidates import Judgement, calibrated_cut, candidates, imaged, learn, look
from voxtrial.daemon.learn.phantoms import Phantom, chest_phantom
from voxtrial.daemon.learn.train import Example, Phase, fit
from voxtrial.daemon.models.manifest import MANIFEST_NAME
from voxtrial.daemon.models.store import StoredModel, open_folder
from voxtrial.daemon.models.unet3d import UNet3d
from voxtrial.daemon.volume import Volume

WEIGHTS = "weights.safetensors"
SCANS_EACH = 2
TRAINING_RADIUS_MM = (3.0, 8.5)
"""Half a millimetre below the smallest nodule that is judged: it shall not be the rarest of the training."""


def examples(rng: np.random.Generator, phantoms: int, bar: Bar) -> list[Example]:
    """Return training examples: fields of lung with one or two nodules, each imaged by random scanners."""
    made = []
    for _ in bar.track(range(phantoms), description="phantoms"):
        phantom = chest_phantom(rng, radius_mm=TRAINING_RADIUS_MM)
        for _ in range(SCANS_EACH):
            volume = imaged(phantom, rng)
            made.append(Example(image=volume.array.astype(np.float32), target=share(phantom, volume)))
    return made


def share(phantom: Phantom, volume: Volume) -> NDArray[np.float32]:
    """Return the share of each voxel of ``volume`` that lies in a nodule."""
    return np.asarray(
        array_to_grid((phantom.labels > 0).astype(np.float32), phantom.grid, volume.grid, interpolator="box"),
        np.float32,
    )


def write(
    out: Path,
    network: UNet3d,
    cut: float,
    judgement: Judgement,
    how: card.Training,
) -> StoredModel:
    """Write weights and manifest into ``out`` and return the model."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous().numpy() for name, tensor in network.state_dict().items()}
    metadata = {"features": ",".join(FEATURES), "training": json.dumps(how.as_json(), sort_keys=True)}
    save_file({**weights, **judgement.tensors}, out / WEIGHTS, metadata=metadata)
    (out / MANIFEST_NAME).write_text(
        card.manifest(
            cut,
            judgement.points,
            rejects=judgement.others > 0,
            receptive_radius=network.receptive_radius,
            weights=WEIGHTS,
        ),
        "utf-8",
    )
    return open_folder(out)


def main(
    out: Annotated[Path, typer.Option(help="Folder that the model is written into.")],
    phantoms: Annotated[int, typer.Option(help="Training phantoms; each is imaged twice.")] = 200,
    steps: Annotated[int, typer.Option(help="Updates of the network.")] = 1800,
    settle: Annotated[int, typer.Option(help="Further updates, under fixed statistics.")] = 500,
    measured: Annotated[
        int, typer.Option(help="Fresh phantoms for cut, classifiers, operating points.")
    ] = 240,
    judged: Annotated[int, typer.Option(help="Held-out phantoms, each on all eight scanners.")] = 60,
    fields: Annotated[int, typer.Option(help="Held-out fields for detection, each on four scanners.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 1,
    threads: Annotated[int, typer.Option(help="Cores.")] = 1,
) -> None:
    """Train the built-in nodule model, judge it, and write model.toml, weights and card."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    training, measuring, judging, detecting = np.random.default_rng(seed).spawn(4)
    console = Console(stderr=True)
    network = UNet3d()
    with Bar(console=console) as bar:
        material = examples(training, phantoms, bar)
        task = bar.add_task("training", total=steps + settle)
        fit(
            network,
            material,
            learning=Phase(steps=steps),
            settling=Phase(steps=settle, size=48, learning_rate=1e-3),
            seed=seed,
            progress=lambda step, loss: bar.update(
                task, completed=step, description=f"training, loss {loss:.3f}"
            ),
        )
        del material
        seen = look(network, measuring, measured, partial(bar.track, description="measuring"))
        cut = calibrated_cut(seen)
        judgement = learn(candidates(seen, cut))
        how = card.Training(
            phantoms=phantoms,
            scans_each=SCANS_EACH,
            steps=steps,
            settled=settle,
            measured=measured,
            lesions=judgement.lesions,
            others=judgement.others,
            seed=seed,
        )
        model = write(out, network, cut, judgement, how)
        task = bar.add_task("judging", total=1.0)
        readings = held_out.read_single_nodules(
            model, judging, phantoms=judged, progress=lambda share: bar.update(task, completed=share)
        )
        task = bar.add_task("detecting", total=1.0)
        detection = held_out.detect(
            model, detecting, fields=fields, progress=lambda share: bar.update(task, completed=share)
        )
    text = card.text(
        model,
        how,
        held_out.figures(readings, judgement.points[0].threshold),
        detection,
        volume_icc=held_out.volume_icc(readings),
        judged=judged,
        parameters=sum(p.numel() for p in network.parameters()),
        receptive_field=2 * network.receptive_radius + 1,
    )
    (out / "card.md").write_text(text, "utf-8")
    Console().print(text, markup=False)


if __name__ == "__main__":
    typer.run(main)
