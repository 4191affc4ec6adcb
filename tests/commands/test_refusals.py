"""What cannot work is refused before anything is trained or written, with a message that says what to do."""

import json

import numpy as np
import pytest

from basinet.commands.answer.evaluate import evaluate_file
from basinet.commands.recipe import LaunchConfig, UnitsConfig
from basinet.commands.run_directory import MODEL_FILE, RECIPE_FILE
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.stream.splits import Split
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import (
    CoordinateDenoisingConfig,
    EnergyForcesConfig,
    ForceAndDenoiseConfig,
    ForcesConfig,
)
from small_runs import (
    finetune_recipe,
    frames,
    make_store,
    make_xyz,
    pretrain_recipe,
    training,
    without_labels,
)

RUNS = [(pretrain, pretrain_recipe), (finetune, finetune_recipe)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("data") / "store", frames())


@pytest.fixture(scope="module")
def water_model(tmp_path_factory):
    """Return a model that knows hydrogen and oxygen only."""
    out = tmp_path_factory.mktemp("water")
    data = make_xyz(out / "water.xyz", frames(["H2O"], per_compound=12))
    return pretrain(pretrain_recipe(data, objective=ForcesConfig(), training=training(n_steps=2)), out / "run").model


@pytest.mark.parametrize(("run", "recipe"), RUNS)
@pytest.mark.parametrize(
    ("objective", "lacking", "message"),
    [
        (ForcesConfig(), ["forces"], "needs molecules with the label 'forces'"),
        (EnergyForcesConfig(), ["energy"], "needs molecules with the label 'energy'"),
        (EnergyForcesConfig(), ["energy", "forces"], "the label 'energy' and the label 'forces'"),
    ],
)
def test_data_without_the_labels_of_the_loss_is_refused(tmp_path, run, recipe, objective, lacking, message):
    data = make_store(tmp_path / "store", [without_labels(m, *lacking) for m in frames()])
    with pytest.raises(ValueError, match=message) as caught:
        run(recipe(data, objective=objective), tmp_path / "run")
    assert "the training part of" in str(caught.value) and "objective.kind=" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", [ForceAndDenoiseConfig(), CoordinateDenoisingConfig()])
def test_data_without_minima_is_refused_by_objectives_of_minima(tmp_path, objective):
    data = make_xyz(tmp_path / "frames.xyz", frames())  # a file does not say which frames are minima
    with pytest.raises(ValueError, match="molecules with the flag 'is_equilibrium', and the training part of"):
        pretrain(pretrain_recipe(data, objective=objective), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("run", "recipe"), RUNS)
def test_a_directory_with_a_run_is_not_written_over(tmp_path, store, run, recipe):
    run(recipe(store, training=training(n_steps=1)), tmp_path / "run")
    before = (tmp_path / "run" / MODEL_FILE).read_bytes()
    with pytest.raises(ValueError, match=r"holds a run already; resume it \(--resume\) or choose another --out"):
        run(recipe(store, training=training(n_steps=2)), tmp_path / "run")
    assert (tmp_path / "run" / MODEL_FILE).read_bytes() == before


