"""Fine-tuning on a property, from file to prediction; from a force field, and back; and what cannot work."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from basinet.backbones.egnn import EGNNConfig, RadiusGraph
from basinet.cli import app
from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.predict import predict_file
from basinet.commands.recipe import RECIPES, FinetuneRecipe, UnitsConfig, load_recipe
from basinet.commands.run_directory import RESULTS_FILE
from basinet.commands.train.debug_step import debug_step
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.evaluation.properties import PropertyErrors
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import EnergyForcesConfig
from basinet.objectives.properties import NoisyNodesConfig, PropertyConfig
from basinet.structures import Molecule
from basinet.training.failure import NonFiniteLossError
from basinet.units import property_factor
from molecules import ETHANOL, HELIUM, METHANE
from small_runs import (
    differences,
    finetune_recipe,
    frames,
    make_store,
    make_xyz,
    pretrain_recipe,
    read_lines,
    training,
)

SIZE = PropertyConfig(label="size", loss="l1")
IN_DEBYE = PropertyConfig(label="size", loss_unit="D")
BOHR2 = UnitsConfig(property_key="size_bohr2", property_unit="bohr^2")
PER_BOHR2 = property_factor("bohr^2")


def radius(molecule: Molecule) -> float:
    """Return the mean squared distance of the atoms from their centre, Å²: a property with something to learn."""
    return float((molecule.positions - molecule.positions.mean(0)).__pow__(2).sum(1).mean())


def sized(of: list[Molecule], name: str = "size", factor: float = 1.0) -> list[Molecule]:
    return [dataclasses.replace(m, labels={**m.labels, name: radius(m) * factor}) for m in of]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties")


@pytest.fixture(scope="module")
def store(directory: Path) -> Path:
    """Return molecules with energies, forces and a size; one of each compound lacks the size."""
    molecules = sized(frames())
    bare = [m if i % 5 else dataclasses.replace(m, labels={}) for i, m in enumerate(molecules)]
    return make_store(directory / "store", bare, {"size": "Angstrom^2"})


@pytest.fixture(scope="module")
def file(directory: Path) -> Path:
    """Return the same in a file, in bohr²."""
    path = make_xyz(directory / "m.xyz", frames())
    text = path.read_text().splitlines(keepends=True)
    sizes = iter(radius(m) / PER_BOHR2 for m in frames())
    path.write_text("".join(f"size_bohr2={next(sizes)} {x}" if x.startswith("Properties") else x for x in text))
    return path


@pytest.fixture(scope="module")
def tuned(directory: Path, file: Path) -> Any:
    said: list[str] = []
    recipe = finetune_recipe(file, objective=SIZE, units=BOHR2, training=training(n_steps=150), n_test=8)
    return finetune(recipe, directory / "tuned", say=said.append), said


@pytest.fixture(scope="module")
def force_field(directory: Path, store: Path) -> Path:
    return pretrain(pretrain_recipe(store), directory / "forces").model


def test_it_learns_more_than_the_mean_and_the_composition(tuned: Any, directory: Path) -> None:
    result, said = tuned
    assert isinstance(result.test, PropertyErrors) and isinstance(result.before, PropertyErrors)
    record = json.loads((directory / "tuned" / RESULTS_FILE).read_text())
    assert record["property"] == "size" and record["unit"] == "Angstrom^2"
    assert record["mae"] == result.test.mae
    assert record["mae_bohr^2"] == pytest.approx(result.test.mae / PER_BOHR2)
    assert record["mae"] < 0.65 * record["baseline_mae"]["mean"]
    assert result.fit.best < 0.7 * result.before.mae
    (line,) = [x for x in said if x.startswith("before training: size MAE ")]
    assert "the mean label: " in line and "a number per element: " in line and "bohr^2 (" in line
    validations = [r for r in read_lines(directory / "tuned" / "metrics.jsonl") if r.get("kind", "") == "validation"]
    assert all(r["loss"] == r["mae"] for r in validations)


def test_the_baseline_is_that_of_the_training_part_alone(tuned: Any, directory: Path) -> None:
    train = Split.load(directory / "tuned" / "split.json").train
    labels = np.array([radius(m) for m in frames()])[train]
    standard = load_model(tuned[0].model).model.property_head("size").standard
    assert float(standard.shift) == pytest.approx(labels.mean(), rel=1e-6)
    assert float(standard.scale) == pytest.approx(labels.std(), rel=1e-6)


def test_it_is_evaluated_and_predicted_in_its_unit(tuned: Any, file: Path, tmp_path: Path) -> None:
    errors, read = evaluate_file(tuned[0].model, file, BOHR2)
    assert isinstance(errors, PropertyErrors) and errors.n_labelled == 30
    assert "30 size (bohr^2) from size_bohr2" in read
    assert predict_file(tuned[0].model, file, tmp_path / "out.xyz").n_records == 30
    written = ase.io.read(tmp_path / "out.xyz", ":")
    assert {a.info["size_unit"] for a in written} == {"Angstrom^2"}
    error = [abs(a.info["size"] - radius(m)) for a, m in zip(written, frames(), strict=True)]
    assert errors.mae == pytest.approx(np.mean(error), rel=1e-4)
    again, _ = evaluate_file(
        tuned[0].model, tmp_path / "out.xyz", UnitsConfig(property_key="size", property_unit="Angstrom^2")
    )
    assert again.mae < 1e-5


def test_the_commands_do_the_same(tuned: Any, file: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(tuned[0].model), str(file)]
    done = CliRunner().invoke(app, [*arguments, "--property-key", "size_bohr2", "--property-unit", "bohr^2"])
    assert done.exit_code == 0 and "size MAE " in done.stdout and "bohr^2" in done.stdout
    failed = CliRunner().invoke(app, arguments)
    assert "does not say the unit of 'size'; give property_unit, one of eV" in str(failed.exception)
    done = CliRunner().invoke(app, ["predict", str(tuned[0].model), str(file), str(tmp_path / "out.xyz")])
    assert "30 molecules written" in done.stdout


def test_a_run_that_was_cut_in_two_ends_the_same(store: Path, tmp_path: Path) -> None:
    objective = NoisyNodesConfig(labels=SIZE, sigma=0.02)
    recipe = finetune_recipe(store, objective=objective, training=training(n_steps=6, save_every=3))

    class Gone(Exception):  # noqa: N818
        pass

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise Gone

    whole = finetune(recipe, tmp_path / "whole")
    with pytest.raises(Gone):
        finetune(recipe, tmp_path / "cut", on_progress=stop)
    cut = finetune(recipe, tmp_path / "cut", resume=True)
    models = [load_model(result.model).model for result in (whole, cut)]
    assert not differences(models[0].state_dict(), models[1].state_dict())
    assert models[0].offers == {"size", "noise"}
    assert float(models[0].noise_head().normalizer.deviation.mean()) == pytest.approx(0.02, rel=0.2)


def test_a_force_field_gives_its_backbone_to_a_property_and_back(
    force_field: Path, store: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    short = training(n_steps=1, optimizer={"learning_rate": 1e-9, "ema_decay": None})
    to_property = finetune_recipe(store, objective=SIZE, start=str(force_field), training=short)
    property_model = finetune(to_property, tmp_path / "property", say=said.append).model
    model = load_model(property_model).model
    assert model.offers == {"size"}
    before = load_model(force_field).model.backbone.state_dict()
    assert all(torch.allclose(v, before[k], atol=1e-6) for k, v in model.backbone.state_dict().items())
    back = finetune_recipe(store, objective=EnergyForcesConfig(), start=str(property_model), training=short)
    result = finetune(back, tmp_path / "back", say=said.append)
    assert load_model(result.model).model.offers == {"energy", "forces"}
    assert any("no energy in eV: fine-tuning begins with a fresh energy head" in line for line in said)
    again = pretrain(pretrain_recipe(store, start=property_model, training=short), tmp_path / "pretrained").model
    assert "size" not in load_model(again).model.offers


def test_a_model_of_the_property_is_trained_on_with_its_head(tuned: Any, store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = finetune_recipe(store, objective=SIZE, start=str(tuned[0].model), training=training(n_steps=1))
    result = finetune(recipe, tmp_path / "on", say=said.append)
    assert "the head of 'size' is kept with its scale" in said
    assert isinstance(result.before, PropertyErrors) and result.before.mae < 0.5
    other = dataclasses.replace(recipe, objective=PropertyConfig(label="size", readout="mean"))
    with pytest.raises(ValueError, match=r"as sum in Angstrom\^2, the recipe asks for mean .*readout=sum"):
        finetune(other, tmp_path / "other")


def test_single_atoms_can_be_learned_from(tmp_path: Path) -> None:
    atoms = [dataclasses.replace(HELIUM, labels={"y": float(i)}) for i in range(6)]
    store = make_store(tmp_path / "atoms", atoms, {"y": "1"})
    for readout, baseline in (("sum", "mean"), ("dipole", "none")):
        objective = PropertyConfig(label="y", readout=readout, baseline=baseline)
        recipe = finetune_recipe(store, objective=objective, n_validation=2, training=training(n_steps=1))
        assert finetune(recipe, tmp_path / readout).fit.step == 1


@pytest.mark.parametrize(
    ("labels", "units", "changes", "message"),
    [
        ("size", {}, {}, r"the store does not say the unit of 'size'; write it with units=\{'size': \.\.\.\}"),
        ("mass", {"mass": "1"}, {}, "the label 'size', and the training part .* {'energy': 30, .*'mass"),
        ("size", {"size": "Angstrom^2"}, {"objective": IN_DEBYE}, "cannot be taken in D"),
        ("size", {"size": "Angstrom^2"}, {"units": BOHR2}, "is a store and has its labels; leave property_key"),
        (
            "size",
            {"size": "Angstrom^2"},
            {
                "objective": PropertyConfig(label="size", readout="dipole", baseline="none"),
                "model": EGNNConfig(n_features=8, n_layers=1, graph=RadiusGraph()),
            },
            "EGNN has no vector features, and the dipole readout needs them",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, labels: str, units: dict[str, str], changes: dict[str, Any], message: str
) -> None:
    store = make_store(tmp_path / "store", sized(frames(), labels), units)
    recipe = finetune_recipe(store, **({"objective": SIZE} | changes))
    with pytest.raises(ValueError, match=message):
        finetune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_constant_target_is_refused(tmp_path: Path) -> None:
    same = [dataclasses.replace(m, labels={"size": 2.0}) for m in frames()]
    store = make_store(tmp_path / "store", same, {"size": "Angstrom^2"})
    with pytest.raises(ValueError, match=r"training labels \(the first is 2\) are all given by their mean: there is"):
        finetune(finetune_recipe(store, objective=SIZE), tmp_path / "run")
    one = make_store(tmp_path / "one", sized([ETHANOL]), {"size": "Angstrom^2"})
    with pytest.raises(ValueError, match="has 1 molecules; cannot take"):
        finetune(finetune_recipe(one, objective=SIZE, n_validation=1), tmp_path / "run")


def test_a_property_is_not_pre_trained_and_its_column_not_read_for_forces(store: Path, file: Path) -> None:
    with pytest.raises(ValueError, match="a property is learned by basinet finetune, with from=scratch"):
        pretrain_recipe(store, objective=SIZE)
    with pytest.raises(ValueError, match="the target is energies or forces; leave property_key"):
        finetune(finetune_recipe(file, units=BOHR2), file.parent / "never")


def test_a_step_that_fails_can_be_looked_at_again(tmp_path: Path) -> None:
    huge = [dataclasses.replace(METHANE, labels={"y": 1e200}) for _ in range(8)]
    store = make_store(tmp_path / "store", huge, {"y": "1"})
    objective = PropertyConfig(label="y", baseline="none", spread="none", loss_unit="1")
    with pytest.raises(NonFiniteLossError, match="the loss is not finite. Molecules .* of the training data. The step"):
        finetune(finetune_recipe(store, objective=objective, n_validation=2), tmp_path / "run")
    found = debug_step(tmp_path / "run")
    assert found.step == 1 and not np.isfinite(found.terms["property"]) and len(found.bad_molecules) == 4


def test_a_recipe_is_put_over_its_base_wherever_it_lies(tmp_path: Path) -> None:
    shipped = load_recipe(FinetuneRecipe, RECIPES / "qm9_homo.yaml", [], data="qm9")
    copied = tmp_path / "mine.yaml"
    copied.write_text((RECIPES / "qm9_homo.yaml").read_text())
    assert load_recipe(FinetuneRecipe, copied, [], data="qm9") == shipped
    assert shipped.training.n_steps == 500_000 and isinstance(shipped.objective, NoisyNodesConfig)
    assert (shipped.objective.denoising, shipped.objective.sigma) == (0.1, 0.005)
    (tmp_path / "own.yaml").write_text("training: {n_steps: 7, batch_size: 3}\n")
    copied.write_text("base: own.yaml\ntraining: {n_steps: 9}\n")
    own = load_recipe(FinetuneRecipe, copied, ["training.seed=5"], data="qm9").training
    assert (own.n_steps, own.batch_size, own.seed) == (9, 3, 5)
    copied.write_text("base: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"no recipe .*nowhere\.yaml"):
        load_recipe(FinetuneRecipe, copied, [], data="qm9")
    copied.write_text("base: [a]\n")
    with pytest.raises(ValueError, match="base must name a recipe file"):
        load_recipe(FinetuneRecipe, copied, [], data="qm9")


def test_molecules_without_the_label_are_left_out_and_counted(store: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = finetune(
        finetune_recipe(store, objective=SIZE, training=training(n_steps=1)), tmp_path / "r", say=said.append
    )
    assert any("have no label the loss uses" in line for line in said)
    data = MoleculeStore.open(store)
    split = Split.load(tmp_path / "r" / "split.json")
    assert all("size" in data[int(i)].labels for i in split.train)
    assert result.fit.step == 1
