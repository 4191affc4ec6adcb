"""What a step of the loop is: the loss of its whole batch, a bounded gradient, averaged weights."""

import numpy as np
import pytest
import torch

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.files import read_torch
from basinet.objectives.base import mean_terms, total_loss
from basinet.objectives.methods import CoordinateDenoisingConfig, ForceAndDenoiseConfig
from basinet.objectives.supervised import EnergyForces, Forces
from basinet.training.fit import TrainingConfig
from basinet.training.state import STATE_FILE
from small_runs import (
    DoubleLoader,
    differences,
    frames,
    largest_difference,
    read_lines,
    run_fit,
    tiny_model,
    training,
)

ROUNDING = {torch.float32: 100 * torch.finfo(torch.float32).eps, torch.float64: 100 * torch.finfo(torch.float64).eps}
"""Relative error of a gradient: sums of about a hundred terms in another order."""


@pytest.fixture(scope="module")
def store():
    return MoleculeStore.from_molecules(frames(per_compound=4))


def loader_of(store, batch_size, *, dtype=torch.float32, n=24):
    kind = DoubleLoader if dtype == torch.float64 else Loader
    return kind(store, np.arange(n), batch_size=batch_size, seed=0, shuffle=False)


@pytest.mark.parametrize("objective", [Forces(), EnergyForces(1.0, 10.0), EnergyForces(1.0, 1.0, "mse")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_four_accumulated_twice_are_batches_of_eight(tmp_path, store, objective, dtype):
    # The norm of the first gradient has the rounding of its precision. Adam divides each gradient by its own size, so
    # weights after it agree to rounding only where gradients are far above it: in float64.
    weights, gradients = [], []
    for batch_size, accumulate in ((8, 1), (4, 2), (2, 4)):
        model = tiny_model().to(dtype)
        config = training(n_steps=3, batch_size=batch_size, accumulate=accumulate)
        directory = tmp_path / f"{batch_size}"
        run_fit(model, objective, loader_of(store, batch_size, dtype=dtype), config, directory, validate=constant)
        weights.append(model.state_dict())
        gradients.append([r["gradient_norm"] for r in read_lines(directory / "metrics.jsonl") if r["kind"] == "train"])
    for other in (1, 2):
        assert gradients[other][0] == pytest.approx(gradients[0][0], rel=ROUNDING[dtype])
        if dtype == torch.float64:
            assert gradients[other] == pytest.approx(gradients[0], rel=1e-9)
            assert largest_difference(weights[0], weights[other]) < 1e-9


def constant(model):
    return {"loss": 1.0}


def test_molecules_of_unequal_sizes_weigh_by_their_atoms_however_they_are_accumulated(tmp_path):
    """A mean of means would weigh the atoms of the small molecule twice as much."""
    store = MoleculeStore.from_molecules(
        [*frames(["H2O"], per_compound=3)[1:2], *frames(["CH3OH"], per_compound=3)[1:2]]
    )
    losses = []
    for batch_size, accumulate in ((2, 1), (1, 2)):
        directory = tmp_path / str(batch_size)
        config = training(n_steps=1, batch_size=batch_size, accumulate=accumulate)
        run_fit(tiny_model(), Forces(), loader_of(store, batch_size, n=2), config, directory, validate=constant)
        losses.append(read_lines(directory / "metrics.jsonl")[0]["loss"])
    model, batch = tiny_model(), store.gather(np.arange(2))
    error = (model(batch, ["forces"])["forces"] - batch.labels["forces"]).norm(dim=1)
    assert losses == pytest.approx([error.mean().item()] * 2, rel=1e-5)


def test_the_logged_loss_terms_and_gradient_are_those_of_plain_autograd(tmp_path, store, generator):
    objective = EnergyForces(2.0, 3.0)
    run_fit(tiny_model(), objective, loader_of(store, 4), training(n_steps=1), tmp_path)
    line = read_lines(tmp_path / "metrics.jsonl")[0]
    model, batch = tiny_model(), store.gather(np.arange(4))
    counts, sums = objective.counts(batch), objective.sums(model, batch, generator)
    loss = total_loss(objective, sums, counts)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    terms = mean_terms({k: v.detach() for k, v in sums.items()}, counts)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert line["loss"] == pytest.approx(2 * terms["energy"] + 3 * terms["forces"], rel=1e-6)
    assert {k: line[k] for k in terms} == pytest.approx(terms, rel=1e-6)
    assert line["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)


def test_clipping_bounds_the_gradient_and_the_log_says_what_it_was(tmp_path, store):
    """With plain momentum of Adam's first step, m = 0.1 g: the state shows the clipped gradient."""
    norms = {}
    for clip in (0.01, None):
        config = training(n_steps=1, optimizer={"clip_norm": clip})
        run_fit(tiny_model(), Forces(), loader_of(store, 4), config, tmp_path / str(clip))
        moments = read_torch(tmp_path / str(clip) / STATE_FILE)["optimizer"]["state"].values()
        used = torch.cat([m["exp_avg"].flatten() for m in moments]).norm().item() / 0.1
        norms[clip] = (used, read_lines(tmp_path / str(clip) / "metrics.jsonl")[0]["gradient_norm"])
    assert norms[0.01][0] == pytest.approx(0.01, rel=1e-3)
    assert norms[None][0] == pytest.approx(norms[None][1], rel=1e-5)
    assert norms[0.01][1] == norms[None][1] > 0.1


def test_weight_decay_reaches_the_weights_that_are_used_and_no_others(tmp_path, store):
    models = []
    for decay in (0.0, 1.0):
        model = tiny_model(("energy", "noise"))
        config = training(n_steps=1, optimizer={"weight_decay": decay, "ema_decay": None, "warmup_steps": 0})
        run_fit(model, Forces(), loader_of(store, 4), config, tmp_path / str(decay))
        models.append(model.state_dict())
    start = tiny_model(("energy", "noise")).state_dict()
    key = "backbone.layers.0.output.weight"
    torch.testing.assert_close(models[0][key] - models[1][key], 3e-3 * start[key], rtol=1e-3, atol=1e-7)
    noise = {k: v for k, v in start.items() if k.startswith("heads.noise")}
    assert differences({k: models[1][k] for k in noise}, noise) == []


def test_what_was_validated_and_saved_is_the_average_and_not_the_last_step(tmp_path, store):
    seen = []

    def validate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        assert not model.training
        return {"loss": 1.0 / len(seen)}

    run_fit(tiny_model(), Forces(), loader_of(store, 4), training(n_steps=3), tmp_path, validate=validate)
    state = read_torch(tmp_path / STATE_FILE)
    average = {k.removeprefix("module."): v for k, v in state["average"].items() if k != "n_averaged"}
    assert differences(seen[-1], average) == []
    assert differences(read_torch(tmp_path / "best.pt"), average) == []
    assert differences(seen[-1], state["model"])


def test_the_best_step_is_the_one_of_the_lowest_validation_loss(tmp_path, store):
    losses = iter([3.0, 1.0, 2.0, 1.0])
    saved = []
    result = run_fit(
        tiny_model(),
        Forces(),
        loader_of(store, 4),
        training(n_steps=8, validate_every=2),
        tmp_path,
        validate=lambda model: {"loss": next(losses)},
        save_best=lambda model, step, metrics: saved.append((step, metrics["loss"])),
    )
    assert saved == [(2, 3.0), (4, 1.0)]
    assert (result.best, result.best_step, result.step) == (1.0, 4, 8)


def test_the_last_step_is_logged_validated_and_saved_whatever_the_intervals(tmp_path, store):
    config = training(n_steps=7, log_every=5, validate_every=5, save_every=5)
    steps = []
    run_fit(tiny_model(), Forces(), loader_of(store, 4), config, tmp_path, on_progress=lambda p: steps.append(p.step))
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [(r["kind"], r["step"]) for r in lines] == [
        ("train", 5),
        ("validation", 5),
        ("train", 7),
        ("validation", 7),
    ]
    assert read_torch(tmp_path / STATE_FILE)["step"] == 7
    assert steps == list(range(1, 8))


def test_training_lowers_the_loss(tmp_path, store):
    config = training(n_steps=40, batch_size=24, optimizer={"learning_rate": 5e-2})
    run_fit(tiny_model(), Forces(), loader_of(store, 24), config, tmp_path)
    losses = [r["loss"] for r in read_lines(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("objective", [CoordinateDenoisingConfig().build(), ForceAndDenoiseConfig().build()])
def test_an_objective_whose_output_the_model_lacks_is_refused_before_anything_is_written(tmp_path, store, objective):
    with pytest.raises(ValueError, match=r"the model offers \['energy', 'forces'\]; add a head for \['noise'\]"):
        run_fit(tiny_model(), objective, loader_of(store, 4), training(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path, store):
    with pytest.raises(ValueError, match="step 3: the validation loss is not finite"):
        run_fit(
            tiny_model(),
            Forces(),
            loader_of(store, 4),
            training(),
            tmp_path,
            validate=lambda model: {"loss": float("nan")},
        )


@pytest.mark.parametrize("option", ["n_steps", "batch_size", "accumulate", "validate_every", "log_every", "save_every"])
def test_counts_below_one_are_refused_by_name(option):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        TrainingConfig(**{option: 0})
