"""Fine-tuning: what is said before, fitted first, trained, tested; and what the files are good for afterwards."""

import json

import ase.io
import numpy as np
import pytest
import torch

from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.answer.predict import predict_file
from basinet.commands.recipe import FinetuneRecipe, PretrainRecipe, SourceConfig, UnitsConfig, load_recipe
from basinet.commands.run_directory import MODEL_FILE, RECIPE_FILE, RESULTS_FILE
from basinet.commands.train.finetune import finetune
from basinet.commands.train.mixture import read_data
from basinet.commands.train.pretrain import pretrain
from basinet.commands.train.start import refit_references
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.splits import Split
from basinet.models.checkpoint import load_model
from basinet.models.heads.fit import composition
from basinet.objectives.methods import ForceAndDenoiseConfig, ForcesConfig
from small_runs import (
    ATOMIC_ENERGIES,
    differences,
    finetune_recipe,
    frames,
    make_store,
    make_xyz,
    pretrain_recipe,
    training,
    without_labels,
)

UNITS = UnitsConfig()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def store(directory):
    return make_store(directory / "store", frames())


@pytest.fixture(scope="module")
def pretrained(directory, store):
    """Return a model with energy and noise heads."""
    return pretrain(pretrain_recipe(store, objective=ForceAndDenoiseConfig()), directory / "pretrained").model


@pytest.fixture(scope="module")
def target(directory):
    """Return a file of one compound, its energies shifted as another level of theory would."""
    return make_xyz(directory / "methanol.xyz", frames(["CH3OH"], per_compound=30))


def test_it_says_the_errors_as_loaded_and_with_reference_energies_re_fitted(tmp_path, pretrained, target):
    said = []
    result = finetune(finetune_recipe(target, start=str(pretrained)), tmp_path / "run", say=said.append)
    (loaded,) = [line for line in said if line.startswith("before training, as loaded: force MAE ")]
    (refitted,) = [line for line in said if line.startswith("before training, reference energies re-fitted")]
    assert "over 4 conformations" in loaded
    assert "the data determines 1 of 3 of them" in refitted
    energy = [float(line.split("energy MAE ")[1].split(" meV")[0]) for line in (loaded, refitted)]
    force = [line.split("force MAE ")[1].split(",")[0] for line in (loaded, refitted)]
    assert energy[1] < energy[0]
    assert force[0] == force[1]
    assert result.before.energy_mae * 1000 == pytest.approx(energy[1], abs=0.1)


def test_re_fitting_leaves_no_mean_error_of_the_energy_of_any_composition(pretrained, store):
    data = MoleculeStore.open(store)
    model = load_model(pretrained).model
    shifted = model.energy_scale.references.clone()
    model.energy_scale.references += torch.linspace(-5, 5, 100, dtype=torch.float64)
    chosen = np.flatnonzero([not s.startswith("C=") for s in data.smiles])  # 5 compounds of 4 elements
    fitted = refit_references(model, data, chosen[np.isin(np.array(data.smiles)[chosen], ["O", "N", "C", "C#N"])])
    assert fitted.rank == fitted.n_elements == 4
    assert not torch.equal(shifted, model.energy_scale.references)
    batch = data.gather(np.flatnonzero(np.isin(data.smiles, ["O", "N", "C", "C#N"])))
    residual = batch.labels["energy"] - model(batch, ["energy"])["energy"]
    rows = composition(batch)
    for row in rows.unique(dim=0):
        same = (rows == row).all(1)
        assert abs(residual[same].mean().item()) < 1e-6 * 2000  # eV, of energies of some thousand


def test_from_scratch_it_starts_with_references_and_force_scale_of_the_training_labels_alone(tmp_path, store):
    """Labels of the other parts are changed, and nothing of the start changes."""
    molecules = frames()
    recipe = finetune_recipe(store, n_train=15, training=training(n_steps=1, optimizer={"learning_rate": 1e-30}))
    finetune(recipe, tmp_path / "run")
    model, split = load_model(tmp_path / "run" / MODEL_FILE).model, Split.load(tmp_path / "run" / "split.json")
    data = MoleculeStore.open(store)
    batch = data.gather(split.train)
    assert model.energy_scale.scale.item() == pytest.approx(
        batch.labels["forces"].double().square().mean().sqrt().item()
    )
    x = torch.linalg.lstsq(composition(batch)[:, [1, 6, 7, 8]], batch.labels["energy"][:, None]).solution[:, 0]
    torch.testing.assert_close(model.energy_scale.references[[1, 6, 7, 8]], x, rtol=1e-9, atol=1e-9)
    assert x.tolist() == pytest.approx(list(ATOMIC_ENERGIES.values()), abs=1.0)
    assert len(molecules) == len(data)


