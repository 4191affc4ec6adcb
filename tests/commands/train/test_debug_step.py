"""A loss that is not finite stops the run, names its molecules, and can be looked at again."""

import math
import re

import numpy as np
import pytest
import torch

from basinet.backbones.build import build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.run_directory import MODEL_FILE, RECIPE_FILE
from basinet.commands.statistics import label_statistics, start_from_statistics
from basinet.commands.train.debug_step import debug_step
from basinet.commands.train.finetune import finetune
from basinet.commands.train.pretrain import pretrain
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.data.stream.splits import Split
from basinet.errors import RunError
from basinet.files import read_torch
from basinet.models.model import build_model_of
from basinet.objectives.base import Objective
from basinet.objectives.methods import (
    CoordinateDenoisingConfig,
    EnergyForcesConfig,
    ForceAndDenoiseConfig,
    ForcesConfig,
)
from basinet.structures.batch import collate
from basinet.training.failure import FAILURE_FILE, BeforeStep, NonFiniteLossError, load_failure, stop_for_failure
from basinet.training.state import STATE_FILE
from small_runs import (
    TINY,
    differences,
    finetune_recipe,
    frames,
    make_store,
    pretrain_recipe,
    read_lines,
    run_fit,
    tiny_model,
    training,
)


def spoil(store_path, run, value, *, at_step):
    """Write ``value`` over the force label of one training molecule when a run has got to a step."""
    spoiled = []

    def on_progress(progress):
        if progress.step != at_step:
            return
        store = MoleculeStore.open(store_path)
        index = int(Split.load(run / "split.json").train[2])
        first_atom = int(store.atoms_per_molecule[:index].sum())
        (path,) = store_path.glob("*/atom_label.forces.npy")
        array = np.lib.format.open_memmap(path, mode="r+")
        array[first_atom, 1] = value
        array.flush()
        spoiled.append(index)

    return on_progress, spoiled


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (ForcesConfig(), float("nan")),
        (EnergyForcesConfig(), float("nan")),
        (ForceAndDenoiseConfig(), float("nan")),
        (ForcesConfig(), float("inf")),
        (ForcesConfig(), 1e30),  # its square overflows
    ],
)
def test_a_label_that_breaks_the_loss_is_found_by_replaying_the_step(tmp_path, objective, value):
    data, out = make_store(tmp_path / "store", frames()), tmp_path / "run"
    on_progress, spoiled = spoil(data, out, value, at_step=2)
    recipe = pretrain_recipe(data, objective=objective, training=training(n_steps=30, save_every=1, accumulate=2))
    with pytest.raises(NonFiniteLossError) as caught:
        pretrain(recipe, out, on_progress=on_progress)
    message = str(caught.value)
    step = int(re.match(r"step (\d+): the loss is not finite", message)[1])
    assert 3 <= step <= 10  # an epoch is 2.5 steps, and one or two epochs have been read when the label is spoiled
    named = [int(i) for i in re.search(r"Molecules ([\d, ]+) of the training data", message)[1].split(",")]
    assert spoiled[0] in named and len(named) <= 8
    assert f"basinet debug-step {out}" in message
    found = debug_step(out)
    assert found.step == step
    assert [index for index, _, _ in found.bad_molecules] == spoiled
    assert not math.isfinite(found.terms["forces"])
    force = found.bad_molecules[0][1]
    assert math.isnan(force) if math.isnan(value) else force >= 1e29
    failed, state = load_failure(out / FAILURE_FILE), read_torch(out / STATE_FILE)
    assert state["step"] == step - 1  # saved after every step, so it shows the weights before the failed one
    assert differences(failed.weights, dict(state["model"])) == []
    assert differences(failed.generator, state["generators"][0]) == []
    assert isinstance(caught.value, RunError)


def test_the_largest_force_label_in_the_batch_is_named(tmp_path):
    data, out = make_store(tmp_path / "store", frames()), tmp_path / "run"
    on_progress, _ = spoil(data, out, 1e30, at_step=1)
    with pytest.raises(NonFiniteLossError, match=r"largest force label 1e\+30 eV/Å"):
        pretrain(pretrain_recipe(data, objective=ForcesConfig()), out, on_progress=on_progress)


