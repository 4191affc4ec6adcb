import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.models.checkpoint import load_model, n_parameters, save_model
from basinet.models.heads.build import build_head
from basinet.models.heads.noise_level import PooledNoiseLevelHead, SharedNoiseLevelHead
from basinet.models.heads.property import ENERGY, POOLED_ENERGY, ScalarReadout, build_property_head
from basinet.models.model import Model, build_model, with_outputs, without_pretraining_heads
from basinet.structures.batch import Batch, collate
from basinet.structures.dense import DenseNeighbors
from basinet.structures.segment import centre_per_molecule, sum_per_molecule
from basinet.structures.sparse import SparseNeighbors
from molecules import ETHANOL, SMALL, WATER, apart, bonded, moved, random_orthogonal

EGNN_TINY = EGNNConfig(n_features=16, n_layers=2)
LOCAL_TINY = EGNNConfig(n_features=16, n_layers=2, graph=RadiusGraph())
ET_TINY = EquivariantTransformerConfig(n_features=16, n_layers=1, n_heads=4, n_basis=8)
ROUNDING = 1e-12
"""float64, numbers of order one."""


def batch_of(*molecules: object) -> Batch:
    return collate([bonded(m) for m in molecules], dtype=torch.float64)


def model_of(config: EGNNConfig | EquivariantTransformerConfig, *outputs: str) -> Model:
    torch.manual_seed(0)
    return build_model(build_backbone(config), outputs).double().eval()


def test_the_energy_head_suits_the_features_of_the_backbone(backbone_config: EquivariantTransformerConfig) -> None:
    gated, plain = (model_of(c, "energy").energy_head().readout for c in (backbone_config, LOCAL_TINY))
    assert isinstance(gated, ScalarReadout)
    assert isinstance(plain, ScalarReadout)
    assert gated.atoms.gated is not None
    assert plain.atoms.gated is None
    assert model_of(LOCAL_TINY, "forces").energy_head().form == ENERGY
    assert model_of(LOCAL_TINY, "forces", "pooled_energy").energy_head().form == POOLED_ENERGY
    assert model_of(backbone_config, "pooled_energy").energy_head().form == POOLED_ENERGY


def test_a_backbone_without_vectors_predicts_none() -> None:
    with pytest.raises(ValueError, match="EGNN has no vector features, and the noise head needs them; choose an objec"):
        model_of(EGNN_TINY, "energy", "noise")


def test_the_published_heads_have_the_published_number_of_parameters() -> None:
    backbone = build_backbone(EGNNConfig())
    assert n_parameters(build_property_head(POOLED_ENERGY, backbone)) == 33_024 + 16_641
    assert n_parameters(build_head("noise_level", backbone)) == 39_346


def test_atomic_energies_add_up_and_pooled_energies_do_not() -> None:
    together, parts = batch_of(apart(ETHANOL, WATER, 30.0)), batch_of(ETHANOL, WATER)
    for model, adds_up in ((model_of(LOCAL_TINY, "energy"), True), (model_of(LOCAL_TINY, "pooled_energy"), False)):
        difference = model(together, ["energy"])["energy"].sum() - model(parts, ["energy"])["energy"].sum()
        assert (abs(float(difference.detach())) < ROUNDING) == adds_up


@pytest.mark.parametrize("reflect", [False, True])
def test_a_pooled_energy_is_invariant_and_its_forces_have_no_net_force_and_no_torque(reflect: bool) -> None:
    model, batch = model_of(EGNN_TINY, "pooled_energy"), batch_of(*SMALL)
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
    model, batch = model_of(EGNN_TINY, "pooled_energy"), batch_of(ETHANOL)
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


LEVELS = {"shared pool": ("pooled_energy", "noise_level"), "own pool": ("forces", "noise_level")}
levels = pytest.mark.parametrize("outputs", list(LEVELS.values()), ids=list(LEVELS))


@levels
def test_noise_levels_are_asked_of_two_batches_and_their_order_matters(outputs: tuple[str, ...]) -> None:
    model, clean = model_of(EGNN_TINY, *outputs), batch_of(*SMALL)
    noisy = clean.replace(positions=clean.positions + 0.1 * torch.randn_like(clean.positions))
    assert model.offers == {"energy", "forces", *outputs}
    logits = model.noise_level(clean, noisy)
    assert logits.shape == (len(SMALL), 50)
    assert (logits - model.noise_level(noisy, clean)).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"noise_level compares two batches; call model.noise_level\(clean, noisy\)"):
        model(clean, ["noise_level"])


@levels
@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("config", [EGNN_TINY, ET_TINY], ids=["egnn", "equivariant transformer"])
def test_noise_levels_do_not_turn_with_the_molecules_and_are_those_of_each_alone(
    config: EGNNConfig | EquivariantTransformerConfig, outputs: tuple[str, ...], reflect: bool
) -> None:
    model, clean = model_of(config, *outputs), batch_of(*SMALL)
    noisy = clean.replace(positions=clean.positions + 0.1 * torch.randn_like(clean.positions))
    logits = model.noise_level(clean, noisy)
    rotation, shift = random_orthogonal(0, reflect=reflect), torch.tensor([1.0, 2.0, -3.0])
    assert (logits - model.noise_level(moved(clean, rotation, shift), noisy)).abs().max() < ROUNDING
    assert (logits - model.noise_level(clean, moved(noisy, rotation, shift))).abs().max() < ROUNDING
    for layout in (DenseNeighbors, SparseNeighbors):
        assert (logits - model.noise_level(clean, noisy, layout=layout)).abs().max() < ROUNDING
    alone = [model.noise_level(clean.select([i]), noisy.select([i]))[0] for i in range(len(SMALL))]
    assert (logits - torch.stack(alone)).abs().max() < ROUNDING


