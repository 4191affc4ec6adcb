"""Fractional denoising learns a force; beside labels it leaves them alone."""

import math

import pytest
import torch
from torch import Tensor

from basinet.models.model import Model, with_outputs
from basinet.noise.coordinate import CoordinateNoise
from basinet.noise.internal import HybridNoise, RotorNoise, require_rotors, turn_rotors
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.objectives.combine import WeightedSum
from basinet.objectives.denoising import Denoising
from basinet.objectives.methods import (
    AnyObjectiveConfig,
    EtOreoConfig,
    FradConfig,
    FradNoisyNodesConfig,
    FradVRNConfig,
    UnifiedConfig,
)
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.objectives.supervised import Energy, EnergyForces, Forces
from basinet.structures.batch import Batch, collate
from molecules import HELIUM, WATER, from_smiles

PEROXIDE = from_smiles("OO")
TAU = 0.04
FINE = HybridNoise(RotorNoise(math.radians(20)), CoordinateNoise(0.005))


def labelled_with_bonds(smiles: str, seed: int) -> Batch:
    forces = torch.randn(from_smiles(smiles).n_atoms, 3, generator=torch.Generator().manual_seed(seed))
    return collate(
        [from_smiles(smiles, labels={"energy": -float(seed), "forces": forces.numpy()})], dtype=torch.float64
    )


@pytest.fixture
def batch() -> Batch:
    molecules = [from_smiles(s, is_equilibrium=True) for s in ("CCO", "CC(=O)NC", "c1ccccc1")]
    return collate(molecules, dtype=torch.float64)


