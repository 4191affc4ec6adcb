"""3D-EMGP from data to a fine-tuned force field, and the released weights on that way."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from basinet.backbones.egnn import EGNNConfig
from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.predict import predict_file
from basinet.commands.recipe import UnitsConfig
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.models.checkpoint import load_model, save_model
from basinet.models.convert.emgp import EMGP_EGNN, read_emgp
from basinet.models.heads.property import ENERGY, POOLED_ENERGY
from basinet.objectives.methods import EMGPConfig, ForcesConfig
from molecules import bonded
from reference import reference_checkpoint
from small_runs import finetune_recipe, frames, make_store, make_xyz, pretrain_recipe, training

EGNN_TINY = EGNNConfig(n_features=8, n_layers=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return labelled conformations with bonds."""
    return make_store(tmp_path_factory.mktemp("emgp") / "store", [bonded(m) for m in frames()])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    recipe = pretrain_recipe(store, model=EGNN_TINY, objective=EMGPConfig(largest_sigma=1.0))
    return pretrain(recipe, tmp_path_factory.mktemp("emgp") / "pretrained").model


def test_pretraining_leaves_a_pooled_energy_and_noise_levels_and_no_errors_of_labels_it_never_saw(
    pretrained: Path,
) -> None:
    file = load_model(pretrained)
    assert file.backbone == EGNN_TINY
    assert file.model.offers == {"energy", "forces", "pooled_energy", "noise_level"}
    assert file.model.energy_head().form == POOLED_ENERGY
    assert set(file.metadata["validation"]) == {"loss", "gradient", "level"}


def test_fine_tuning_takes_the_backbone_and_a_fresh_energy(tmp_path: Path, pretrained: Path, store: Path) -> None:
    said: list[str] = []
    recipe = finetune_recipe(
        store, start=str(pretrained), objective=ForcesConfig(), training=training(optimizer={"learning_rate": 1e-9})
    )
    result = finetune(recipe, tmp_path / "run", say=said.append)
    assert "the pre-trained model has no energy in eV: fine-tuning begins with a fresh energy head" in said
    tuned, start = load_model(result.model).model, load_model(pretrained).model
    assert tuned.energy_head().form == ENERGY
    assert tuned.offers == {"energy", "forces"}
    for key, value in tuned.backbone.state_dict().items():
        assert torch.allclose(value, start.backbone.state_dict()[key], atol=1e-6), key
    assert float(tuned.energy_scale.scale) != 1
    assert result.test is not None


def test_its_energy_is_not_taken_for_one_in_ev(tmp_path: Path, pretrained: Path, store: Path) -> None:
    with pytest.raises(ValueError, match="was pre-trained by 3D-EMGP, and its energy is not in eV; fine-tune it first"):
        evaluate_file(pretrained, store, UnitsConfig())
    with pytest.raises(ValueError, match="its energy is not in eV"):
        predict_file(pretrained, store, tmp_path / "out.xyz")


def test_data_without_bonds_is_refused_where_they_are_to_be_those_of_the_file(tmp_path: Path) -> None:
    data = make_store(tmp_path / "store", frames())
    units = UnitsConfig(bonds="file")
    recipe = pretrain_recipe(data, model=EGNN_TINY, objective=EMGPConfig(), units=units)
    with pytest.raises(ValueError, match=r"30 of 30 conformations have no bonds on record.*units\.bonds=auto"):
        pretrain(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_bonds_that_are_missing_are_perceived_for_training_and_for_use(tmp_path: Path) -> None:
    data = make_xyz(tmp_path / "frames.xyz", frames())
    said: list[str] = []
    recipe = finetune_recipe(data, model=EGNN_TINY, objective=ForcesConfig(), training=training(n_steps=2))
    result = finetune(recipe, tmp_path / "run", say=said.append)
    assert "bonds: 30 of 30 perceived from SMILES; 0 failed" in "\n".join(said)
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["bonds"]["perceived"] == {"SMILES": 30}
    assert record["bonds"]["bonds"] == 30
    errors, _ = evaluate_file(result.model, data, UnitsConfig())
    assert errors.n_molecules == 30
    assert predict_file(result.model, data, tmp_path / "out.xyz").n_records == 30


def test_molecules_whose_bonds_cannot_be_told_are_left_out_of_all_parts_and_counted(tmp_path: Path) -> None:
    # Of 30 frames, every third is torn apart; the network would fail at the first of them, hours later.
    molecules = frames()
    for k in range(0, 30, 3):
        positions = molecules[k].positions.copy()
        positions[-1] += [8, 0, 0]
        molecules[k] = dataclasses.replace(molecules[k], positions=positions, smiles="")
    said: list[str] = []
    recipe = finetune_recipe(
        make_store(tmp_path / "store", molecules), model=EGNN_TINY, objective=ForcesConfig(), training=training()
    )
    result = finetune(recipe, tmp_path / "run", say=said.append)
    assert "10 of 30 conformations have no bonds, which the network reads; skipped" in said
    assert "10 failed: H without a bond (10), first " in "\n".join(said)
    assert result.test is not None
    assert 0 < result.test.n_molecules <= 3


def test_the_released_weights_are_fine_tuned(tmp_path: Path, store: Path) -> None:
    released = read_emgp(reference_checkpoint("3d-emgp/checkpoint-3dmgp"))
    save_model(released, tmp_path / "released.safetensors", EMGP_EGNN)
    recipe = finetune_recipe(
        store, start=str(tmp_path / "released.safetensors"), objective=ForcesConfig(), training=training(n_steps=2)
    )
    result = finetune(recipe, tmp_path / "run")
    assert load_model(result.model).backbone == EMGP_EGNN


def test_elements_the_released_weights_never_saw_are_refused(tmp_path: Path) -> None:
    released = read_emgp(reference_checkpoint("3d-emgp/checkpoint-3dmgp"))
    save_model(released, tmp_path / "released.safetensors", EMGP_EGNN)
    silicon = [
        dataclasses.replace(bonded(m), atomic_numbers=m.atomic_numbers + 8 * (m.atomic_numbers == 6)) for m in frames()
    ]
    data = make_store(tmp_path / "store", silicon)
    with pytest.raises(ValueError, match="the model knows the elements H C N O F, the data also has Si"):
        finetune(finetune_recipe(data, start=str(tmp_path / "released.safetensors")), tmp_path / "run")
