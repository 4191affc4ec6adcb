import pytest
import torch
from torch import Tensor

from basinet.models.model import Model
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.objectives.supervised import EnergyForces, ForceLoss, Forces, ZeroForce, force_error
from basinet.structures.batch import Batch, collate
from molecules import AMMONIUM, BENZENE, ETHANOL, HELIUM, METHANE, WATER, at_equilibrium, labelled

EXACT = 1e-10
"""Relative, float64."""
SOFTENING = 1e-6
"""eV/Å: what the norm of a zero error is, so that it has a gradient."""
LOSSES: list[ForceLoss] = ["norm", "l1", "mse"]
OBJECTIVES = {
    "forces": Forces(),
    "forces, l1": Forces("l1"),
    "zero force": ZeroForce(),
    "energy and forces": EnergyForces(0.5, 2.0, "mse"),
}


@pytest.fixture
def batch() -> Batch:
    """Return labelled molecules, molecules at equilibrium, and one of neither kind."""
    molecules = [labelled(ETHANOL, 1), at_equilibrium(WATER), labelled(HELIUM, 2), METHANE, at_equilibrium(BENZENE)]
    return collate([*molecules, labelled(AMMONIUM, 3, is_equilibrium=True)], dtype=torch.float64)


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> Objective:
    return OBJECTIVES[request.param]


def labelled_by(model: Model, batch: Batch, *, force_error: float = 0.0, energy_error: float = 0.0) -> Batch:
    """Return the batch with the labels that the model predicts, up to the stated errors."""
    found = model(batch, ["energy", "forces"], create_graph=False)
    flags = {key: torch.ones(batch.n_molecules, dtype=torch.bool) for key in ("has_energy", "has_forces")}
    direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    labels = {"energy": found["energy"] + energy_error, "forces": found["forces"] + force_error * direction}
    return batch.replace(labels=labels, flags=flags)


def means(objective: Objective, model: Model, batch: Batch) -> dict[str, float]:
    sums = objective.sums(model, batch, torch.Generator())
    return mean_terms({key: value.detach() for key, value in sums.items()}, objective.counts(batch))


def gradient(objective: Objective, model: Model, batch: Batch) -> list[Tensor]:
    model.zero_grad()
    total_loss(objective, objective.sums(model, batch, torch.Generator()), objective.counts(batch)).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_perfect_predictor_has_no_error(model: Model, batch: Batch, loss: ForceLoss) -> None:
    perfect = labelled_by(model, batch)
    found = means(EnergyForces(1.0, 1.0, loss), model, perfect) | means(Forces(loss), model, perfect)
    assert max(found.values()) <= SOFTENING * (1 + EXACT)


@pytest.mark.parametrize(("loss", "of_one"), [("norm", 1.0), ("l1", 5 / 9), ("mse", 1 / 3)])
def test_an_error_of_one_on_every_atom_has_a_known_loss(
    model: Model, batch: Batch, loss: ForceLoss, of_one: float
) -> None:
    off = labelled_by(model, batch, force_error=1.0)
    assert means(Forces(loss), model, off)["forces"] == pytest.approx(of_one, rel=EXACT)


@pytest.mark.parametrize(("loss", "factor"), [("norm", 2), ("l1", 2), ("mse", 4)])
def test_doubling_the_error_doubles_a_length_and_quadruples_a_square(
    model: Model, batch: Batch, loss: ForceLoss, factor: float
) -> None:
    once, twice = (means(Forces(loss), model, labelled_by(model, batch, force_error=e))["forces"] for e in (1, 2))
    assert twice / once == pytest.approx(factor, rel=EXACT)


def test_the_length_of_an_error_does_not_depend_on_the_axes() -> None:
    errors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    assert force_error(errors, "norm").tolist() == pytest.approx([5, 5], rel=EXACT)
    at_zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(force_error(at_zero, "norm").sum(), at_zero)
    assert slope.tolist() == [[0, 0, 0]]


def test_the_energy_error_is_per_atom_and_averaged_over_molecules(model: Model, batch: Batch) -> None:
    off = labelled_by(model, batch, energy_error=1.8)
    expected = float((1.8 / batch.atoms_per_molecule.double()).mean())
    assert means(EnergyForces(1.0, 1.0), model, off)["energy"] == pytest.approx(expected, rel=EXACT)


