"""Every recipe that comes with the package is read, builds what it names, and runs, shrunk, from data to a model."""

import dataclasses
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from basinet.commands.recipe import FinetuneRecipe, LaunchConfig, PretrainRecipe, TrainableRecipe, load_recipe
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.models.checkpoint import load_model
from basinet.objectives.properties import NoisyNodesConfig
from basinet.structures import Molecule
from basinet.units import property_unit
from molecules import from_smiles
from small_runs import make_store, training

RECIPES = sorted(
    (Path(str(file)) for file in resources.files("basinet.recipes").iterdir() if file.name.endswith(".yaml")),
    key=lambda path: path.name,
)
QM9 = {
    **dict.fromkeys(("homo", "lumo", "gap", "zpve", "u0", "u", "h", "g"), "eV"),
    **{"mu": "e*Angstrom", "alpha": "Angstrom^3", "r2": "Angstrom^2", "cv": "eV/K"},
}
"""The twelve properties and their units in the package."""
SMILES = ("CCO", "CC(=O)N", "CCC", "COC", "CCN")


def load(path: Path, data: Path) -> TrainableRecipe:
    return load_recipe(FinetuneRecipe if is_finetuning(path) else PretrainRecipe, path, [], data=str(data))


def is_finetuning(path: Path) -> bool:
    return "finetune" in path.name or path.name.startswith("qm9_")


def shrunk(recipe: TrainableRecipe) -> TrainableRecipe:
    """Return a recipe that takes seconds: one layer, two steps."""
    changes = {
        "model": dataclasses.replace(recipe.model, n_layers=1),
        "training": training(n_steps=2, batch_size=4, validate_every=1, save_every=1),
        "launch": LaunchConfig(accelerator="cpu", threads=1),
    }
    if isinstance(recipe, FinetuneRecipe):
        return dataclasses.replace(recipe, n_train=6, n_validation=2, n_test=2, **changes)
    return dataclasses.replace(recipe, validation_fraction=0.4, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return minima and labelled conformations, with their bonds."""
    rng = np.random.default_rng(0)
    molecules: list[Molecule] = []
    for smiles in SMILES:
        bare = from_smiles(smiles)
        properties = {name: abs(rng.normal()) + bare.n_atoms for name in QM9}
        minimum = dataclasses.replace(bare, smiles=smiles, is_equilibrium=True, labels=properties)
        forces = rng.normal(scale=0.1, size=minimum.positions.shape)
        labels = {"energy": -10.0 * minimum.n_atoms, "forces": forces - forces.mean(0)}
        labels |= {name: abs(rng.normal()) + bare.n_atoms for name in QM9}
        molecules += [minimum, dataclasses.replace(minimum, is_equilibrium=False, labels=labels)]
    return make_store(tmp_path_factory.mktemp("recipes") / "store", molecules, QM9)


def test_there_is_a_recipe_for_every_published_method() -> None:
    kinds = {load(path, Path("data")).objective.kind for path in RECIPES}
    assert {
        "coordinate_denoising",
        "frad",
        "frad_vrn",
        "frad_noisy_nodes",
        "et_oreo",
        "unified",
        "noisy_nodes",
    } <= kinds


def test_there_is_a_recipe_for_every_property_of_qm9() -> None:
    objectives = [load(path, Path("data")).objective for path in RECIPES if path.name.startswith("qm9_")]
    labels = [o.labels for o in objectives if isinstance(o, NoisyNodesConfig)]
    assert {config.label for config in labels} == set(QM9)
    for config in labels:
        assert config.loss_unit is not None and property_unit(config.loss_unit) == QM9[config.label]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_and_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert text.startswith("# ")
    assert f"basinet {'finetune' if is_finetuning(path) else 'pretrain'} {path.name} " in comments
    recipe = load(path, Path("data"))
    assert recipe.objective.build().weights


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs(path: Path, store: Path, tmp_path: Path) -> None:
    recipe = shrunk(load(path, store))
    out = tmp_path / "run"
    result = finetune(recipe, out) if isinstance(recipe, FinetuneRecipe) else pretrain(recipe, out)
    model = load_model(result.model).model
    assert recipe.objective.build().requires <= model.offers


@pytest.mark.parametrize("statistics", ["keep", "reset"])
def test_fine_tuning_keeps_or_forgets_the_size_of_the_noise_before(
    statistics: str, store: Path, tmp_path: Path
) -> None:
    first = shrunk(load(next(p for p in RECIPES if p.name == "frad_small.yaml"), store))
    assert isinstance(first, PretrainRecipe)
    pretrained = pretrain(first, tmp_path / "pretrained").model
    path = next(p for p in RECIPES if p.name == "frad_finetune_md17.yaml")
    overrides = [f"from={pretrained}", f"noise_statistics={statistics}"]
    recipe = shrunk(load_recipe(FinetuneRecipe, path, overrides, data=str(store)))
    assert isinstance(recipe, FinetuneRecipe)
    tuned = load_model(finetune(recipe, tmp_path / "tuned").model).model
    deviation = float(tuned.noise_head().normalizer.deviation.mean())
    assert (deviation > 0.015) == (statistics == "keep")
    assert deviation == pytest.approx(0.005, rel=0.3) or statistics == "keep"
