"""Three tissues that no sequence separates alone, against the best that any method can do."""

from __future__ import annotations

import numpy as np
import pytest
from phantoms import axial_grid
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import adjusted_rand_score

from voxtrial.daemon.errors import Misconfigured, Refused
from voxtrial.daemon.measure.habitats import habitats
from voxtrial.daemon.volume import Mask, Volume

GRID = axial_grid((12, 30, 30), (3.0, 1.0, 1.0))
DELTA = 4.0
"""Height of each tissue in its own sequence, in units of the noise."""


def lesion(seed: int = 0) -> tuple[list[Volume], Mask, np.ndarray]:
    """Tissue k is bright in sequence k alone: the means stand on the corners of a simplex."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, GRID.shape)
    volumes = [
        Volume(array=100 + 20 * (DELTA * (truth == k) + rng.normal(size=GRID.shape)), affine=GRID.affine)
        for k in range(3)
    ]
    region = Mask(array=np.ones(GRID.shape, bool), affine=GRID.affine)
    return volumes, region, truth


def best_accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy after naming each habitat by its most frequent tissue."""
    return sum(np.bincount(truth[labels == k]).max() for k in np.unique(labels)) / truth.size


def test_all_sequences_together_reach_the_bayes_rate_and_none_alone_does() -> None:
    """Bayes rate of the corners: integral of phi(z) Phi(z + d)^2; of one sequence: 2/3 Phi(d / 2)."""
    volumes, region, truth = lesion()
    joint_rate, _ = quad(lambda z: norm.pdf(z) * norm.cdf(z + DELTA) ** 2, -8, 8)
    single_rate = 2 / 3 * norm.cdf(DELTA / 2)
    rng = np.random.default_rng(1)
    joint = habitats(volumes, region, 3, rng=rng)
    assert best_accuracy(joint.labels, truth) == pytest.approx(joint_rate, abs=0.003)
    assert adjusted_rand_score(truth.ravel(), joint.labels.ravel()) > 0.97
    for volume in volumes:
        alone = habitats([volume], region, 3, rng=rng)
        assert best_accuracy(alone.labels, truth) < single_rate + 0.01 < joint_rate


def test_volumes_and_means_are_those_of_the_tissues() -> None:
    volumes, region, truth = lesion()
    found = habitats(volumes, region, 3, rng=np.random.default_rng(1))
    assert sum(found.volumes_ml) == pytest.approx(truth.size * 3 / 1000)
    np.testing.assert_allclose(
        sorted(found.volumes_ml), sorted(np.bincount(truth.ravel()) * 0.003), rtol=0.02
    )
    np.testing.assert_allclose(np.sort(found.means, axis=0)[-1], 180, atol=2)
    np.testing.assert_allclose(np.sort(found.means, axis=0)[0], 100, atol=2)
    assert found.means[0, 0] <= found.means[1, 0] <= found.means[2, 0]
    assert found.certainty > 0.99


def test_information_criterion_finds_the_number_of_tissues() -> None:
    volumes, region, _ = lesion()
    found = habitats(volumes, region, range(1, 6), rng=np.random.default_rng(2))
    assert len(found.volumes_ml) == 3
    assert min(found.bic, key=lambda k: found.bic[k]) == 3


def test_outside_of_the_region_is_zero_and_does_not_matter() -> None:
    volumes, region, _ = lesion()
    inside = np.zeros(GRID.shape, bool)
    inside[3:9] = True
    spoiled = [v.with_array(np.where(inside, v.array, 1e6)) for v in volumes]
    part = Mask(array=inside, affine=region.affine)
    one = habitats(volumes, part, 3, rng=np.random.default_rng(3))
    other = habitats(spoiled, part, 3, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.labels[~inside] == 0).all()
    assert (one.labels[inside] > 0).all()


def test_what_cannot_be_divided_is_refused() -> None:
    volumes, region, _ = lesion()
    rng = np.random.default_rng(4)
    small = np.zeros(GRID.shape, bool)
    small[0, 0, :10] = True
    with pytest.raises(Refused, match="too few"):
        habitats(volumes, Mask(array=small, affine=GRID.affine), 3, rng=rng)
    moved = Volume(array=volumes[0].array, affine=np.diag([1.0, 1, 1, 1]))
    with pytest.raises(Refused, match="different grids"):
        habitats([moved], region, 3, rng=rng)
    with pytest.raises(Misconfigured):
        habitats(volumes, region, 0, rng=rng)
