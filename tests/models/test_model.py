import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.heads.distance import DistanceScoreHead
from basinet.models.model import Model, build_model, with_outputs
from basinet.models.scope import Scope
from basinet.structures.batch import Batch, collate
from basinet.structures.segment import centre_per_molecule, sum_per_molecule
from molecules import ETHANOL, HELIUM, SMALL, WATER

ROUNDING = 1e-12
"""eV/Å, eV: float64, numbers of order one."""


@pytest.fixture
def batch() -> Batch:
    return collate(SMALL, dtype=torch.float64)


def test_outputs_have_the_shapes_and_dtypes_they_promise(model: Model, batch: Batch) -> None:
    found = model(batch, ["noise", "forces", "energy"])
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "energy": (7,),
        "forces": (batch.n_atoms, 3),
        "noise": (batch.n_atoms, 3),
    }
    assert model.float()(batch.to(dtype=torch.float32), ["energy"])["energy"].dtype == torch.float64


def test_only_what_is_asked_for_is_returned(model: Model, batch: Batch) -> None:
    for wanted in ("energy", "forces", "noise"):
        assert list(model(batch, [wanted])) == [wanted]


def test_a_model_says_what_it_offers_and_refuses_the_rest(
    backbone_config: EquivariantTransformerConfig, batch: Batch
) -> None:
    model = build_model(build_backbone(backbone_config), ["noise"])
    assert model.offers == {"noise"}
    with pytest.raises(ValueError, match=r"the model offers \['noise'\], asked for \['energy', 'forces'\]"):
        model(batch, ["energy", "forces", "noise"])
    assert build_model(build_backbone(backbone_config), ["forces"]).offers == {"energy", "forces"}


def test_unknown_outputs_and_heads_are_refused(backbone_config: EquivariantTransformerConfig) -> None:
    backbone = build_backbone(backbone_config)
    with pytest.raises(
        ValueError, match=r"unknown outputs \['dipole'\]; choose from \['distance_score', 'energy', 'forces', 'noise'"
    ):
        build_model(backbone, ["energy", "dipole"])
    with pytest.raises(
        ValueError,
        match="the head 'forces' must be of type PropertyHead, got DistanceScoreHead",
    ):
        Model(backbone, {"forces": DistanceScoreHead(16)})
    with pytest.raises(ValueError, match="the head 'noise' must be of type NoiseHead, got DistanceScoreHead"):
        Model(backbone, {"noise": DistanceScoreHead(16)})


def test_forces_on_a_molecule_have_no_net_force_and_no_torque(model: Model, batch: Batch) -> None:
    forces = model.eval()(batch, ["forces"])["forces"]
    arms = centre_per_molecule(batch.positions, batch)
    assert sum_per_molecule(forces, batch).abs().max() < ROUNDING
    assert sum_per_molecule(torch.linalg.cross(arms, forces), batch).abs().max() < ROUNDING
    assert forces.abs().max() > 1e-3


def test_forces_are_minus_the_gradient_of_the_energy(model: Model, batch: Batch) -> None:
    positions = batch.positions.clone().requires_grad_()
    energy = model(batch.replace(positions=positions), ["energy"])["energy"]
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    assert torch.equal(model.eval()(batch, ["forces"])["forces"], -gradient)


def test_in_training_forces_can_be_differentiated_and_otherwise_only_on_request(model: Model, batch: Batch) -> None:
    assert model.train()(batch, ["forces"])["forces"].requires_grad
    assert not model.eval()(batch, ["forces"])["forces"].requires_grad
    assert model(batch, ["forces"], create_graph=True)["forces"].requires_grad
    assert not model.train()(batch, ["forces"], create_graph=False)["forces"].requires_grad
    asked_together = model.eval()(batch, ["energy", "forces", "noise"])
    assert not any(value.requires_grad for value in asked_together.values())


def test_forces_need_no_gradient_mode_around_them(model: Model, batch: Batch) -> None:
    model.eval()
    outside = model(batch, ["forces"])["forces"]
    with torch.no_grad():
        assert torch.equal(model(batch, ["forces"])["forces"], outside)
        assert not model(batch, ["energy"])["energy"].requires_grad


def test_a_model_with_other_heads_has_the_same_weights_elsewhere(model: Model, batch: Batch) -> None:
    model.energy_scale.references[1] = -13.6
    model.scope = Scope(frozenset({1, 6, 8}), "GFN2-xTB")
    without_noise = model.with_heads(noise=None)
    assert without_noise.offers == {"energy", "forces"}
    assert without_noise.scope == model.scope
    assert torch.equal(without_noise(batch, ["energy"])["energy"], model(batch, ["energy"])["energy"])
    assert set(model.offers) == {"energy", "forces", "noise"}


def test_outputs_are_added_beside_those_there_are(model: Model, batch: Batch) -> None:
    assert torch.equal(with_outputs(model, ["forces"])(batch, ["noise"])["noise"], model(batch, ["noise"])["noise"])
    with_energy = with_outputs(model.with_heads(energy=None), ["energy"])
    assert with_energy.offers == {"energy", "forces", "noise"}
    assert torch.equal(with_energy(batch, ["noise"])["noise"], model(batch, ["noise"])["noise"])


def test_added_heads_compute_in_the_dtype_of_the_backbone(model: Model, batch: Batch) -> None:
    extended = with_outputs(model.with_heads(energy=None, noise=None), ["energy", "noise"])
    assert extended(batch, ["noise"])["noise"].dtype == torch.float64
    single = with_outputs(model.with_heads(energy=None, noise=None).float(), ["energy", "noise"])
    assert single.noise_head().normalizer.total.dtype == torch.float64


def test_a_model_without_a_noise_head_says_so(model: Model) -> None:
    with pytest.raises(ValueError, match=r"the model has no noise head; it offers \['energy', 'forces'\]"):
        model.with_heads(noise=None).reset_target_normalizer()


def test_resetting_the_normaliser_forgets_the_noise_seen_so_far(model: Model) -> None:
    model.noise_head().normalizer.update(torch.ones(3, 3))
    model.reset_target_normalizer()
    assert float(model.noise_head().normalizer.count) == 0


def test_elements_the_model_has_never_seen_are_refused_by_name() -> None:
    scope = Scope(frozenset({1, 6}), "")
    scope.check(collate(SMALL).select([5, 6]))
    with pytest.raises(ValueError, match="the model knows the elements H C, the data also has He O; leave those mole"):
        scope.check(collate([ETHANOL, WATER, HELIUM]))
    Scope(frozenset(), "").check(collate(SMALL))
