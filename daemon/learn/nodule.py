"""Make the built-in model from nothing: ``python -m voxtrial.daemon.learn.nodule --out DIR``.

Phantoms are drawn, imaged by random scanners, harmonized by the recipe that the manifest then locks, and a
U-Net learns the masks. What the network finds in fresh phantoms is measured, and a logistic regression
learns the class from it. The cut on the probability is set so that volumes are right in the median, and
operating points are frozen, both on training-domain phantoms. Then the model is judged on held-out phantoms
and its card written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress as Bar
from safetensors.numpy import save_file
from scipy import ndimage

from voxtrial.daemon.harmonize.recipe import Recipe
from voxtrial.daemon.harmonize.resample import array_to_grid
from voxtrial.daemon.inference.classifier import FEATURES, features
from voxtrial.daemon.inference.network import activated
from voxtrial.daemon.inference.tiles import padded_shape
from voxtrial.daemon.learn import card, held_out
from voxtrial.daemon.learn.phantoms import Phantom, chest_phantom
from voxtrial.daemon.learn.scanner import image, random_scanner
from voxtrial.daemon.learn.train import Example, fit
from voxtrial.daemon.models.manifest import MANIFEST_NAME
from voxtrial.daemon.models.store import StoredModel, open_folder
from voxtrial.daemon.models.unet3d import UNet3d
from voxtrial.daemon.volume import Volume

WEIGHTS = "weights.safetensors"
FIELD_MM = held_out.SINGLE_FIELD_MM
SCANS_EACH = 2

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One nodule of the training domain as the network sees it."""

    image: Volume
    probability: NDArray[np.float32]
    """(z, y, x) on the grid of ``image``."""
    volume_mm3: float
    malignant: bool


def recipe() -> Recipe:
    """Return the harmonization that training and use share."""
    return Recipe.from_steps(card.RECIPE)


def examples(rng: np.random.Generator, phantoms: int, bar: Bar) -> list[Example]:
    """Return training examples; one phantom in eight holds no nodule, each is imaged by random scanners."""
    made = []
    for _ in bar.track(range(phantoms), description="phantoms"):
        classes = [bool(rng.integers(0, 2))] if rng.random() < 7 / 8 else []
        phantom = chest_phantom(rng, FIELD_MM, classes=classes)
        for _ in range(SCANS_EACH):
            volume = recipe().apply(image(phantom, random_scanner(rng), rng).volume).volume
            made.append(Example(image=volume.array.astype(np.float32), target=share(phantom, volume)))
    return made


def share(phantom: Phantom, volume: Volume) -> NDArray[np.float32]:
    """Return the share of each voxel of ``volume`` that lies in a nodule."""
    return np.asarray(
        array_to_grid((phantom.labels > 0).astype(np.float32), phantom.grid, volume.grid, interpolator="box"),
        np.float32,
    )


def measure(network: UNet3d, rng: np.random.Generator, phantoms: int, bar: Bar) -> list[Measured]:
    """Return what ``network`` sees of fresh nodules of the training domain; those it misses are left out."""
    seen = []
    for number in bar.track(range(phantoms), description="measuring"):
        phantom = chest_phantom(rng, FIELD_MM, classes=[number % 2 == 1])
        (nodule,) = phantom.nodules
        volume = recipe().apply(image(phantom, random_scanner(rng), rng).volume).volume
        probability = foreground(network, volume)
        labels, _ = ndimage.label(probability > 0.5, np.ones((3, 3, 3)))
        own = np.bincount(labels[share(phantom, volume) > 0.5], minlength=2)
        own[0] = 0
        if own.any():
            alone = (labels == 0) | (labels == own.argmax())
            seen.append(
                Measured(
                    image=volume,
                    probability=np.where(alone, probability, 0).astype(np.float32),
                    volume_mm3=nodule.volume_mm3,
                    malignant=nodule.malignant,
                )
            )
    return seen


