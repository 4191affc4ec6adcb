"""Minima beside the data of fine-tuning: they are kept, they teach no energies, and without them nothing changes."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch

from basinet.commands.recipe import FinetuneRecipe, ReplayConfig, SourceConfig, load_recipe
from basinet.commands.run_directory import DATA_FILE, LAST_FILE
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.store.store import MoleculeStore
from basinet.files import read_torch
from basinet.models.checkpoint import load_model
from basinet.objectives.methods import EnergyForcesConfig, ForceAndDenoiseConfig, ForcesConfig
from basinet.objectives.replay import IS_REPLAY, WithReplay, minima_to_keep
from basinet.objectives.supervised import EnergyForces
from basinet.structures.segment import max_norm
from basinet.training.interrupt import InterruptedRunError
from basinet.training.state import STATE_FILE
from small_runs import (
    differences,
    finetune_recipe,
    frames,
    make_store,
    make_xyz,
    pretrain_recipe,
    read_lines,
    spring_molecule,
    tiny_model,
    training,
    without_labels,
)

NAMES = ["H2O", "HCN", "NH3", "H2CO", "CH4", "CH3OH"]


@pytest.fixture(scope="module")
def minima(tmp_path_factory):
    """Return a store of minima whose energies are wrong by far."""
    found = [spring_molecule(name, 0.0, 0) for name in NAMES]
    wrong = [dataclasses.replace(m, labels={"energy": 1e6, "forces": m.labels["forces"] + 99}) for m in found]
    return make_store(tmp_path_factory.mktemp("minima") / "minima", wrong)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    return make_store(
        tmp_path_factory.mktemp("moved") / "moved", [spring_molecule("NH3", 0.1, seed) for seed in range(1, 25)]
    )


def tune(out, data, replay, **changes):
    recipe = finetune_recipe(data, **{"objective": ForcesConfig(), "replay": replay} | changes)
    return finetune(recipe, out)


def test_without_replay_molecules_the_objective_is_the_one_it_wraps_to_the_bit():
    batch = MoleculeStore.from_molecules(frames()).gather(np.arange(6))
    for objective in (EnergyForces(1.0, 1.0), ForceAndDenoiseConfig().build()):
        model, wrapped = tiny_model(("energy", "noise")), WithReplay(objective, minima_to_keep(0.1, 0.1, 0.04, 300.0))
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        plain = objective.sums(model, batch, generators[0])
        found = wrapped.sums(model, batch, generators[1])
        assert all(torch.equal(found[key], value) for key, value in plain.items())
        assert differences(*(g.get_state() for g in generators)) == []
        assert {key: value for key, value in wrapped.counts(batch).items() if value} == objective.counts(batch)


def test_neither_objective_sees_the_molecules_of_the_other():
    store = MoleculeStore.from_molecules([spring_molecule(name, 0.0, 0) for name in NAMES])
    batch = store.gather(np.arange(6))
    marked = batch.replace(flags={**batch.flags, IS_REPLAY: torch.arange(6) >= 4})
    objective, keep = EnergyForces(1.0, 1.0), minima_to_keep(0.1, 0.1, 0.04, 300.0)
    counts = WithReplay(objective, keep).counts(marked)
    first, last = int(batch.atoms_per_molecule[:4].sum()), int(batch.atoms_per_molecule[4:].sum())
    assert counts == {
        "energy": 4.0, "forces": float(first), "replay.zero_force": float(last), "replay.denoising": float(last)
    }  # fmt: skip
    model = tiny_model()
    sums = WithReplay(objective, keep).sums(model, marked, torch.Generator().manual_seed(0))
    alone = objective.sums(model, batch.select(range(4)), torch.Generator())
    assert float(sums["forces"].detach()) == pytest.approx(float(alone["forces"].detach()), rel=1e-5)
    spoiled = marked.labels["forces"].clone()
    spoiled[first:] = torch.nan
    again = WithReplay(objective, keep).sums(
        model, marked.replace(labels={**marked.labels, "forces": spoiled}), torch.Generator().manual_seed(0)
    )
    assert differences(sums, again) == []


def test_a_model_keeps_its_minima(tmp_path, minima, moved):
    config = training(n_steps=150, batch_size=8, validate_every=150, log_every=50, save_every=150)
    start = pretrain(
        pretrain_recipe(
            make_store(tmp_path / "all", frames(per_compound=9)), objective=ForceAndDenoiseConfig(), training=config
        ),
        tmp_path / "pre",
    ).model
    store = MoleculeStore.open(minima)
    batch = store.gather(np.arange(6))
    force = {}
    for name, replay in (("without", None), ("with", ReplayConfig(data=minima, zero_force=1.0))):
        tune(tmp_path / name, moved, replay, start=str(start), training=config)
        model = load_model(tmp_path / name / LAST_FILE).model.eval()
        force[name] = float(torch.linalg.vector_norm(model(batch, ["forces"])["forces"], dim=-1).mean())
        assert max_norm(model(batch, ["forces"])["forces"]) > 0  # the control: no network that knows no force
    assert force["with"] < 0.5 * force["without"]


def test_the_labels_of_the_minima_teach_nothing(tmp_path, minima, moved):
    unlabelled = [without_labels(spring_molecule(name, 0.0, 0), "energy", "forces") for name in NAMES]
    bare = make_store(tmp_path / "bare", unlabelled)
    objective = EnergyForcesConfig()
    for name, data in (("with labels", minima), ("without", bare)):
        tune(tmp_path / name, moved, ReplayConfig(data=data), objective=objective, training=training(n_steps=5))
    first, second = (load_model(tmp_path / name / LAST_FILE).model for name in ("with labels", "without"))
    assert differences(first.state_dict(), second.state_dict()) == []
    assert first.scope == second.scope
    assert first.scope.level_of_theory == "springs" and first.scope.elements == {1, 6, 7, 8}


def test_minima_come_every_so_often_and_the_best_step_is_chosen_without_them(tmp_path, minima, moved):
    tune(tmp_path / "run", moved, ReplayConfig(data=minima, every=3, denoising=0.1), training=training(n_steps=7))
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    train = [r for r in records if r["kind"] == "train"]
    assert ["replay.zero_force" in r for r in train] == [True, False, False, True, False, False, True]
    assert all(r["replay.denoising/minima"] == r["replay.denoising"] for r in train if "replay.denoising" in r)
    assert not any(key.startswith("replay") for r in records if r["kind"] == "validation" for key in r)
    record = json.loads((tmp_path / "run" / DATA_FILE).read_text())
    assert record["replay"][0]["n_minima"] == 6


def test_an_interrupted_run_with_replay_goes_on_bit_for_bit(tmp_path, minima, moved):
    replay = ReplayConfig(data=minima, every=2, batch_size=4, denoising=0.1)
    recipe = finetune_recipe(moved, objective=ForcesConfig(), replay=replay, training=training(n_steps=8))

    def interrupt(progress):
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    finetune(recipe, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        finetune(recipe, tmp_path / "cut", on_progress=interrupt)
    finetune(recipe, tmp_path / "cut", resume=True)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert differences(read_torch(whole / STATE_FILE), read_torch(cut / STATE_FILE)) == []
    assert read_lines(whole / "metrics.jsonl") == read_lines(cut / "metrics.jsonl")


def test_data_without_minima_is_refused_by_name(tmp_path, moved):
    with pytest.raises(ValueError, match="replay needs minima, and source moved has none on record"):
        tune(tmp_path / "run", moved, ReplayConfig(data=moved))
    file = make_xyz(tmp_path / "file.xyz", [spring_molecule(name, 0.0, 0) for name in NAMES])
    marked = (SourceConfig(path=file, is_equilibrium=True),)
    tune(tmp_path / "run", moved, ReplayConfig(data=marked), training=training(n_steps=1))


def test_minima_of_elements_a_loaded_model_does_not_know_are_refused(tmp_path, minima, moved):
    start = pretrain(pretrain_recipe(moved, objective=ForcesConfig(), training=training(n_steps=1)), tmp_path / "pre")
    with pytest.raises(ValueError, match="the model knows the elements H N, the data also has C O"):
        tune(tmp_path / "run", moved, ReplayConfig(data=minima), start=str(start.model))


def test_a_recipe_may_replay(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: a\nreplay:\n  data: [b, {path: c, is_equilibrium: true}]\n  every: 4\n")
    replay = load_recipe(FinetuneRecipe, path, ["replay.zero_force=0.5"]).replay
    sources = tuple(SourceConfig(**s) for s in ({"path": tmp_path / "b"}, {"path": tmp_path / "c"}))
    assert replay is not None and replay.every == 4 and replay.zero_force == 0.5
    assert not isinstance(replay.data, type(path))
    assert [s.path.name for s in replay.data] == [s.path.name for s in sources]
    with pytest.raises(ValueError, match="replay.data: must be given"):
        load_recipe(FinetuneRecipe, None, ["data=a", "replay.every=2"])
