"""Denoising as a force, and the force-centric objective made with it."""

import pytest
import torch
from torch import Tensor, nn

from basinet.backbones.base import NodeFeatures
from basinet.models.heads.property import Readout
from basinet.models.model import Model
from basinet.noise.base import Perturbation, Perturbed
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import mean_terms, total_loss
from basinet.objectives.denoising import ForceDenoising, spring_constant
from basinet.objectives.methods import EtOreoConfig
from basinet.objectives.supervised import ForceLoss, ZeroForce
from basinet.structures.batch import Batch, collate
from basinet.structures.geometry import project_out_rigid_motion
from basinet.structures.molecule import Molecule
from basinet.structures.segment import sum_per_molecule
from closed_energies import energy_head
from molecules import AMMONIUM, BENZENE, CARBON_MONOXIDE, ETHANOL, HELIUM, WATER, at_equilibrium, labelled

ROOM_TEMPERATURE = 298.15
SOFTENING = 1e-6
"""eV/Å: what the norm of a zero error is, so that it has a gradient."""


class Tether(Readout):
    """½ k |r - r0|² for each atom: a spring to a place, not a physical energy, but one whose forces are plain."""

    def __init__(self, home: Tensor, stiffness: float) -> None:
        super().__init__()
        self.home, self.stiffness = home, stiffness

    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        return sum_per_molecule(0.5 * self.stiffness * (batch.positions - self.home).square().sum(-1), batch)


class BondSpring(Readout):
    """½ k (d - d0)² of diatomics, both to be learned."""

    def __init__(self, stiffness: float, length: float) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))
        self.length = nn.Parameter(torch.tensor(length, dtype=torch.float64))

    def forward(self, features: NodeFeatures, batch: Batch) -> Tensor:
        first, second = batch.positions.reshape(-1, 2, 3).unbind(1)
        return 0.5 * self.stiffness * (torch.linalg.vector_norm(second - first, dim=-1) - self.length).square()


class Still(Perturbation):
    """Noise of a stated size that happens to be zero."""

    def __call__(self, batch: Batch, generator: torch.Generator) -> Perturbed:
        x = batch.positions
        return Perturbed(batch.without_labels(), torch.zeros_like(x), x.new_full((batch.n_molecules,), 1e-9), None)


def mean_of(objective: ForceDenoising | ZeroForce, model: Model, batch: Batch, seed: int = 0) -> float:
    sums = objective.sums(model, batch, torch.Generator().manual_seed(seed))
    (found,) = mean_terms({key: value.detach() for key, value in sums.items()}, objective.counts(batch)).values()
    return found


@pytest.mark.parametrize(("sigma", "expected"), [(0.02, 64.23), (0.04, 16.058), (0.05, 10.28), (0.1, 2.569)])
def test_the_spring_has_the_stiffness_of_the_noise_at_room_temperature(sigma: float, expected: float) -> None:
    found = float(spring_constant(torch.tensor(sigma, dtype=torch.float64), ROOM_TEMPERATURE))
    assert found == pytest.approx(expected, rel=5e-4)


def test_whoever_pulls_back_with_that_spring_has_no_error(model: Model) -> None:
    batch = collate([ETHANOL, WATER, CARBON_MONOXIDE], dtype=torch.float64)
    kappa = float(spring_constant(torch.tensor(0.04, dtype=torch.float64), ROOM_TEMPERATURE))
    noisy = CoordinateNoise(0.04)(batch, torch.Generator().manual_seed(0))
    pull = project_out_rigid_motion(kappa * 0.04 * noisy.target, noisy.batch)
    # A tether whose home lies so that its force is exactly the projected pull.
    oracle = model.with_heads(energy=energy_head(Tether(noisy.batch.positions + pull / kappa, kappa), model.backbone))
    assert mean_of(ForceDenoising(CoordinateNoise(0.04)), oracle, batch) < 2 * SOFTENING
    weak = model.with_heads(
        energy=energy_head(Tether(noisy.batch.positions + pull / kappa, 0.9 * kappa), model.backbone)
    )
    expected = 0.1 * float(torch.linalg.vector_norm(pull, dim=-1).mean())
    assert mean_of(ForceDenoising(CoordinateNoise(0.04)), weak, batch) == pytest.approx(expected, rel=1e-6)


def test_the_target_has_no_net_force_and_no_torque(model: Model, generator: torch.Generator) -> None:
    batch = collate([ETHANOL, CARBON_MONOXIDE, HELIUM], dtype=torch.float64)
    noisy = CoordinateNoise(0.04)(batch, generator)
    target = project_out_rigid_motion(noisy.target, noisy.batch)
    assert sum_per_molecule(target, batch).abs().max() < 1e-10
    assert sum_per_molecule(torch.linalg.cross(noisy.batch.positions, target), batch).abs().max() < 1e-10


@pytest.mark.parametrize(("molecule", "n_rigid"), [(ETHANOL, 6), (BENZENE, 6), (CARBON_MONOXIDE, 5)])
def test_what_no_energy_could_learn_is_taken_out_of_the_target(
    molecule: Molecule, n_rigid: int, generator: torch.Generator
) -> None:
    n_draws, n_atoms = 20_000, molecule.n_atoms
    batch = collate([molecule], dtype=torch.float64).select([0] * n_draws)
    noise = torch.randn(n_draws * n_atoms, 3, generator=generator, dtype=torch.float64)
    kept = project_out_rigid_motion(noise, batch).square().sum() / noise.square().sum()
    assert float(kept) == pytest.approx(1 - n_rigid / (3 * n_atoms), rel=0.01)