def test_a_larger_training_set_begins_with_a_smaller_one_and_validates_and_tests_on_the_same(tmp_path, store):
    splits = {}
    for n_train, n_test in ((4, 8), (12, 8), (4, None), (12, None)):
        out = tmp_path / f"{n_train}-{n_test}"
        finetune(finetune_recipe(store, n_train=n_train, n_test=n_test, training=training(n_steps=1)), out)
        splits[n_train, n_test] = Split.load(out / "split.json")
    for n_test in (8, None):
        small, large = splits[4, n_test], splits[12, n_test]
        assert large.train[:4].tolist() == small.train.tolist()
        assert large.validation.tolist() == small.validation.tolist()
    assert splits[4, 8].test.tolist() == splits[12, 8].test.tolist()
    assert set(splits[12, None].test) < set(splits[4, None].test)  # what is left gets less
    assert [len(splits[n, None].test) for n in (4, 12)] == [22, 14]


def test_the_errors_of_the_best_model_on_the_test_set_are_written(tmp_path, store):
    result = finetune(finetune_recipe(store, n_train=15, n_test=8), tmp_path / "run")
    record = json.loads((tmp_path / "run" / RESULTS_FILE).read_text())
    split, data = Split.load(tmp_path / "run" / "split.json"), MoleculeStore.open(store)
    test = make_store(tmp_path / "test", [data[i] for i in split.test])
    errors, _ = evaluate_file(result.model, test, UNITS)
    assert record["n_test"] == 8
    assert record["units"] == "eV, eV/Angstrom"
    assert record["force_mae"] == result.test.force_mae == pytest.approx(errors.force_mae, rel=1e-5)
    assert record["energy_mae"] == result.test.energy_mae == pytest.approx(errors.energy_mae, rel=1e-5)


def test_results_without_energies_are_still_json(tmp_path):
    data = make_store(tmp_path / "store", [without_labels(m, "energy") for m in frames()])
    finetune(finetune_recipe(data, objective=ForcesConfig()), tmp_path / "run")
    text = (tmp_path / "run" / RESULTS_FILE).read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["energy_mae"] is None
    assert record["force_mae"] > 0


def test_without_a_test_set_there_are_no_results(tmp_path, store):
    assert finetune(finetune_recipe(store, n_test=0), tmp_path / "run").test is None
    assert not (tmp_path / "run" / RESULTS_FILE).exists()


def test_a_saved_split_is_used(tmp_path, store):
    split = Split(train=np.arange(10, 20), validation=np.arange(3), test=np.arange(5, 8))
    split.save(tmp_path / "split.json")
    finetune(finetune_recipe(store, split=tmp_path / "split.json"), tmp_path / "run")
    assert Split.load(tmp_path / "run" / "split.json") == split


def test_a_noise_head_that_is_not_needed_is_dropped_and_the_network_of_the_file_is_kept(tmp_path, pretrained, target):
    assert "noise" in load_model(pretrained).model.offers
    finetune(finetune_recipe(target, start=str(pretrained)), tmp_path / "run")
    file = load_model(tmp_path / "run" / MODEL_FILE)
    assert file.model.offers == {"energy", "forces"}
    assert file.backbone == load_model(pretrained).backbone
    recipe = load_recipe(FinetuneRecipe, tmp_path / "run" / RECIPE_FILE, [])
    assert recipe.model == file.backbone


def test_a_noise_head_that_is_needed_is_kept_as_it_was(tmp_path, pretrained, store):
    recipe = finetune_recipe(
        store,
        start=str(pretrained),
        objective=ForceAndDenoiseConfig(),
        training=training(n_steps=1, optimizer={"learning_rate": 1e-30}),
    )
    finetune(recipe, tmp_path / "run")
    heads = [
        {k: v for k, v in load_model(path).model.heads["noise"].named_parameters()}
        for path in (pretrained, tmp_path / "run" / MODEL_FILE)
    ]
    assert differences(*({k: v.detach() for k, v in head.items()} for head in heads)) == []


def test_fine_tuning_is_resumed_bit_for_bit(tmp_path, pretrained, target):
    recipe = finetune_recipe(target, start=str(pretrained))
    whole = finetune(recipe, tmp_path / "whole")

    def stop(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, tmp_path / "cut", on_progress=stop)
    again = finetune(recipe, tmp_path / "cut", resume=True)
    assert again.model.read_bytes() == whole.model.read_bytes()
    assert again.test.force_mae == whole.test.force_mae
    for name in ("metrics.jsonl", RESULTS_FILE, "split.json", RECIPE_FILE):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize("level", ["DFT", ""])  # labels that do not name theirs are not of the level before