def test_a_shift_of_the_energies_does_not_change_the_error_of_forces(model: Model, batch: Batch) -> None:
    before = means(Forces(), model, batch)
    model.energy_scale.references += torch.linspace(-2000, 10, 100, dtype=torch.float64)
    assert means(Forces(), model, batch) == pytest.approx(before, rel=EXACT)
    assert means(EnergyForces(1.0, 1.0), model, batch)["forces"] == pytest.approx(before["forces"], rel=EXACT)


@pytest.mark.parametrize("objective", [Forces(), Forces("mse"), EnergyForces(1.0, 1.0)])
def test_what_stands_where_labels_are_missing_changes_neither_loss_nor_gradient(
    model: Model, batch: Batch, objective: Objective
) -> None:
    assert bool(batch.labels["forces"].isnan().any())
    filled = batch.replace(labels={key: value.nan_to_num(1e6) for key, value in batch.labels.items()})
    assert means(objective, model, batch) == means(objective, model, filled)
    for ours, theirs in zip(gradient(objective, model, batch), gradient(objective, model, filled), strict=True):
        assert bool(ours.isfinite().all())
        assert torch.equal(ours, theirs)


def test_sums_and_counts_of_two_halves_add_up(model: Model, batch: Batch, objective: Objective) -> None:
    halves = [batch.select([0, 3, 4]), batch.select([1, 2, 5])]
    sums, counts = objective.sums(model, batch, torch.Generator()), objective.counts(batch)
    for key in objective.weights:
        assert sum(objective.counts(half)[key] for half in halves) == counts[key] > 0
        parts = [float(objective.sums(model, half, torch.Generator())[key].detach()) for half in halves]
        assert sum(parts) == pytest.approx(float(sums[key].detach()), rel=EXACT)


def test_counts_are_of_what_the_terms_are_averaged_over(batch: Batch) -> None:
    assert Forces().counts(batch) == {"forces": 9 + 1 + 5}
    assert ZeroForce().counts(batch) == {"zero_force": 3 + 12 + 5}
    assert EnergyForces(1.0, 1.0).counts(batch) == {"energy": 3, "forces": 15}


def test_a_batch_without_labels_counts_nothing_and_has_no_loss(
    model: Model, batch: Batch, objective: Objective
) -> None:
    for bare in (batch.without_labels().replace(flags={}), batch.select([])):
        counts, sums = objective.counts(bare), objective.sums(model, bare, torch.Generator())
        assert set(counts.values()) == {0}
        assert [float(value.detach()) for value in sums.values()] == [0] * len(counts)
        assert float(total_loss(objective, sums, counts).detach()) == 0
        assert mean_terms(sums, counts) == {}


def test_the_force_at_equilibrium_is_driven_to_zero(model: Model, batch: Batch) -> None:
    forces = model(batch, ["forces"], create_graph=False)["forces"]
    chosen = batch.flags["is_equilibrium"][batch.molecule]
    expected = float(torch.linalg.vector_norm(forces[chosen], dim=1).mean())
    assert means(ZeroForce(), model, batch)["zero_force"] == pytest.approx(expected, abs=SOFTENING)


@pytest.mark.parametrize(
    "name", ["backbone.layers.0.output.bias", "heads.energy.readout.atoms.gated.second.hidden.weight"]
)
def test_gradients_of_a_force_loss_are_finite_differences(model: Model, batch: Batch, name: str) -> None:
    objective = ZeroForce()
    parameter = model.get_parameter(name)
    gradient(objective, model, batch)
    assert parameter.grad is not None
    largest = int(parameter.grad.abs().argmax())
    ours = float(parameter.grad.flatten()[largest])
    step = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.view(-1)[largest] += sign * step
        values.append(means(objective, model, batch)["zero_force"])
        with torch.no_grad():
            parameter.view(-1)[largest] -= sign * step
    assert ours != 0
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(ours, rel=1e-6)


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_weights_that_are_not_positive_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="weights must be positive and finite, got energy .*; for forces alone use"):
        EnergyForces(*weights)
