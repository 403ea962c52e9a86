"""A component is a finding when the classifier of the model holds it for a lesion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from voxtrial.daemon.errors import Fatal
from voxtrial.daemon.inference.classifier import FEATURES, Logistic
from voxtrial.daemon.inference.postprocess import findings
from voxtrial.daemon.inference.predict import Prediction
from voxtrial.daemon.models.manifest import MANIFEST_NAME
from voxtrial.daemon.models.store import BUILTIN, StoredModel, open_folder
from voxtrial.daemon.volume import Volume


def regression(feature: str, *, slope: float, at: float) -> Logistic:
    """One half where ``feature`` is ``at``, rising with ``slope``; deaf to every other feature."""
    coefficients = np.zeros(len(FEATURES))
    coefficients[FEATURES.index(feature)] = slope
    return Logistic(
        mean=np.full(len(FEATURES), at),
        scale=np.ones(len(FEATURES)),
        coefficients=coefficients,
        intercept=np.zeros(1),
    )


def model(folder: Path, *, lesion: Logistic | None) -> StoredModel:
    """The built-in manifest; malignancy by sphericity, ``lesion`` judges the components."""
    lines = (BUILTIN / "nodule-phantom" / MANIFEST_NAME).read_text().splitlines()
    lines = [line for line in lines if not line.startswith("minimum_lesion_probability")]
    lines.insert(lines.index("[findings]") + 1, "minimum_lesion_probability = 0.5")
    (folder / MANIFEST_NAME).write_text("\n".join(lines))
    tensors = regression("sphericity", slope=1.0, at=0.0).tensors("malignancy")
    if lesion:
        tensors |= lesion.tensors("lesion")
    save_file(tensors, folder / "weights.safetensors", metadata={"features": ",".join(FEATURES)})
    return open_folder(folder)


def ball_and_rod() -> tuple[Prediction, Volume]:
    """A ball of 6 mm radius and a rod of 3 mm radius and 40 mm length, certain everywhere, on 1 mm."""
    z, y, x = np.indices((60, 48, 48)).astype(np.float32)
    ball = np.sqrt((z - 30) ** 2 + (y - 14) ** 2 + (x - 14) ** 2) < 6
    rod = (np.hypot(y - 35, x - 35) < 3) & (abs(z - 30) < 20)
    probability = (ball | rod).astype(np.float32)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    volume = Volume(array=probability, affine=affine, unit="1")
    prediction = Prediction(
        probabilities=probability[None], grid=volume.grid, exclusive=False, model_digest="0" * 64
    )
    return prediction, volume


def test_logistic_regression_in_closed_form() -> None:
    """Log odds of 2 (x - 3) at x = 4 are 2: 1 / (1 + e^-2) = 0.880797."""
    values = np.zeros(len(FEATURES))
    values[FEATURES.index("solidity")] = 4.0
    judge = regression("solidity", slope=2.0, at=3.0)
    assert judge.probability(values) == pytest.approx(0.8807970779778823, abs=1e-15)


def test_a_rod_is_no_finding_where_the_model_rejects_what_is_drawn_out(tmp_path: Path) -> None:
    """The middle axis of a ball is as long as its longest; of the rod it is 3 / 20 of it."""
    prediction, volume = ball_and_rod()
    rejecting = model(tmp_path, lesion=regression("elongation", slope=10.0, at=0.5))
    (found,) = findings(prediction, volume.grid, rejecting, {"ct": volume})
    z, y, x = np.argwhere(found.mask).mean(axis=0)
    assert (round(z), round(y), round(x)) == (30, 14, 14)
    assert found.roi == 1
    assert found.scores["malignancy"] == pytest.approx(1 / (1 + np.exp(-0.96)), abs=0.02)


def test_the_rod_is_found_where_round_things_are_rejected(tmp_path: Path) -> None:
    prediction, volume = ball_and_rod()
    rejecting = model(tmp_path, lesion=regression("elongation", slope=-10.0, at=0.5))
    (found,) = findings(prediction, volume.grid, rejecting, {"ct": volume})
    assert np.argwhere(found.mask).mean(axis=0).round().tolist() == [30, 35, 35]


def test_weights_without_the_coefficients_that_the_manifest_asks_for_are_named(tmp_path: Path) -> None:
    prediction, volume = ball_and_rod()
    with pytest.raises(Fatal, match="hold no lesion classifier"):
        findings(prediction, volume.grid, model(tmp_path, lesion=None), {"ct": volume})