@pytest.mark.parametrize("loss", ["norm", "l1", "mse"])
def test_without_noise_it_is_the_vanishing_force(model: Model, loss: ForceLoss) -> None:
    batch = collate([at_equilibrium(ETHANOL), at_equilibrium(WATER)], dtype=torch.float64)
    assert mean_of(ForceDenoising(Still(), loss=loss), model, batch) == mean_of(ZeroForce(loss), model, batch)


def test_the_vanishing_force_measures_a_displaced_spring(model: Model) -> None:
    batch = collate([at_equilibrium(ETHANOL)], dtype=torch.float64)
    for shift, expected in ((0.0, SOFTENING), (0.2, 3.0 * 0.2)):
        moved = batch.positions + shift * torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
        spring = model.with_heads(energy=energy_head(Tether(moved, 3.0), model.backbone))
        assert mean_of(ZeroForce(), spring, batch) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("objective", [ZeroForce(), ForceDenoising(CoordinateNoise(0.04))], ids=["zero", "denoising"])
def test_its_gradient_is_that_of_finite_differences(model: Model, objective: ZeroForce | ForceDenoising) -> None:
    batch = collate([at_equilibrium(ETHANOL)], dtype=torch.float64)
    total_loss(
        objective, objective.sums(model, batch, torch.Generator().manual_seed(0)), objective.counts(batch)
    ).backward()
    checked = 0
    for parameter in list(model.backbone.parameters())[:6]:
        assert parameter.grad is not None
        place = int(parameter.grad.abs().argmax())
        slope = float(parameter.grad.flatten()[place])
        if abs(slope) < 1e-8:
            continue
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.flatten()[place] += step
                values.append(mean_of(objective, model, batch))
                parameter.flatten()[place] -= step
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
        checked += 1
    assert checked >= 3


def test_a_diatomic_denoised_at_one_temperature_learns_the_spring_of_that_temperature(model: Model) -> None:
    sigma, length = 0.02, 1.2
    batch = collate([CARBON_MONOXIDE], dtype=torch.float64).select([0] * 4000)
    batch = batch.replace(
        positions=torch.tensor([[-length / 2, 0, 0], [length / 2, 0, 0]], dtype=torch.float64).repeat(4000, 1)
    )
    spring = BondSpring(1.0, 1.1)
    learner = model.with_heads(energy=energy_head(spring, model.backbone)).train()
    objective = ForceDenoising(CoordinateNoise(sigma), loss="mse")
    optimizer = torch.optim.LBFGS(spring.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        sums = objective.sums(learner, batch, torch.Generator().manual_seed(1))
        loss = total_loss(objective, sums, objective.counts(batch))
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    # Both atoms are pulled by kappa times half the stretch.
    kappa = float(spring_constant(torch.tensor(sigma, dtype=torch.float64), ROOM_TEMPERATURE))
    assert float(spring.stiffness.detach()) == pytest.approx(kappa / 2, rel=0.05)
    assert float(spring.length.detach()) == pytest.approx(length, abs=0.002)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature must be positive and finite \(K\), got"):
        ForceDenoising(CoordinateNoise(0.04), temperature)


def test_single_atoms_and_no_molecules_have_no_pull(model: Model, generator: torch.Generator) -> None:
    objective = ForceDenoising(CoordinateNoise(0.04))
    atom = collate([HELIUM], dtype=torch.float64)
    assert mean_of(objective, model, atom) < 2 * SOFTENING
    assert float(objective.sums(model, atom.select([]), generator)["force_denoising"]) == 0


class TestForceCentricPretraining:
    """ET-OREO as a whole."""

    @pytest.fixture
    def batch(self) -> Batch:
        """Return molecules off and at equilibrium, with a level of energy of their own."""
        molecules = [labelled(ETHANOL, 1), at_equilibrium(WATER), labelled(AMMONIUM, 2), at_equilibrium(BENZENE)]
        return collate(molecules, dtype=torch.float64)

    def terms(self, model: Model, batch: Batch) -> dict[str, float]:
        """Return the mean of each term."""
        objective = EtOreoConfig().build()
        sums = objective.sums(model, batch, torch.Generator().manual_seed(0))
        return mean_terms({key: value.detach() for key, value in sums.items()}, objective.counts(batch))

    def test_energies_and_their_offsets_never_enter(self, model: Model, batch: Batch) -> None:
        other = batch.replace(labels={**batch.labels, "energy": batch.labels["energy"] + 1234.5})
        gradients = []
        for b in (batch, other):
            model.zero_grad()
            objective = EtOreoConfig().build()
            total_loss(
                objective, objective.sums(model, b, torch.Generator().manual_seed(0)), objective.counts(b)
            ).backward()
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
        assert "energy" not in objective.requires

    def test_a_mixed_batch_is_the_atom_weighted_mean_of_its_sources(self, model: Model, batch: Batch) -> None:
        whole = self.terms(model, batch)
        forces = {k: self.terms(model, batch.select([k]))["forces"] for k in (0, 2)}
        assert whole["forces"] == pytest.approx((9 * forces[0] + 5 * forces[2]) / 14, rel=1e-10)
        zero = {k: self.terms(model, batch.select([k]))["zero_force"] for k in (1, 3)}
        assert whole["zero_force"] == pytest.approx((3 * zero[1] + 12 * zero[3]) / 15, rel=1e-10)

    def test_each_molecule_reaches_only_its_own_terms(self, model: Model, batch: Batch) -> None:
        assert batch.labels["forces"].isnan().any()  # of the minima
        assert all(torch.isfinite(torch.tensor(value)) for value in self.terms(model, batch).values())
        assert self.terms(model, batch.select([1])).keys() == {"zero_force", "denoising"}
        assert self.terms(model, batch.select([0])).keys() == {"forces"}
