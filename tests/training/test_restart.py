"""A run that stops and goes on is the run that never stopped, bit for bit."""

import pytest
import torch

from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.files import read_torch
from basinet.objectives.base import Objective
from basinet.objectives.methods import CoordinateDenoisingConfig, ForceAndDenoiseConfig
from basinet.objectives.supervised import EnergyForces, Forces
from basinet.training.fit import Progress
from basinet.training.state import STATE_FILE
from small_runs import GoneError, differences, frames, read_lines, run_fit, tiny_model, training

N_STEPS = 12
"""Of batches of 4 among 22 molecules: an epoch is 6 batches, so every run crosses its end."""

CASES = {
    "forces, cosine": (Forces(), "cosine", 1, 0.9),
    "forces, plateau": (Forces(), "plateau", 1, 0.9),
    "energies and forces, plateau, 2 batches a step": (EnergyForces(1.0, 1.0), "plateau", 2, 0.9),
    "energies and forces, cosine, no average": (EnergyForces(1.0, 1.0, "mse"), "cosine", 1, None),
    "forces and noise, cosine, 2 batches a step": (ForceAndDenoiseConfig().build(), "cosine", 2, 0.9),
    "forces and noise, plateau": (ForceAndDenoiseConfig().build(), "plateau", 1, 0.9),
    "noise, constant, 3 batches a step": (CoordinateDenoisingConfig().build(), "constant", 3, 0.9),
}


@pytest.fixture(scope="module")
def store():
    return MoleculeStore.from_molecules(frames(per_compound=4)[:22])


def stop_after(step: int):
    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise GoneError

    return stop


def run(directory, store, case, *, stop=None, resume=False, batch_size=4):
    objective, schedule, accumulate, decay = CASES[case]
    optimizer = {"schedule": schedule, "ema_decay": decay, "plateau_patience": 0, "plateau_factor": 0.5}
    config = training(
        n_steps=N_STEPS, accumulate=accumulate, batch_size=batch_size, validate_every=2, optimizer=optimizer
    )
    model = tiny_model(("energy", "noise"), seed=3 if resume else 0)  # a resumed run depends on no fresh weight
    loader = Loader(store, torch.arange(len(store)).numpy(), batch_size=batch_size, seed=0)
    on_progress = None if stop is None else stop_after(stop)
    result = run_fit(model, objective, loader, config, directory, resume=resume, on_progress=on_progress)
    return model, result


@pytest.mark.parametrize(
    ("case", "stop"),
    # Two steps that were logged are lost; in the last the state was just saved.
    [*((case, 8) for case in CASES), ("forces, cosine", 6)],
)
def test_stopping_and_going_on_changes_no_bit_of_weights_averages_optimiser_metrics_or_best_model(
    tmp_path, store, case, stop
):
    whole, ended = run(tmp_path / "whole", store, case)
    with pytest.raises(GoneError):
        run(tmp_path / "cut", store, case, stop=stop)
    assert read_torch(tmp_path / "cut" / STATE_FILE)["step"] == 6
    resumed, again = run(tmp_path / "cut", store, case, resume=True)
    assert differences(whole.state_dict(), resumed.state_dict()) == []
    for name in (STATE_FILE, "best.pt"):
        assert differences(read_torch(tmp_path / "whole" / name), read_torch(tmp_path / "cut" / name), name) == []
    assert read_lines(tmp_path / "whole" / "metrics.jsonl") == read_lines(tmp_path / "cut" / "metrics.jsonl")
    assert (ended.best, ended.best_step, ended.step) == (again.best, again.best_step, again.step)


def test_a_run_may_stop_many_times(tmp_path, store):
    case = "forces and noise, cosine, 2 batches a step"
    whole, _ = run(tmp_path / "whole", store, case)
    for stop in (1, 4, 5, 10):
        with pytest.raises(GoneError):
            run(tmp_path / "cut", store, case, stop=stop, resume=stop > 4)
    resumed, _ = run(tmp_path / "cut", store, case, resume=True)
    assert differences(whole.state_dict(), resumed.state_dict()) == []
    assert read_lines(tmp_path / "whole" / "metrics.jsonl") == read_lines(tmp_path / "cut" / "metrics.jsonl")


def test_the_control_another_seed_of_the_noise_gives_other_weights(tmp_path, store):
    loader = lambda: Loader(store, torch.arange(len(store)).numpy(), batch_size=4, seed=0)  # noqa: E731
    weights = []
    for seed in (0, 1):
        model = tiny_model(("energy", "noise"))
        run_fit(model, ForceAndDenoiseConfig().build(), loader(), training(n_steps=2, seed=seed), tmp_path / str(seed))
        weights.append(model.state_dict())
    assert differences(*weights)


def test_a_finished_run_resumed_takes_no_step_and_changes_nothing(tmp_path, store):
    whole, ended = run(tmp_path / "run", store, "forces, cosine")
    state, metrics = ((tmp_path / "run" / name).read_bytes() for name in (STATE_FILE, "metrics.jsonl"))
    again, result = run(tmp_path / "run", store, "forces, cosine", resume=True)
    assert differences(whole.state_dict(), again.state_dict()) == []
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == state
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    assert result.best == ended.best


def test_fit_leaves_the_averaged_weights_in_the_model(tmp_path, store):
    model, _ = run(tmp_path / "run", store, "forces, cosine")
    state = read_torch(tmp_path / "run" / STATE_FILE)
    averaged = {k.removeprefix("module."): v for k, v in state["average"].items() if k != "n_averaged"}
    assert differences(averaged, dict(model.state_dict())) == []
    assert differences(averaged, state["model"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size was 4, now 3"),
        ({"store": MoleculeStore.from_molecules(frames(per_compound=3))}, "data was"),
        ({"case": "energies and forces, cosine, no average"}, "ema_decay was switched on or off"),
    ],
)
def test_a_state_of_another_run_is_refused(tmp_path, store, change, message):
    run(tmp_path / "run", store, "forces, cosine")
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", resume=True, **{"store": store, "case": "forces, cosine"} | change)


def test_an_objective_of_which_a_batch_has_no_molecule_passes_over_it(tmp_path):
    store = MoleculeStore.from_molecules(frames(["H2O"], per_compound=4))  # one of four is at its minimum
    model = tiny_model(("energy", "noise"))
    run_fit(
        model,
        CoordinateDenoisingConfig().build(),
        Loader(store, torch.arange(4).numpy(), batch_size=1, seed=0),
        training(),
        tmp_path,
    )
    lines = [r for r in read_lines(tmp_path / "metrics.jsonl") if r["kind"] == "train"]
    assert sum("denoising" in r for r in lines) in (2, 3)  # of 10 steps in 2.5 epochs
    assert all(r["gradient_norm"] == 0 and r["loss"] == 0 for r in lines if "denoising" not in r)


def test_the_objectives_of_the_cases_cover_every_kind():
    assert all(isinstance(case[0], Objective) for case in CASES.values())
    assert {case[1] for case in CASES.values()} == {"cosine", "plateau", "constant"}