def test_a_replay_gives_the_loss_of_the_failed_step_noise_included(tmp_path):
    """The gradient is what fails here, so that the loss is a number to compare."""
    data, out = make_store(tmp_path / "store", frames()), tmp_path / "run"
    config = training(n_steps=4, save_every=1)
    pretrain(pretrain_recipe(data, training=config), out)
    expected = next(r for r in read_lines(out / "metrics.jsonl") if r["step"] == 4)

    again = tmp_path / "again"
    again.mkdir()
    (again / RECIPE_FILE).write_bytes((out / RECIPE_FILE).read_bytes())
    store, split = MoleculeStore.open(data), Split.load(out / "split.json")
    model = tiny_model(("energy", "noise"))
    start_from_statistics(model, label_statistics(store, split.train, 0))
    with pytest.raises(NonFiniteLossError, match="step 4: the norm of the gradient is not finite"):
        run_fit(model, Breaking(at_call=4), Loader(store, split.train, batch_size=4, seed=0), config, again)
    found = debug_step(again)
    assert found.bad_molecules == []  # no molecule is to blame
    assert found.step == 4
    assert found.terms == pytest.approx({k: expected[k] for k in found.terms}, rel=1e-6)


class Breaking(Objective):
    """Forces and denoising whose gradient, and not its value, becomes infinite at one call."""

    def __init__(self, at_call: int) -> None:
        self.inner = ForceAndDenoiseConfig().build()
        self.requires, self.labels, self.flags = self.inner.requires, self.inner.labels, self.inner.flags
        self.weights = self.inner.weights
        self.calls, self.at_call = 0, at_call

    def uses(self, batch):
        return self.inner.uses(batch)

    def counts(self, batch):
        return self.inner.counts(batch)

    def sums(self, model, batch, generator):
        self.calls += 1
        sums = self.inner.sums(model, batch, generator)
        if self.calls < self.at_call:
            return sums
        zero = torch.sqrt(0 * model.backbone.embedding.weight.square().sum())  # its slope at zero is infinite
        return {**sums, "forces": sums["forces"] + zero}


def test_a_failed_step_of_a_model_that_was_loaded_is_replayed_with_its_own_network(tmp_path):
    """The network of the file counts, not the one in the recipe."""
    data = make_store(tmp_path / "store", frames())
    wider = EquivariantTransformerConfig(n_features=16, n_layers=2, n_heads=2, n_basis=8)
    pretrain(pretrain_recipe(data, model=wider, training=training(n_steps=2)), tmp_path / "first")
    out = tmp_path / "tuned"
    on_progress, spoiled = spoil(data, out, float("nan"), at_step=1)
    start = str(tmp_path / "first" / MODEL_FILE)
    recipe = finetune_recipe(data, start=start, model=TINY, training=training(n_steps=30))
    with pytest.raises(NonFiniteLossError):
        finetune(recipe, out, on_progress=on_progress)
    assert [index for index, _, _ in debug_step(out).bad_molecules] == spoiled


def test_a_run_that_did_not_fail_has_nothing_to_replay(tmp_path):
    data = make_store(tmp_path / "store", frames())
    recipe = pretrain_recipe(data, objective=CoordinateDenoisingConfig(), training=training(n_steps=1))
    pretrain(recipe, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"has no failure\.pt: no step of this run failed"):
        debug_step(tmp_path / "run")


@pytest.mark.parametrize("outputs", [("pooled_energy", "noise_level"), ("forces", "noise_level"), ("energy", "noise")])
def test_a_failed_step_knows_what_kind_its_heads_were(tmp_path, outputs):
    model = tiny_model(outputs)
    batch = collate(frames()[:2])
    raise_later = stop_for_failure(
        tmp_path, 0, 1, model, [("", batch)], BeforeStep(model, torch.Generator()), "the loss"
    )
    assert isinstance(raise_later, NonFiniteLossError)
    failure = load_failure(tmp_path / FAILURE_FILE)
    again = build_model_of(build_backbone(TINY), failure.heads, failure.properties)
    again.load_state_dict(failure.weights)
    assert {k: type(h) for k, h in again.heads.items()} == {k: type(h) for k, h in model.heads.items()}
