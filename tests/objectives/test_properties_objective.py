"""The loss of a property: known values, units, missing labels, and Noisy Nodes in one pass."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.heads.property import PropertyForm, build_property_head
from basinet.models.model import Model
from basinet.noise.coordinate import CoordinateNoise
from basinet.objectives.base import Objective
from basinet.objectives.noisy_nodes import NoisyNodes
from basinet.objectives.properties import NoisyNodesConfig, Property, PropertyConfig, property_error
from basinet.structures.batch import Batch, collate
from basinet.units import BOHR
from molecules import ETHANOL, HELIUM, METHANE, WATER, from_smiles, molecule

NOISE = CoordinateNoise(0.05)


@pytest.fixture
def with_property(model: Model, backbone_config: EquivariantTransformerConfig) -> Model:
    head = build_property_head(PropertyForm("sum", "Angstrom^3"), model.backbone)
    head.standard.scale.fill_(2.0)
    return model.with_heads(alpha=head, energy=None).double()


@pytest.fixture
def batch() -> Batch:
    values = (3.0, None, 1.5, 0.2)
    of = (ETHANOL, METHANE, WATER, HELIUM)
    labels = [{} if v is None else {"alpha": v} for v in values]
    records = [molecule(m.atomic_numbers, m.positions, labels=x) for m, x in zip(of, labels, strict=True)]
    return collate(records, dtype=torch.float64)


def sums(objective: Objective, model: Model, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    return objective.sums(model, batch, torch.Generator().manual_seed(seed))


def errors(model: Model, batch: Batch) -> Tensor:
    has = batch.flags["has_alpha"]
    return (model(batch, ["alpha"])["alpha"] - batch.labels["alpha"])[has].detach()


def test_labels_that_are_missing_are_not_read(with_property: Model, batch: Batch) -> None:
    objective = Property("alpha")
    assert objective.counts(batch) == {"property": 3}
    assert objective.uses(batch).tolist() == [True, False, True, True]
    assert bool(sums(objective, with_property, batch)["property"].isfinite())
    assert float(sums(objective, with_property, batch.select([1]))["property"]) == 0


def test_the_error_is_taken_in_units_of_the_scale_or_in_the_unit_asked_for(with_property: Model, batch: Batch) -> None:
    error = errors(with_property, batch)
    found = {unit: float(sums(Property("alpha", "mse", unit), with_property, batch)["property"].detach())
             for unit in (None, "Angstrom^3", "bohr^3")}  # fmt: skip
    assert found[None] == pytest.approx(float((error / 2).square().sum()))
    assert found["Angstrom^3"] == pytest.approx(float(error.square().sum()))
    assert found["bohr^3"] == pytest.approx(float((error / BOHR**3).square().sum()))
    with pytest.raises(ValueError, match=r"'alpha' is in Angstrom\^3, and its error cannot be taken in D"):
        sums(Property("alpha", "mse", "D"), with_property, batch)


def test_a_perfect_prediction_costs_nothing(with_property: Model, batch: Batch) -> None:
    exact = batch.replace(labels={"alpha": with_property(batch, ["alpha"])["alpha"].detach()})
    for loss in ("mse", "l1", "smooth_l1"):
        assert float(sums(Property("alpha", loss), with_property, exact)["property"].detach()) < 1e-12


def test_the_losses_of_an_error_are_what_they_are_called() -> None:
    error = torch.tensor([-2.0, 0.5])
    assert property_error(error, "mse").tolist() == [4.0, 0.25]
    assert property_error(error, "l1").tolist() == [2.0, 0.5]
    assert property_error(error, "smooth_l1").tolist() == [1.5, 0.125]


class TestNoisyNodes:
    """One noisy molecule, one pass, two terms."""

    def test_the_network_is_run_once_in_training(self, with_property: Model, batch: Batch) -> None:
        passes: list[Any] = []
        with_property.backbone.register_forward_pre_hook(lambda *_: passes.append(1))
        sums(NoisyNodes(Property("alpha"), NOISE, 0.1), with_property.train(), batch)
        assert len(passes) == 1

    def test_both_terms_are_those_of_the_same_noisy_molecules(self, with_property: Model, batch: Batch) -> None:
        objective = NoisyNodes(Property("alpha", "l1", "Angstrom^3"), NOISE, 0.1)
        found = sums(objective, with_property.train(), batch, seed=4)
        labelled = batch.select([0, 2, 3])
        perturbed = NOISE(labelled, torch.Generator().manual_seed(4))
        outputs = with_property(perturbed.batch, ["alpha", "noise"])
        target = with_property.noise_head().normalizer(0.05 * perturbed.target)
        error = outputs["alpha"] - labelled.labels["alpha"]
        assert float(found["labels"].detach()) == pytest.approx(float(error.abs().sum().detach()), rel=1e-12)
        assert float(found["noise"].detach()) == pytest.approx(
            float((outputs["noise"] - target).square().sum().detach()), rel=1e-12
        )
        assert objective.counts(batch) == {"labels": 3, "noise": 3 * (9 + 3 + 1)}

    def test_in_evaluation_the_label_is_that_of_the_clean_molecule(self, with_property: Model, batch: Batch) -> None:
        before = with_property.noise_head().normalizer.state_dict()
        found = sums(NoisyNodes(Property("alpha"), NOISE, 0.1), with_property.eval(), batch)["labels"]
        expected = sums(Property("alpha"), with_property, batch)["property"]
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        assert all(torch.equal(v, before[k]) for k, v in with_property.noise_head().normalizer.state_dict().items())

    def test_without_labels_there_is_nothing_to_do(self, with_property: Model, batch: Batch) -> None:
        objective = NoisyNodes(Property("alpha"), NOISE, 0.1)
        for none in (batch.select([1]), batch.select([])):
            assert objective.counts(none) == {"labels": 0, "noise": 0}
            assert [float(x) for x in sums(objective, with_property.train(), none).values()] == [0, 0]

    @pytest.mark.parametrize("weight", [0.0, -1.0, math.inf])
    def test_the_weight_is_positive(self, weight: float) -> None:
        with pytest.raises(ValueError, match="weight of the noise must be positive"):
            NoisyNodes(Property("alpha"), NOISE, weight)

    def test_the_settings_turn_rotors_only_if_asked(self, with_property: Model) -> None:
        ethanol = from_smiles("CCO", labels={"alpha": 1.0})
        labels = PropertyConfig(label="alpha")
        turned = NoisyNodesConfig(labels=labels, rotor_sigma=0.03)
        bare = collate([molecule(ETHANOL.atomic_numbers, ETHANOL.positions, labels={"alpha": 1.0})], torch.float64)
        sums(NoisyNodesConfig(labels=labels).build(), with_property.train(), bare)
        sums(turned.build(), with_property, collate([ethanol], torch.float64))
        assert turned.build().uses(bare).tolist() == [False]  # without bonds there are no rotors to turn
        assert turned.build().counts(bare) == {"labels": 0, "noise": 0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": "energy"}, "cannot be called 'energy'"),
        ({"label": "mu", "readout": "dipole"}, "to which nothing is added; got baseline=mean, expected baseline=none"),
        ({"label": "mu", "loss_unit": "Debye"}, "unknown unit 'Debye' of a property"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PropertyConfig(**values)
