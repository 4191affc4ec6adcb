import pytest
import torch
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.models.heads.noise import NoiseHead
from basinet.models.model import Model
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import mean_terms
from basinet.objectives.denoising import Denoising
from basinet.structures.batch import Batch, collate
from molecules import HELIUM, SMALL

SIGMA = 0.04
DENOISING = Denoising(CoordinateNoise(SIGMA))


class Oracle(NoiseHead):
    """Knows the clean positions; its predictions are wrong by ``error`` in every component."""

    def __init__(self, clean: Batch, error: float) -> None:
        super().__init__(16, 16)
        self.clean, self.error = clean, error

    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        return self.normalizer(self.clean.positions - batch.positions) + self.error


@pytest.fixture
def batch() -> Batch:
    return collate(SMALL, dtype=torch.float64)


def loss(model: Model, batch: Batch, seed: int = 0) -> float:
    sums = DENOISING.sums(model, batch, torch.Generator().manual_seed(seed))
    return mean_terms({key: value.detach() for key, value in sums.items()}, DENOISING.counts(batch))["denoising"]


def statistics(model: Model) -> list[Tensor]:
    return [buffer.clone() for buffer in model.noise_head().normalizer.buffers()]


def test_whoever_knows_the_clean_positions_has_no_loss(model: Model, batch: Batch) -> None:
    assert loss(model.with_heads(noise=Oracle(batch, 0.0)), batch) < 1e-20


def test_doubling_the_error_quadruples_the_loss(model: Model, batch: Batch) -> None:
    once, twice = (loss(model.with_heads(noise=Oracle(batch, error)), batch) for error in (0.3, 0.6))
    assert once == pytest.approx(0.09, rel=1e-10)
    assert twice / once == pytest.approx(4, rel=1e-10)


def test_predicting_zero_has_a_loss_of_one(model: Model) -> None:
    atoms = collate([HELIUM], dtype=torch.float64).select([0] * 40_000)
    with torch.no_grad():
        for parameter in model.noise_head().parameters():
            parameter.zero_()
        for seed in range(3):
            loss(model.train(), atoms, seed)
        found = sum(loss(model.eval(), atoms, seed) for seed in range(10, 13)) / 3
    assert found == pytest.approx(1, abs=0.01)
    assert model.noise_head().normalizer.deviation.tolist() == pytest.approx([SIGMA] * 3, rel=0.01)


def test_training_takes_in_the_statistics_of_the_batch_and_evaluation_leaves_them(model: Model, batch: Batch) -> None:
    loss(model.train(), batch)
    after_training = statistics(model)
    assert float(model.noise_head().normalizer.count) == batch.n_atoms
    loss(model.eval(), batch, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(after_training, statistics(model), strict=True))


def test_the_same_generator_gives_the_same_loss(model: Model, batch: Batch) -> None:
    model.eval()
    assert loss(model, batch, 3) == loss(model, batch, 3) != loss(model, batch, 4)


def test_it_needs_no_labels_and_counts_components(model: Model, batch: Batch) -> None:
    assert DENOISING.requires == {"noise"}
    assert DENOISING.labels == DENOISING.flags == frozenset()
    assert DENOISING.counts(batch) == {"denoising": 3 * batch.n_atoms}


def test_no_molecules_have_no_loss(model: Model, batch: Batch) -> None:
    before = statistics(model)
    sums = DENOISING.sums(model.train(), batch.select([]), torch.Generator())
    assert {key: float(value) for key, value in sums.items()} == {"denoising": 0}
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))


def test_the_gradient_reaches_the_backbone(model: Model, batch: Batch) -> None:
    DENOISING.sums(model, batch, torch.Generator().manual_seed(0))["denoising"].backward()
    gradient = model.get_parameter("backbone.embedding.weight").grad
    assert gradient is not None
    assert gradient.abs().max() > 0
