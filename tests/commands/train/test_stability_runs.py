"""select_by=stability: the step that keeps molecules whole is kept, and it is told what that cost."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import Tensor

from basinet.commands.recipe import FinetuneRecipe
from basinet.commands.run_directory import MODEL_FILE
from basinet.commands.train.finetune import finetune
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.files import read_torch
from basinet.md.stability import StabilityConfig, stability
from basinet.models.checkpoint import load_model
from basinet.objectives.properties import PropertyConfig
from basinet.objectives.supervised import Forces
from basinet.structures.batch import Batch
from basinet.training.interrupt import InterruptedRunError
from md_potentials import morse, named
from small_runs import differences, finetune_recipe, frames, make_xyz, read_lines, run_fit, tiny_model, training

CPU = torch.device("cpu")
SHORT = StabilityConfig(replicas=5, picoseconds=0.02, temperature=1500.0, bond_tolerance=0.2)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    return make_xyz(tmp_path_factory.mktemp("stability") / "methanol.xyz", frames(["CH3OH"], per_compound=30))


def test_a_stiff_molecule_stays_whole_and_free_atoms_fly_apart() -> None:
    def free(batch: Batch) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch.n_molecules, dtype=torch.float64), torch.zeros_like(batch.positions)

    config = StabilityConfig(replicas=6, picoseconds=0.2, temperature=500.0)
    stiff = stability(morse(depth=8.0), [named("CO")], config, CPU)
    assert stiff.times.tolist() == [0.2] * 6
    apart = stability(free, [named("CO"), named("H2O")], config, CPU)
    assert apart.mean < 0.15
    again = stability(free, [named("CO"), named("H2O")], config, CPU)
    assert torch.equal(again.times, apart.times)


def test_the_highest_value_is_selected_and_ties_go_to_the_lowest_loss(tmp_path) -> None:
    seen = iter([(5.0, 1.0), (1.0, 0.5), (3.0, 2.0), (2.0, 2.0), (2.5, 2.0), (0.1, 1.9)])
    saved = []

    def validate(model):
        loss, metric = next(seen)
        return {"loss": loss, "whole": metric}

    loader = Loader(MoleculeStore.from_molecules(frames(["H2O"])), np.arange(5), batch_size=4, seed=0)
    result = run_fit(
        tiny_model(),
        Forces(),
        loader,
        training(n_steps=6, validate_every=1),
        tmp_path,
        validate=validate,
        save_best=lambda model, step, metrics: saved.append(step),
        select_by="whole",
    )
    assert saved == [1, 3, 4]
    assert (result.best, result.best_step) == (2.0, 4)


def recipe(data, **changes) -> FinetuneRecipe:
    return finetune_recipe(data, select_by="stability", stability=SHORT, **changes)


def test_the_best_step_is_the_most_stable_one_of_the_log(molecules, tmp_path) -> None:
    out = tmp_path / "run"
    result = finetune(recipe(molecules), out)
    rows = [r for r in read_lines(out / "metrics.jsonl") if "stability" in r]
    assert len(rows) == 4
    assert all(0 <= r["stability"] <= 0.02 and r["stability_seconds"] > 0 for r in rows)
    best = max(rows, key=lambda r: (r["stability"], -r["loss"]))
    assert (result.fit.best_step, result.fit.best) == (best["step"], best["loss"])
    assert load_model(out / MODEL_FILE).metadata["validation"]["stability"] == best["stability"]


def test_a_resumed_run_selects_the_same_step(molecules, tmp_path) -> None:
    whole = finetune(recipe(molecules), tmp_path / "whole")

    def interrupt(progress):
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        finetune(recipe(molecules), tmp_path / "part", on_progress=interrupt)
    part = finetune(recipe(molecules), tmp_path / "part", resume=True)
    assert (whole.fit.best, whole.fit.best_step) == (part.fit.best, part.fit.best_step)
    one, other = (read_torch(tmp_path / d / "state.pt") for d in ("whole", "part"))
    assert not differences(one["model"], other["model"])
    assert one["best_selected"] == other["best_selected"]


def test_what_cannot_move_cannot_be_stable(tmp_path) -> None:
    with pytest.raises(ValueError, match="select_by=stability needs forces"):
        FinetuneRecipe(data=tmp_path, objective=PropertyConfig(label="gap"), select_by="stability")
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0"):
        StabilityConfig(temperature=0.0)
    with pytest.raises(ValueError, match="replicas must be at least 1"):
        StabilityConfig(replicas=0)
