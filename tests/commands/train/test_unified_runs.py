"""The unified objective from data to a fine-tuned force field."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from basinet.backbones.egnn import EGNNConfig
from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.recipe import UnitsConfig
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.models.checkpoint import load_model
from basinet.models.heads.noise_level import PooledNoiseLevelHead
from basinet.models.heads.property import ENERGY
from basinet.objectives.methods import EMGPConfig, ForceAndDenoiseConfig, ForcesConfig, UnifiedConfig
from basinet.structures import Molecule
from molecules import bonded
from small_runs import finetune_recipe, frames, make_store, pretrain_recipe, training


def with_orders(of: Molecule) -> Molecule:
    """Return a molecule whose bonds are all called single."""
    found = bonded(of)
    assert found.bonds is not None
    return dataclasses.replace(found, bond_orders=np.ones(len(found.bonds)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return labelled conformations with bonds, minima among them."""
    return make_store(tmp_path_factory.mktemp("unified") / "store", [with_orders(m) for m in frames()])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    recipe = pretrain_recipe(store, objective=UnifiedConfig())
    return pretrain(recipe, tmp_path_factory.mktemp("unified") / "pretrained").model


def test_pretraining_leaves_an_energy_in_ev_with_noise_and_its_level_beside_it(pretrained: Path, store: Path) -> None:
    file = load_model(pretrained)
    assert file.model.offers == {"energy", "forces", "noise", "noise_level"}
    assert file.model.energy_head().form == ENERGY
    assert type(file.model.heads["noise_level"]) is PooledNoiseLevelHead
    assert {"forces", "zero_force", "denoising", "noise_level", "force_mae"} <= set(file.metadata["validation"])
    errors, _ = evaluate_file(pretrained, store, UnitsConfig())
    assert errors.n_forces > 0


def test_fine_tuning_goes_on_with_the_energy_and_drops_the_heads_beside_it(
    tmp_path: Path, pretrained: Path, store: Path
) -> None:
    said: list[str] = []
    slow = training(optimizer={"learning_rate": 1e-9})
    recipe = finetune_recipe(store, start=str(pretrained), objective=ForcesConfig(), training=slow)
    tuned = load_model(finetune(recipe, tmp_path / "run", say=said.append).model).model
    assert tuned.offers == {"energy", "forces"}
    assert not any("fresh energy head" in line for line in said)
    start = load_model(pretrained).model
    for key, value in tuned.energy_head().readout.state_dict().items():
        assert torch.allclose(value, start.energy_head().readout.state_dict()[key], atol=1e-6), key


def test_fine_tuning_by_the_same_objective_keeps_all_heads(tmp_path: Path, pretrained: Path, store: Path) -> None:
    recipe = finetune_recipe(store, start=str(pretrained), objective=UnifiedConfig(), training=training(n_steps=2))
    tuned = load_model(finetune(recipe, tmp_path / "run").model).model
    assert tuned.offers == {"energy", "forces", "noise", "noise_level"}


def test_the_energy_of_3d_emgp_is_not_trained_on_forces_in_ev(tmp_path: Path, store: Path) -> None:
    egnn = EGNNConfig(n_features=8, n_layers=2)
    emgp = pretrain_recipe(store, model=egnn, objective=EMGPConfig(largest_sigma=1.0), training=training(n_steps=2))
    first = pretrain(emgp, tmp_path / "emgp").model
    recipe = pretrain_recipe(store, start=first, objective=ForceAndDenoiseConfig())
    with pytest.raises(ValueError, match="the objective learns forces in eV/Å, and the energy of .* unit"):
        pretrain(recipe, tmp_path / "run")
    tuned = finetune(
        finetune_recipe(store, start=str(first), objective=ForcesConfig(), training=training(n_steps=2)),
        tmp_path / "tuned",
    )
    assert load_model(tuned.model).model.energy_head().form == ENERGY
