import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.checkpoint import load_model, n_parameters, save_model
from basinet.models.heads import (
    AtomicEnergyHead,
    InvariantEnergyHead,
    NoiseLevelHead,
    PooledEnergyHead,
    build_head,
)
from basinet.models.model import Model, build_model, with_outputs, without_pretraining_heads
from basinet.structures.batch import Batch, collate
from basinet.structures.segment import centre_per_molecule, sum_per_molecule
from molecules import ETHANOL, SMALL, WATER, apart, bonded, moved, random_orthogonal

EGNN_TINY = EGNNConfig(n_features=16, n_layers=2)
LOCAL_TINY = EGNNConfig(n_features=16, n_layers=2, graph=RadiusGraph())
ROUNDING = 1e-12
"""float64, numbers of order one."""


def batch_of(*molecules: object) -> Batch:
    return collate([bonded(m) for m in molecules], dtype=torch.float64)


def model_of(config: EGNNConfig | EquivariantTransformerConfig, *outputs: str) -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(config), outputs).double().eval()


def test_the_energy_head_suits_the_features_of_the_backbone(backbone_config: EquivariantTransformerConfig) -> None:
    assert type(model_of(backbone_config, "energy").heads["energy"]) is AtomicEnergyHead
    assert type(model_of(LOCAL_TINY, "forces").heads["energy"]) is InvariantEnergyHead
    assert type(model_of(LOCAL_TINY, "forces", "noise_level").heads["energy"]) is PooledEnergyHead
    assert type(model_of(backbone_config, "noise_level").heads["energy"]) is PooledEnergyHead


def test_a_backbone_without_vectors_predicts_none() -> None:
    with pytest.raises(ValueError, match="EGNN has no vector features, and the noise head needs them; choose an objec"):
        model_of(EGNN_TINY, "energy", "noise")


def test_the_published_heads_have_the_published_number_of_parameters() -> None:
    backbone = build_backbone(EGNNConfig())
    assert n_parameters(build_head("pooled_energy", backbone)) == 33_024 + 16_641
    assert n_parameters(build_head("noise_level", backbone)) == 39_346


def test_atomic_energies_add_up_and_pooled_energies_do_not() -> None:
    together, parts = batch_of(apart(ETHANOL, WATER, 30.0)), batch_of(ETHANOL, WATER)
    for model, adds_up in ((model_of(LOCAL_TINY, "energy"), True), (model_of(LOCAL_TINY, "noise_level"), False)):
        difference = model(together, ["energy"])["energy"].sum() - model(parts, ["energy"])["energy"].sum()
        assert (abs(float(difference.detach())) < ROUNDING) == adds_up


@pytest.mark.parametrize("reflect", [False, True])
def test_a_pooled_energy_is_invariant_and_its_forces_have_no_net_force_and_no_torque(reflect: bool) -> None:
    model, batch = model_of(EGNN_TINY, "noise_level"), batch_of(*SMALL)
    rotation = random_orthogonal(0, reflect=reflect)
    found = model(batch, ["energy", "forces"])
    turned = model(moved(batch, rotation, torch.tensor([1.0, 2.0, -3.0])), ["energy", "forces"])
    assert (found["energy"] - turned["energy"]).abs().max() < ROUNDING
    assert (found["forces"] @ rotation.T - turned["forces"]).abs().max() < ROUNDING
    assert sum_per_molecule(found["forces"], batch).abs().max() < ROUNDING
    torque = torch.linalg.cross(centre_per_molecule(batch.positions, batch), found["forces"])
    assert sum_per_molecule(torque, batch).abs().max() < ROUNDING
    assert found["forces"].abs().max() > 1e-4


def test_forces_of_a_pooled_energy_are_finite_differences() -> None:
    model, batch = model_of(EGNN_TINY, "noise_level"), batch_of(ETHANOL)
    forces = model(batch, ["forces"])["forces"]
    h = 1e-4
    for atom, axis in ((0, 0), (4, 1), (8, 2)):
        energies: list[float] = []
        for step in (-2, -1, 1, 2):
            positions = batch.positions.clone()
            positions[atom, axis] += step * h
            energies.append(float(model(batch.replace(positions=positions), ["energy"])["energy"].detach()))
        numerical = (energies[3] - 8 * energies[2] + 8 * energies[1] - energies[0]) / (12 * h)
        assert float(forces[atom, axis]) == pytest.approx(numerical, rel=1e-6, abs=1e-9)


def test_noise_levels_are_asked_of_two_batches_and_their_order_matters() -> None:
    model, clean = model_of(EGNN_TINY, "forces", "noise_level"), batch_of(*SMALL)
    noisy = clean.replace(positions=clean.positions + 0.1 * torch.randn_like(clean.positions))
    assert model.offers == {"energy", "forces", "noise_level"}
    logits = model.noise_level(clean, noisy)
    assert logits.shape == (len(SMALL), 50)
    assert (logits - model.noise_level(noisy, clean)).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"noise_level compares two batches; call model.noise_level\(clean, noisy\)"):
        model(clean, ["noise_level"])


def test_noise_levels_need_a_pooled_energy(backbone_config: EquivariantTransformerConfig) -> None:
    atomic = model_of(backbone_config, "energy")
    with pytest.raises(ValueError, match="of a PooledEnergyHead, and the energy head of this model is AtomicEnergyHea"):
        with_outputs(atomic, ["noise_level"])
    with pytest.raises(ValueError, match="the energy head of this model is missing"):
        Model(atomic.backbone, {"noise_level": NoiseLevelHead(16)})
    assert with_outputs(atomic.with_heads(energy=None), ["noise_level"]).offers == {"energy", "forces", "noise_level"}


def test_fine_tuning_keeps_the_backbone_and_drops_the_heads_of_pretraining(
    backbone_config: EquivariantTransformerConfig,
) -> None:
    model = model_of(EGNN_TINY, "forces", "noise_level")
    bare = without_pretraining_heads(model, ["energy", "forces"])
    assert bare.offers == frozenset()
    fresh = with_outputs(bare, ["energy", "forces"])
    assert fresh.backbone is model.backbone
    assert type(fresh.heads["energy"]) is InvariantEnergyHead
    assert without_pretraining_heads(model, ["forces", "noise_level"]).offers == model.offers
    denoised = model_of(backbone_config, "energy", "noise")
    assert without_pretraining_heads(denoised, ["forces"]).offers == {"energy", "forces"}
    assert without_pretraining_heads(denoised, ["forces", "noise"]).offers == denoised.offers


@pytest.mark.parametrize(
    "outputs", [("energy",), ("noise_level",)], ids=["atomic energy", "pooled energy and noise levels"]
)
def test_a_model_comes_back_from_its_file_with_the_heads_it_had(tmp_path, outputs: tuple[str, ...]) -> None:
    model, batch = model_of(EGNN_TINY, *outputs), batch_of(*SMALL)
    save_model(model, tmp_path / "model.safetensors", EGNN_TINY)
    loaded, config, _ = load_model(tmp_path / "model.safetensors")
    loaded.eval()
    assert config == EGNN_TINY
    assert {k: type(h) for k, h in loaded.heads.items()} == {k: type(h) for k, h in model.heads.items()}
    assert torch.equal(loaded(batch, ["forces"])["forces"], model(batch, ["forces"])["forces"])
    if "noise_level" in outputs:
        assert torch.equal(loaded.noise_level(batch, batch), model.noise_level(batch, batch))