def test_a_fine_tuned_model_says_the_level_of_theory_of_its_last_labels(tmp_path, pretrained, target, level):
    assert load_model(pretrained).model.scope.level_of_theory == "springs"
    recipe = finetune_recipe(
        target, start=str(pretrained), units=UnitsConfig(level_of_theory=level), training=training(n_steps=1)
    )
    finetune(recipe, tmp_path / "run")
    scope = load_model(tmp_path / "run" / MODEL_FILE).model.scope
    assert scope.level_of_theory == level
    assert scope.elements == {1, 6, 7, 8}


def test_predictions_written_and_read_by_ase_are_those_of_the_model_beside_the_labels(tmp_path, pretrained, target):
    assert predict_file(pretrained, target, tmp_path / "out.xyz").n_records == 30
    model = load_model(pretrained).model.eval()
    data, _ = read_data(SourceConfig(path=target), UNITS)
    expected = model(data.gather(np.arange(30)), ["energy", "forces"])
    read, given = ase.io.read(tmp_path / "out.xyz", ":"), frames(["CH3OH"], per_compound=30)
    forces = np.concatenate([atoms.get_forces() for atoms in read])
    np.testing.assert_allclose([a.get_potential_energy() for a in read], expected["energy"], atol=1e-4)
    np.testing.assert_allclose(forces, expected["forces"], atol=1e-4)
    for atoms, molecule in zip(read, given, strict=True):
        assert atoms.info["REF_energy"] == pytest.approx(molecule.labels["energy"], abs=1e-6)
        np.testing.assert_allclose(atoms.arrays["REF_forces"], molecule.labels["forces"], atol=1e-6)
        np.testing.assert_allclose(atoms.positions, molecule.positions, atol=1e-6)


def test_written_predictions_are_evaluated_on_the_labels_they_kept(tmp_path, pretrained, target):
    predict_file(pretrained, target, tmp_path / "out.xyz")
    before, _ = evaluate_file(pretrained, target, UNITS)
    after, report = evaluate_file(pretrained, tmp_path / "out.xyz", UNITS)
    assert "REF_forces" in report
    assert after.force_mae == pytest.approx(before.force_mae, rel=1e-4)


def test_molecules_without_labels_are_predicted_and_cannot_be_evaluated(tmp_path, pretrained):
    bare = make_xyz(tmp_path / "bare.xyz", [without_labels(m, "energy", "forces") for m in frames(["H2O"])])
    assert predict_file(pretrained, bare, tmp_path / "out.xyz").n_records == 5
    assert "REF_energy" not in ase.io.read(tmp_path / "out.xyz").info
    with pytest.raises(ValueError, match="none of its 5 molecules has an energy or forces to compare with"):
        evaluate_file(pretrained, bare, UNITS)


def test_pre_training_goes_on_from_a_model_file(tmp_path, pretrained, store):
    recipe = pretrain_recipe(store, start=pretrained, training=training(n_steps=1, optimizer={"learning_rate": 1e-30}))
    result = pretrain(recipe, tmp_path / "run")
    parameters = [dict(load_model(path).model.named_parameters()) for path in (pretrained, result.model)]
    assert differences(*({k: v.detach() for k, v in p.items()} for p in parameters)) == []
    assert load_recipe(PretrainRecipe, tmp_path / "run" / RECIPE_FILE, []).start == pretrained


def test_whole_compounds_are_held_out_of_pre_training(pretrained, store):
    split, data = Split.load(pretrained.parent / "split.json"), MoleculeStore.open(store)
    compounds = [{data.smiles[i] for i in part} for part in (split.train, split.validation)]
    assert compounds[0] and compounds[1] and not compounds[0] & compounds[1]


def test_a_run_leaves_the_files_that_explain_it(pretrained):
    names = {p.name for p in pretrained.parent.iterdir()}
    assert names == {
        "recipe.yaml",
        "environment.txt",
        "data.json",
        "split.json",
        "metrics.jsonl",
        "state.pt",
        "model.safetensors",
        "last.safetensors",
    }
    record = json.loads((pretrained.parent / "data.json").read_text())
    assert record["n_molecules"] == 30
    assert record["level_of_theory"] == "springs"
    assert record["split"] == Split.load(pretrained.parent / "split.json").hash
    assert "torch==" in (pretrained.parent / "environment.txt").read_text()


def test_a_run_is_reproduced_from_its_own_recipe(tmp_path, pretrained):
    recipe = load_recipe(PretrainRecipe, pretrained.parent / RECIPE_FILE, [])
    assert pretrain(recipe, tmp_path / "again").model.read_bytes() == pretrained.read_bytes()
