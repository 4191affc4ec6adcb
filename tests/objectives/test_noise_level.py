import math

import pytest
import torch
from torch import Tensor

from basinet.backbones.base import NodeFeatures
from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.heads.property import Readout
from basinet.models.model import Model, build_model
from basinet.noise.base import Perturbed
from basinet.noise.ladder import NoiseLadder, geometric_ladder
from basinet.noise.riemannian import LadderNoise, RiemannianNoise
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.objectives.noise_level import EnergyGradientDenoising, NoiseLevel
from basinet.structures.batch import Batch, collate
from closed_energies import energy_head
from molecules import BENZENE, ETHANOL, HELIUM, SMALL, WATER, bonded, from_smiles

EGNN_TINY = EGNNConfig(n_features=16, n_layers=2)
ET_TINY = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)


@pytest.fixture
def batch() -> Batch:
    return collate([bonded(m) for m in SMALL], dtype=torch.float64)


@pytest.fixture(params=[EGNN_TINY, ET_TINY], ids=["egnn", "equivariant transformer"])
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(request.param), ["pooled_energy", "noise_level"]).double()


def zeroed(model: Model) -> Model:
    """Return a model whose heads say zero."""
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    return model


def loss(objective: Objective, model: Model, batch: Batch, seed: int = 0) -> float:
    sums = objective.sums(model, batch, torch.Generator().manual_seed(seed))
    (value,) = mean_terms({key: value.detach() for key, value in sums.items()}, objective.counts(batch)).values()
    return value


class Spring(Readout):
    """Pulls every atom to the clean position; its gradient is the target of Gaussian noise up to ``factor``."""

    def __init__(self, clean: Batch, sigma: float, factor: float) -> None:
        super().__init__()
        self.clean, self.sigma, self.factor = clean, sigma, factor

    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        squared = (batch.positions - self.clean.positions).square().sum(-1)
        return (
            self.factor
            * squared.new_zeros(batch.n_molecules).index_add(0, batch.molecule, squared)
            / (2 * self.sigma**2)
        )


def test_whoever_knows_the_gradient_has_no_loss_and_doubling_the_error_quadruples_it(batch: Batch) -> None:
    sigma = 0.3
    model = build_model(build_backbone(EGNN_TINY), ["energy"]).double()
    objective = EnergyGradientDenoising(LadderNoise(NoiseLadder([sigma])))
    # -grad of |x - r|^2 / (2 s^2) is the target -epsilon over s; times s it is the target itself.
    springs = [energy_head(Spring(batch, sigma, sigma * f), model.backbone, pooled=True) for f in (1.0, 1.1, 1.2)]
    perfect, off, twice = (loss(objective, model.with_heads(energy=spring), batch) for spring in springs)
    assert perfect < 1e-20
    assert twice == pytest.approx(4 * off, rel=1e-9)


def test_predicting_no_gradient_has_the_squared_length_of_the_target_as_loss(model: Model) -> None:
    ethanol = from_smiles("CCO")
    batch = collate([ethanol] * 500, dtype=torch.float64)
    positions = batch.positions[:9] - batch.positions[:9].mean(0)
    inertia = positions.T @ positions
    small = 9 + 1 + float(torch.trace(inertia) ** 2 / inertia.square().sum())
    for sigma, expected, tolerance in ((1e-4, small, 0.05), (1e4, 50.4, 0.05)):
        objective = EnergyGradientDenoising(RiemannianNoise(NoiseLadder([sigma])))
        assert loss(objective, zeroed(model), batch) == pytest.approx(expected, rel=tolerance)


def test_the_gradient_loss_is_a_sum_over_atoms_and_a_mean_over_molecules(model: Model) -> None:
    class Same(LadderNoise):
        """The same target on every atom, whatever the molecule."""

        def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
            ones = torch.ones_like(batch.positions)
            return Perturbed(batch, ones, batch.positions.new_ones(batch.n_molecules), None)

    objective = EnergyGradientDenoising(Same(NoiseLadder([1.0])))
    zero = zeroed(model)
    one, two, large = (
        collate([bonded(m) for m in molecules], dtype=torch.float64)
        for molecules in ([WATER], [WATER, WATER], [BENZENE])
    )
    assert loss(objective, zero, one) == loss(objective, zero, two) == 9
    assert loss(objective, zero, large) == 36
    assert objective.counts(two) == {"gradient": 2.0}


def test_a_model_that_knows_nothing_has_the_logarithm_of_fifty_as_loss(model: Model, batch: Batch) -> None:
    objective = NoiseLevel(RiemannianNoise(geometric_ladder()))
    assert loss(objective, zeroed(model), batch) == pytest.approx(math.log(50), abs=1e-12)
    assert objective.counts(batch) == {"noise_level": float(len(SMALL))}


def test_the_level_is_that_of_the_noise(batch: Batch) -> None:
    ladder = geometric_ladder()

    class Knowing(Model):
        """Reads the level from how far atoms moved; sure of it by ``confidence``."""

        def noise_level(self, clean: Batch, noisy: Batch, **_: object) -> Tensor:
            levels = ladder.draw(batch, torch.Generator().manual_seed(0)).level
            return 1e3 * torch.nn.functional.one_hot(levels, 50).double()

    knowing = Knowing(build_backbone(EGNN_TINY), {})
    assert loss(NoiseLevel(RiemannianNoise(ladder)), knowing, batch) == 0
    assert loss(NoiseLevel(RiemannianNoise(ladder)), knowing, batch, seed=1) > 100


def test_gradients_reach_the_backbone_from_both_molecules(model: Model, batch: Batch) -> None:
    objective = NoiseLevel(RiemannianNoise(geometric_ladder()))
    objective.sums(model, batch, torch.Generator().manual_seed(0))["noise_level"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.heads["noise_level"].parameters())
    assert bool(next(model.backbone.parameters()).grad.any())


@pytest.mark.parametrize("objective", [EnergyGradientDenoising, NoiseLevel])
def test_no_molecules_have_no_loss(objective: type, model: Model, batch: Batch, generator: torch.Generator) -> None:
    term = objective(RiemannianNoise(geometric_ladder()))
    empty = batch.select([])
    assert float(total_loss(term, term.sums(model, empty, generator), term.counts(empty))) == 0


@pytest.mark.parametrize("objective", [EnergyGradientDenoising, NoiseLevel])
def test_a_lone_atom_has_a_finite_loss_with_finite_gradients(
    objective: type, model: Model, generator: torch.Generator
) -> None:
    term = objective(RiemannianNoise(geometric_ladder()))
    lone = collate([bonded(HELIUM), bonded(ETHANOL)], dtype=torch.float64)
    (value,) = term.sums(model, lone, generator).values()
    value.backward()
    assert math.isfinite(float(value.detach()))
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_validation_needs_no_gradient_mode(model: Model, batch: Batch, generator: torch.Generator) -> None:
    noise = RiemannianNoise(geometric_ladder())
    with torch.no_grad():
        for term in (EnergyGradientDenoising(noise), NoiseLevel(noise)):
            (value,) = term.sums(model.eval(), batch, generator).values()
            assert not value.requires_grad


def test_a_ladder_of_another_number_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="the head has 50 levels of noise, and this ladder has 3; use geometric"):
        NoiseLevel(RiemannianNoise(NoiseLadder([1.0, 0.5, 0.1])))