def sums_of(objective: Objective, model: Model, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    return objective.sums(model, batch, torch.Generator().manual_seed(seed))


def gradient(objective: Objective, model: Model, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    total_loss(objective, sums_of(objective, model, batch, seed), objective.counts(batch)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_best_prediction_is_the_score_and_that_of_all_the_noise_is_not(generator: torch.Generator) -> None:
    # While the rotor turns little, noisy positions are Gaussian with Σ = τ² + σ² c cᵀ and the best prediction of a
    # displacement is linear. Of the Gaussian part it is τ² ∇log p = -τ² Σ⁻¹ (r - r0). Of all the noise it is -(r - r0).
    sigma, tau, n = math.radians(1), 0.01 / 3, 40_000
    one = collate([PEROXIDE], dtype=torch.float64)
    rotors = require_rotors(one).rotors
    step = torch.full((1,), 1e-6, dtype=torch.float64)
    turn = (turn_rotors(one.positions, rotors, step) - turn_rotors(one.positions, rotors, -step)) / 2e-6
    c = turn.flatten()
    covariance = tau**2 * torch.eye(12, dtype=torch.float64) + sigma**2 * torch.outer(c, c)
    batch = one.select([0] * n)
    perturbed = HybridNoise(RotorNoise(sigma), CoordinateNoise(tau))(batch, generator)
    moved = (perturbed.batch.positions - batch.positions).reshape(n, 12)
    target = (tau * perturbed.target).reshape(n, 12)
    found = torch.linalg.lstsq(moved, target).solution
    score = -(tau**2) * torch.linalg.inv(covariance)
    # Soft along the rotor, where the score is weak: a prediction of all the noise would have -1 there.
    along = c / torch.linalg.vector_norm(c)
    expected = -(tau**2) / (tau**2 + sigma**2 * float(c @ c))
    assert expected > -0.2
    assert float(along @ found @ along) == pytest.approx(expected, abs=0.01)
    assert float((found - score).abs().max()) < 0.03
    assert float((found + torch.eye(12)).abs().max()) > 0.4


def test_coordinate_noise_on_two_wells_gives_the_score_between_them() -> None:
    # One atom on a line, p = ½ N(-½, τ²) + ½ N(½, τ²): the mean target in a bin of noisy positions is τ² d/dx log p.
    tau, n = 0.3, 400_000
    generator = torch.Generator().manual_seed(0)
    well = (torch.randint(0, 2, (n,), generator=generator) - 0.5).double()
    one = collate([HELIUM], dtype=torch.float64).select([0] * n)
    clean = one.replace(positions=torch.stack([well, 0 * well, 0 * well], dim=1))
    perturbed = CoordinateNoise(tau)(clean, generator)
    x, target = perturbed.batch.positions[:, 0].contiguous(), tau * perturbed.target[:, 0]
    edges = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64)
    bins = torch.bucketize(x, edges)
    centre = torch.stack([x[bins == b].mean() for b in range(1, 41)])
    found = torch.stack([target[bins == b].mean() for b in range(1, 41)])
    weight = torch.softmax(torch.stack([-((centre + 0.5) ** 2), -((centre - 0.5) ** 2)]) / (2 * tau**2), dim=0)
    score = weight[0] * (-0.5 - centre) + weight[1] * (0.5 - centre)
    assert float((found - score).abs().max()) < 0.02 * float(score.max() - score.min())
    assert float((found - score).square().mean().sqrt()) < 0.01 * float(score.max() - score.min())


@pytest.mark.parametrize(
    "objective",
    [FradConfig().build(), FradVRNConfig().build(), UnifiedConfig().build()],
    ids=["frad", "vrn", "unified"],
)
def test_a_method_trains_the_noise_head_from_minima(objective: Objective, model: Model, batch: Batch) -> None:
    found = gradient(objective, with_outputs(model, objective.requires), batch)
    assert any(name.startswith("heads.noise.") and g.abs().max() > 0 for name, g in found.items())
    other = batch.replace(flags={"is_equilibrium": torch.zeros(3, dtype=torch.bool)})
    assert all(count == 0 for count in objective.counts(other).values())


def test_statistics_of_larger_noise_hide_a_smaller_one_unless_they_are_forgotten(model: Model) -> None:
    batch = collate([from_smiles("CCO")], dtype=torch.float64).select([0] * 2000)
    with torch.no_grad():
        for parameter in model.noise_head().parameters():
            parameter.zero_()
    coarse, fine = Denoising(CoordinateNoise(0.04)), Denoising(FINE)
    for seed in range(3):
        sums_of(coarse, model.train(), batch, seed)

    def loss() -> float:
        sums = {key: value.detach() for key, value in sums_of(fine, model.eval(), batch, 9).items()}
        return mean_terms(sums, fine.counts(batch))["denoising"]

    assert loss() == pytest.approx((0.005 / 0.04) ** 2, rel=0.02)  # 0.0156: the weight of the term is 64 times smaller
    model.reset_target_normalizer()
    sums_of(fine, model.train(), batch, 8)
    assert loss() == pytest.approx(1.0, rel=0.02)


class TestNoiseBesideLabels:
    """Decoupled Noisy Nodes: energies and forces on clean positions, noise beside them."""

    labels = EnergyForces(0.2, 0.8, "mse")
    both = WeightedSum(labels=(1.0, labels), noise=(0.1, Denoising(FINE)))

    def test_labels_do_not_see_the_noise(self, model: Model) -> None:
        batch = labelled_with_bonds("CCO", 1)
        plain = sums_of(self.labels, model, batch)
        for seed in range(3):
            both = sums_of(self.both, model, batch, seed)
            for key, value in plain.items():
                assert torch.equal(both[f"labels.{key}"], value)

    def test_without_the_noise_the_gradients_are_those_of_labels_alone(self, model: Model) -> None:
        batch = labelled_with_bonds("CCO", 1)
        plain = gradient(self.labels, model, batch)
        found = gradient(FradNoisyNodesConfig(loss="mse", denoising=0.0).build(), model, batch)
        assert plain.keys() == found.keys()
        assert all(torch.equal(plain[name], found[name]) for name in plain)
        assert not all(
            torch.equal(plain[name], g) for name, g in gradient(self.both, model, batch).items() if name in plain
        )

    def test_a_step_builds_forces_once(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[set[str]] = []
        forward = Model.forward

        def spy(self: Model, batch: Batch, outputs: list[str], **options: object) -> dict[str, Tensor]:
            asked.append(set(outputs))
            return forward(self, batch, outputs, **options)

        monkeypatch.setattr(Model, "forward", spy)
        sums_of(self.both, model, labelled_with_bonds("CCO", 1))
        assert asked == [{"energy", "forces"}, {"noise"}]


class TestLabelsOfNoisyMolecules:
    """Plain Noisy Nodes: labels of the molecule on noisy positions."""

    def test_the_label_is_compared_on_noisy_positions_in_training_and_on_clean_ones_in_evaluation(
        self, model: Model
    ) -> None:
        batch = labelled_with_bonds("CCO", 1)
        noised, plain = NoisyNodes(Energy(), CoordinateNoise(0.05), 0.1), Energy()
        assert float(sums_of(noised, model.eval(), batch)["labels"].detach()) == pytest.approx(
            float(sums_of(plain, model, batch)["energy"].detach()), rel=1e-12
        )
        by_seed = {float(sums_of(noised, model.train(), batch, seed)["labels"].detach()) for seed in (1, 2, 1)}
        assert len(by_seed) == 2
        noisy = CoordinateNoise(0.05)(batch, torch.Generator().manual_seed(1)).batch
        expected = sums_of(plain, model, noisy.replace(labels=batch.labels, flags=batch.flags))["energy"]
        assert float(expected.detach()) in by_seed

    def test_forces_of_clean_positions_are_refused(self) -> None:
        with pytest.raises(ValueError, match="forces belong to the clean positions .*kind=frad_noisy_nodes"):
            NoisyNodes(Forces(), CoordinateNoise(0.005), 0.1)

    def test_it_has_both_terms(self, model: Model) -> None:
        objective = NoisyNodes(Energy(), CoordinateNoise(0.005), 0.2)
        assert objective.weights == {"labels": 1.0, "noise": 0.2}
        assert objective.requires == {"energy", "noise"}
        assert sums_of(objective, model, labelled_with_bonds("CCO", 1)).keys() == objective.weights.keys()

    def test_the_energy_alone_is_the_energy_term_of_both(self, model: Model) -> None:
        molecules = [from_smiles("CCO", labels={"energy": -3.0}), WATER]
        batch = collate(molecules, dtype=torch.float64)
        assert Energy().counts(batch) == {"energy": 1}
        both = sums_of(EnergyForces(1.0, 1.0), model, batch)["energy"]
        assert torch.allclose(sums_of(Energy(), model, batch)["energy"], both, rtol=1e-12)
        assert float(sums_of(Energy(), model, batch.select([1]))["energy"]) == 0


SETTINGS: list[AnyObjectiveConfig] = [
    FradConfig(),
    FradVRNConfig(),
    FradVRNConfig(scales="radians"),
    FradConfig(rotors="heavy"),
    FradNoisyNodesConfig(rotors="heavy"),
    FradNoisyNodesConfig(denoising=0.0),
    EtOreoConfig(),
    UnifiedConfig(),
]


@pytest.mark.parametrize("config", SETTINGS, ids=lambda c: c.kind)
def test_every_setting_builds_an_objective_that_runs(config: AnyObjectiveConfig, model: Model, batch: Batch) -> None:
    objective = config.build()
    sums = sums_of(objective, with_outputs(model, objective.requires), batch)
    assert sums.keys() == objective.weights.keys() == objective.counts(batch).keys()
    assert all(bool(torch.isfinite(value)) for value in sums.values())


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="sigma is in radians, and 2.0 rad are 115°"):
        FradConfig(rotor_sigma=2.0)
    with pytest.raises(ValueError, match="20.0 rad are 1146°"):
        FradNoisyNodesConfig(rotor_sigma=20.0)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        EtOreoConfig(temperature=0.0)
    with pytest.raises(ValueError, match="denoising must be at least 0, got -1"):
        FradNoisyNodesConfig(denoising=-1.0)