@pytest.mark.parametrize(("run", "recipe"), RUNS)
def test_a_directory_with_something_else_is_not_written_to(tmp_path, store, run, recipe):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="exists and is not a run of basinet; choose another --out"):
        run(recipe(store), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_run_directory(tmp_path, store):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is not a run of basinet"):
        pretrain(pretrain_recipe(store), tmp_path / "run")


def test_an_empty_directory_may_become_a_run(tmp_path, store):
    pretrain(pretrain_recipe(store, training=training(n_steps=1)), tmp_path)
    assert (tmp_path / MODEL_FILE).exists()


@pytest.mark.parametrize(("run", "recipe"), RUNS)
def test_where_there_is_no_run_there_is_nothing_to_resume(tmp_path, store, run, recipe):
    with pytest.raises(ValueError, match="holds no run to resume; leave --resume out to start one"):
        run(recipe(store), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("run", "recipe"), RUNS)
def test_a_run_is_not_resumed_with_another_recipe_and_every_difference_is_named(tmp_path, store, run, recipe):
    run(recipe(store, training=training(n_steps=1)), tmp_path / "run")
    before = (tmp_path / "run" / RECIPE_FILE).read_text()
    changed = recipe(store, training=training(n_steps=2, optimizer={"learning_rate": 0.5}))
    with pytest.raises(ValueError, match="was started with another recipe") as caught:
        run(changed, tmp_path / "run", resume=True)
    assert "training.n_steps was 1, now 2" in str(caught.value)
    assert "training.optimizer.learning_rate was 0.003, now 0.5" in str(caught.value)
    assert "batch_size" not in str(caught.value)
    assert (tmp_path / "run" / RECIPE_FILE).read_text() == before


def test_a_run_may_be_resumed_with_other_threads(tmp_path, store):
    pretrain(pretrain_recipe(store, training=training(n_steps=1)), tmp_path / "run")
    launch = LaunchConfig(accelerator="cpu")
    pretrain(pretrain_recipe(store, training=training(n_steps=1), launch=launch), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_train": 27}, "has 30 molecules; cannot take n_train=27, n_validation=4"),
        ({"n_train": 20, "n_test": 10}, "cannot take n_train=20, n_validation=4, n_test=10"),
        ({"n_test": 26}, "n_train=0"),
        ({"n_train": 0}, "training and validation need at least one each"),
        ({"n_validation": 0, "n_train": 5}, "training and validation need at least one each"),
        ({"n_validation": 30}, "training and validation need at least one each"),
        ({"n_train": 5, "n_test": -1}, "test=-1"),
    ],
)
def test_more_conformations_than_there_are_or_none_are_refused(tmp_path, store, sizes, message):
    with pytest.raises(ValueError, match=message):
        finetune(finetune_recipe(store, **sizes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def saved_split(path, train, validation, test=()):
    parts = {"train": train, "validation": validation, "test": test}
    Split(**{name: np.array(indices, dtype=np.int64) for name, indices in parts.items()}).save(path)
    return path


def test_a_split_beyond_the_data_is_refused(tmp_path, store):
    split = saved_split(tmp_path / "split.json", range(5), [6], [30])
    with pytest.raises(ValueError, match=r"split\.json names molecule 30, but .*store has 30 molecules"):
        finetune(finetune_recipe(store, split=split), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("train", "validation", "part"), [([], [1], "training"), ([1], [], "validation")])
def test_a_split_with_an_empty_part_is_refused(tmp_path, store, train, validation, part):
    split = saved_split(tmp_path / "split.json", train, validation)
    with pytest.raises(ValueError, match=f"the {part} part of"):
        finetune(finetune_recipe(store, split=split), tmp_path / "run")


def test_a_split_that_was_edited_is_refused(tmp_path, store):
    split = saved_split(tmp_path / "split.json", [0, 1], [2])
    record = json.loads(split.read_text())
    split.write_text(json.dumps({**record, "train": [0, 3]}))
    with pytest.raises(ValueError, match="was changed after it was saved"):
        finetune(finetune_recipe(store, split=split), tmp_path / "run")


@pytest.mark.parametrize("where", ["train", "validation", "test"])
def test_elements_the_loaded_model_has_never_seen_are_refused_wherever_they_are(tmp_path, water_model, where):
    data = make_xyz(tmp_path / "data.xyz", [*frames(["H2O"], per_compound=6), *frames(["NH3"], per_compound=2)])
    parts = {"train": [0, 1], "validation": [2, 3], "test": [4, 5]}
    parts[where].append(7)
    split = saved_split(tmp_path / "split.json", *parts.values())
    with pytest.raises(ValueError, match="the model knows the elements H O, the data also has N"):
        finetune(finetune_recipe(data, start=str(water_model), split=split), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pre_training_goes_on_with_new_elements(tmp_path, water_model, store):
    recipe = pretrain_recipe(store, start=water_model, objective=ForcesConfig(), training=training(n_steps=1))
    pretrain(recipe, tmp_path / "run")


@pytest.mark.parametrize("start", ["missing.safetensors", "."])
def test_a_start_that_is_no_model_file_is_refused(tmp_path, store, start):
    with pytest.raises((ValueError, FileNotFoundError), match="model file"):
        finetune(finetune_recipe(store, start=str(tmp_path / start)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("run", "recipe"), RUNS)
def test_a_missing_data_file_is_named(tmp_path, run, recipe):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.xyz does not exist"):
        run(recipe(tmp_path / "nowhere.xyz"), tmp_path / "run")


def test_one_molecule_is_too_few_to_pre_train(tmp_path):
    data = make_xyz(tmp_path / "one.xyz", frames(["H2O"], per_compound=1))
    with pytest.raises(ValueError, match="has 1 molecules; too few to keep some for validation"):
        pretrain(pretrain_recipe(data, objective=ForcesConfig()), tmp_path / "run")


@pytest.mark.parametrize(("run", "recipe"), RUNS)
def test_forces_of_the_wrong_sign_are_refused(tmp_path, run, recipe):
    wrong = [
        type(m)(
            atomic_numbers=m.atomic_numbers,
            positions=m.positions,
            labels={"energy": m.labels["energy"], "forces": -m.labels["forces"]},
        )
        for m in frames(["H2O", "NH3"], per_compound=40)
    ]
    data = make_xyz(tmp_path / "wrong.xyz", wrong)
    with pytest.raises(ValueError, match="the forces have the wrong sign"):
        run(recipe(data, objective=ForcesConfig()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pre_training_by_denoising_alone_leaves_no_energy_and_fine_tuning_begins_with_a_fresh_one(tmp_path):
    minima = make_store(tmp_path / "minima", [frame for frame in frames() if frame.is_equilibrium])
    recipe = pretrain_recipe(minima, objective=CoordinateDenoisingConfig(), validation_fraction=0.5)
    start = pretrain(recipe, tmp_path / "denoising").model
    assert load_model(start).model.offers == {"noise"}
    with pytest.raises(ValueError, match="offers noise and neither energy nor property; fine-tune it first"):
        evaluate_file(start, minima, UnitsConfig())
    data = make_store(tmp_path / "store", frames())
    tuned = load_model(finetune(finetune_recipe(data, start=str(start)), tmp_path / "tuned").model).model
    # Its scale is the size of the labelled forces, not of those at the minima it was pre-trained on, which are zero.
    assert float(tuned.energy_scale.scale) > 0.1
