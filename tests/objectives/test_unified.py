"""Forces, vanishing forces, Frad and the level of noise in one objective."""

import dataclasses
import math

import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.config import read_settings
from basinet.models.heads.noise_level import PooledNoiseLevelHead
from basinet.models.heads.property import ENERGY
from basinet.models.model import Model, build_model
from basinet.noise.ladder import NoiseLadder, geometric_ladder
from basinet.noise.riemannian import LadderNoise
from basinet.objectives.base import mean_terms, total_loss
from basinet.objectives.combine import WeightedSum
from basinet.objectives.methods import ObjectiveConfig, UnifiedConfig
from basinet.objectives.noise_level import NoiseLevel
from basinet.structures import Molecule
from basinet.structures.batch import Batch, collate
from molecules import from_smiles

ET_TINY = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)
LABEL = 0.6
"""Length of every force label, eV/Å."""


def labelled_frame(smiles: str) -> Molecule:
    minimum = from_smiles(smiles)
    forces = torch.zeros(minimum.n_atoms, 3, dtype=torch.float64)
    forces[:, 1] = LABEL
    return dataclasses.replace(minimum, labels={"forces": forces.numpy()})


@pytest.fixture
def batch() -> Batch:
    """Return two minima without labels and a labelled frame that is none."""
    minima = [dataclasses.replace(from_smiles(s), is_equilibrium=True) for s in ("CCO", "c1ccccc1C")]
    return collate([*minima, labelled_frame("CCN")], dtype=torch.float64)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(ET_TINY), UnifiedConfig().build().requires).double()


def means(model: Model, batch: Batch, seed: int = 0) -> dict[str, float]:
    objective = UnifiedConfig().build()
    sums = objective.sums(model, batch, torch.Generator().manual_seed(seed))
    return mean_terms({key: value.detach() for key, value in sums.items()}, objective.counts(batch))


def gradients(model: Model, batch: Batch, term: str) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    UnifiedConfig().build().sums(model, batch, torch.Generator().manual_seed(0))[term].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_it_needs_an_energy_in_ev_and_two_heads_beside_it(model: Model) -> None:
    objective = UnifiedConfig().build()
    assert objective.requires == {"forces", "noise", "noise_level"}
    assert objective.labels == {"forces"}
    assert objective.flags == {"is_equilibrium", "has_rotors"}
    assert objective.weights == {"forces": 1.0, "zero_force": 0.1, "denoising": 0.1, "noise_level": 0.2}
    assert model.energy_head().form == ENERGY
    assert type(model.heads["noise_level"]) is PooledNoiseLevelHead


def test_terms_are_counted_over_the_molecules_they_are_for(batch: Batch) -> None:
    assert UnifiedConfig().build().counts(batch) == {
        "forces": 10.0,
        "zero_force": 9.0 + 15.0,
        "denoising": 3 * (9.0 + 15.0),
        "noise_level": 2.0,
    }


def test_a_model_that_says_nothing_pays_the_label_no_vanishing_force_one_and_the_logarithm_of_fifty(
    model: Model, batch: Batch
) -> None:
    with torch.no_grad():
        for parameter in model.heads.parameters():
            parameter.zero_()
    many = batch.select([0, 1, 2] * 100)
    found = means(model, many)
    assert found["forces"] == pytest.approx(LABEL)
    assert found["zero_force"] == pytest.approx(0.0, abs=2e-6)
    assert found["denoising"] == pytest.approx(1.0, rel=0.02)
    assert found["noise_level"] == pytest.approx(math.log(50))


def test_terms_for_which_there_is_no_molecule_are_left_out(model: Model, batch: Batch) -> None:
    assert set(means(model, batch.select([0, 1]))) == {"zero_force", "denoising", "noise_level"}
    assert set(means(model, batch.select([2]))) == {"forces"}
    objective, empty = UnifiedConfig().build(), batch.select([])
    sums = objective.sums(model, empty, torch.Generator().manual_seed(0))
    assert float(total_loss(objective, sums, objective.counts(empty))) == 0


@pytest.mark.parametrize("term", ["forces", "zero_force", "denoising", "noise_level"])
def test_every_term_teaches_the_backbone_and_its_own_head_alone(model: Model, batch: Batch, term: str) -> None:
    found = gradients(model, batch, term)
    assert any(name.startswith("backbone.") for name in found)
    heads = {name.split(".")[1] for name in found if name.startswith("heads.")}
    assert heads == {{"forces": "energy", "zero_force": "energy", "denoising": "noise"}.get(term, term)}


def test_the_force_and_level_terms_need_no_vectors() -> None:
    parts = {name: (1.0, part) for name, part in UnifiedConfig().build().parts.items() if name != "denoising"}
    objective = WeightedSum(**parts)
    model = build_model(build_backbone(EGNNConfig(n_features=16, n_layers=1)), objective.requires).double()
    assert model.energy_head().form == ENERGY
    lone = dataclasses.replace(from_smiles("[He]"), is_equilibrium=True)
    batch = collate([lone, labelled_frame("CCO")], dtype=torch.float64)
    sums = objective.sums(model, batch, torch.Generator().manual_seed(0))
    total_loss(objective, sums, objective.counts(batch)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_settings_choose_weights_and_levels() -> None:
    values = {"kind": "unified", "noise_level": 0.5, "zero_force": 1.0, "largest_sigma": 1.0}
    objective = read_settings(ObjectiveConfig, values, "test").build()
    assert objective.weights == {"forces": 1.0, "zero_force": 1.0, "denoising": 0.1, "noise_level": 0.5}
    ladder = objective.parts["noise_level"].objective.perturbation.ladder
    assert (ladder.sigmas[0], ladder.sigmas[-1]) == (1.0, 0.01)
    default = read_settings(ObjectiveConfig, {"kind": "unified"}, "test").build()
    assert default.weights == UnifiedConfig().build().weights
    assert default.parts["noise_level"].objective.perturbation.ladder.sigmas == geometric_ladder(0.3, 0.01).sigmas


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise_level": 0.0}, "noise_level must be positive, got 0.0"),
        ({"smallest_sigma": 0.5}, "expected 0 < smallest < largest .*, got smallest 0.5 and largest 0.3"),
        ({"rotor_sigma": 2.0}, "sigma is in radians"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(ObjectiveConfig, {"kind": "unified", **values}, "test")


def test_a_ladder_of_another_number_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="the head has 50 levels of noise, and this ladder has 2"):
        NoiseLevel(LadderNoise(NoiseLadder([0.3, 0.1])))