def test_noise_levels_have_a_pool_of_their_own_beside_any_energy_but_a_pooled_one(
    backbone_config: EquivariantTransformerConfig,
) -> None:
    for model in (model_of(backbone_config, "energy"), model_of(LOCAL_TINY, "energy"), model_of(EGNN_TINY)):
        extended = with_outputs(model, ["noise_level"])
        assert type(extended.heads["noise_level"]) is PooledNoiseLevelHead
        assert extended.offers == model.offers | {"noise_level"}
        assert all(extended.heads[name] is model.heads[name] for name in model.heads)
    pooled = with_outputs(model_of(EGNN_TINY, "pooled_energy"), ["noise_level"])
    assert type(pooled.heads["noise_level"]) is SharedNoiseLevelHead


def test_an_energy_stays_a_sum_over_atoms_beside_noise_levels() -> None:
    together, parts = batch_of(apart(ETHANOL, WATER, 30.0)), batch_of(ETHANOL, WATER)
    model = model_of(LOCAL_TINY, "forces", "noise_level")
    difference = model(together, ["energy"])["energy"].sum() - model(parts, ["energy"])["energy"].sum()
    assert abs(float(difference.detach())) < ROUNDING


def test_noise_levels_that_share_a_pool_need_a_pooled_energy(backbone_config: EquivariantTransformerConfig) -> None:
    atomic = model_of(backbone_config, "energy")
    shared = SharedNoiseLevelHead(16).double()
    with pytest.raises(ValueError, match="the pool of a pooled energy, and the energy of this model is in eV; drop"):
        atomic.with_heads(noise_level=shared)
    with pytest.raises(ValueError, match="the energy of this model is missing; drop the noise levels too"):
        Model(atomic.backbone, {"noise_level": shared})
    with pytest.raises(ValueError, match="a pooled energy was asked for, and this model has an energy in eV; drop it"):
        with_outputs(atomic, ["pooled_energy"])
    fresh = with_outputs(atomic.with_heads(energy=None), ["pooled_energy", "noise_level"])
    assert fresh.offers == {"energy", "forces", "pooled_energy", "noise_level"}
    with pytest.raises(ValueError, match="the model has no head for noise levels; it offers"):
        atomic.noise_level(batch_of(WATER), batch_of(WATER))


def test_a_pooled_energy_is_the_energy_without_references_and_scale() -> None:
    model, batch = model_of(EGNN_TINY, "pooled_energy"), batch_of(*SMALL)
    model.energy_scale.scale.fill_(2.0)
    found = model(batch, ["pooled_energy", "energy"])
    assert torch.equal(found["energy"], 2 * found["pooled_energy"])


def test_fine_tuning_keeps_the_backbone_and_drops_the_heads_of_pretraining(
    backbone_config: EquivariantTransformerConfig,
) -> None:
    model = model_of(EGNN_TINY, "pooled_energy", "noise_level")
    bare = without_pretraining_heads(model, ["energy", "forces"])
    assert bare.offers == frozenset()
    fresh = with_outputs(bare, ["energy", "forces"])
    assert fresh.backbone is model.backbone
    assert fresh.energy_head().form == ENERGY
    assert without_pretraining_heads(model, ["forces", "pooled_energy", "noise_level"]).offers == model.offers
    denoised = model_of(backbone_config, "energy", "noise")
    assert without_pretraining_heads(denoised, ["forces"]).offers == {"energy", "forces"}
    assert without_pretraining_heads(denoised, ["forces", "noise"]).offers == denoised.offers


def test_fine_tuning_keeps_an_energy_in_ev_and_drops_what_is_beside_it(
    backbone_config: EquivariantTransformerConfig,
) -> None:
    unified = model_of(backbone_config, "forces", "noise", "noise_level")
    tuned = without_pretraining_heads(unified, ["energy", "forces"])
    assert tuned.offers == {"energy", "forces"}
    assert tuned.heads["energy"] is unified.heads["energy"]
    assert without_pretraining_heads(unified, ["forces", "noise", "noise_level"]).offers == unified.offers
    # Levels that share the pool of an energy without unit cannot stay when it goes; fresh ones have their own.
    published = model_of(EGNN_TINY, "pooled_energy", "noise_level")
    again = with_outputs(without_pretraining_heads(published, ["forces", "noise_level"]), ["forces", "noise_level"])
    assert again.energy_head().form == ENERGY
    assert type(again.heads["noise_level"]) is PooledNoiseLevelHead


@pytest.mark.parametrize("outputs", [("energy",), *LEVELS.values()], ids=["atomic energy", *LEVELS])
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