@torch.inference_mode()
def foreground(network: UNet3d, volume: Volume) -> NDArray[np.float32]:
    """Return the probability (z, y, x) of a nodule, in one pass."""
    shape = volume.array.shape
    margin = [(0, a - b) for a, b in zip(padded_shape(shape, network.alignment), shape, strict=True)]
    padded = np.pad(volume.array.astype(np.float32), margin, mode="edge")
    logits: NDArray[np.float32] = network(torch.from_numpy(padded)[None, None])[0].numpy()
    z, y, x = shape
    return np.asarray(activated(logits, "sigmoid")[0, :z, :y, :x])


def calibrated_cut(seen: list[Measured]) -> float:
    """Return the cut on the probability at which the median volume is right."""
    cuts = np.round(np.arange(0.2, 0.81, 0.01), 2)

    def error(cut: float) -> float:
        ratios = [
            (one.probability > cut).sum() * one.image.grid.voxel_volume_mm3 / one.volume_mm3 for one in seen
        ]
        return abs(float(np.log(np.median(ratios))))

    return float(min(cuts, key=error))


def component(one: Measured, cut: float) -> tuple[NDArray[np.float32], Box]:
    """Return the largest component above ``cut`` in its box, as findings are handed to the classifier."""
    labels, _ = ndimage.label(one.probability > cut, np.ones((3, 3, 3)))
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    extent = zip(ndimage.find_objects(labels)[largest - 1], labels.shape, strict=True)
    z, y, x = (slice(max(s.start - 2, 0), min(s.stop + 2, n)) for s, n in extent)
    box = (z, y, x)
    alone = (labels[box] == 0) | (labels[box] == largest)
    return np.where(alone, one.probability[box], 0).astype(np.float32), box


def learn_class(seen: list[Measured], cut: float) -> tuple[dict[str, NDArray[np.float64]], list[card.Cut]]:
    """Return the tensors of the classifier, and operating points from five-fold cross-validated scores."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = np.array([features(one.image, *component(one, cut), threshold=cut) for one in seen])
    truth = np.array([one.malignant for one in seen])
    chain = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    score = cross_val_predict(chain, table, truth, cv=folds, method="predict_proba")[:, 1]
    chain.fit(table, truth)
    scaler, model = chain[0], chain[1]
    tensors = {
        "malignancy.mean": np.asarray(scaler.mean_, float),
        "malignancy.scale": np.asarray(scaler.scale_, float),
        "malignancy.coefficients": np.asarray(model.coef_[0], float),
        "malignancy.intercept": np.asarray(model.intercept_, float),
    }
    return tensors, card.operating_points(truth, score)


def write(
    out: Path,
    network: UNet3d,
    tensors: dict[str, NDArray[np.float64]],
    cut: float,
    points: list[card.Cut],
    how: card.Training,
) -> StoredModel:
    """Write weights and manifest into ``out`` and return the model."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    metadata = {"features": ",".join(FEATURES), "training": json.dumps(how.as_json(), sort_keys=True)}
    save_file({**weights, **tensors}, out / WEIGHTS, metadata=metadata)
    (out / MANIFEST_NAME).write_text(
        card.manifest(cut, points, receptive_radius=network.receptive_radius, weights=WEIGHTS), "utf-8"
    )
    return open_folder(out)


def main(
    out: Annotated[Path, typer.Option(help="Folder that the model is written into.")],
    phantoms: Annotated[int, typer.Option(help="Training phantoms; each is imaged twice.")] = 240,
    steps: Annotated[int, typer.Option(help="Updates of the network.")] = 900,
    measured: Annotated[int, typer.Option(help="Fresh phantoms for cut, class and operating points.")] = 240,
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
        task = bar.add_task("training", total=steps)
        fit(
            network,
            material,
            steps=steps,
            seed=seed,
            progress=lambda step, loss: bar.update(
                task, completed=step, description=f"training, loss {loss:.3f}"
            ),
        )
        seen = measure(network, measuring, measured, bar)
        cut = calibrated_cut(seen)
        tensors, points = learn_class(seen, cut)
        how = card.Training(
            phantoms=phantoms, scans_each=SCANS_EACH, steps=steps, measured=len(seen), seed=seed
        )
        model = write(out, network, tensors, cut, points, how)
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
        held_out.figures(readings, points[0].threshold),
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
