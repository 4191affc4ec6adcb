"""What each of several processes does; started by torchrun in ``test_distributed.py``. Leaves its weights in files."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric

from basinet.commands.launch import launch
from basinet.commands.recipe import LaunchConfig, PretrainRecipe
from basinet.commands.train.pretrain import pretrain
from basinet.commands.train.validation import validation
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.objectives.base import Objective
from basinet.objectives.methods import ForceAndDenoiseConfig
from basinet.objectives.supervised import EnergyForces, Forces
from basinet.training.fit import Progress
from basinet.training.interrupt import InterruptedRunError
from small_runs import TINY, DoubleLoader, frames, pretrain_recipe, run_fit, tiny_model, training


class Case(NamedTuple):
    """One comparison of several processes with one."""

    objective: Objective
    dtype: torch.dtype
    batch_size: int
    n_molecules: int = 24
    accumulate: int = 1
    optimizer: dict[str, Any] = {"weight_decay": 0.1}


CASES = {
    "forces": Case(Forces(), torch.float64, 8),
    "forces in float32": Case(Forces(), torch.float32, 8),
    "energies and forces": Case(EnergyForces(1.0, 2.0), torch.float64, 8),
    "energies and forces in float32": Case(EnergyForces(1.0, 2.0), torch.float32, 8),
    "uneven shares": Case(EnergyForces(1.0, 2.0), torch.float64, 5),
    "batches smaller than the processes": Case(EnergyForces(1.0, 2.0), torch.float64, 3, n_molecules=7),
    "one molecule a batch": Case(Forces("mse"), torch.float64, 1, n_molecules=5),
    "two batches a step": Case(EnergyForces(1.0, 2.0), torch.float64, 4, accumulate=2),
    "clipped, plateau": Case(
        Forces(), torch.float64, 4, optimizer={"clip_norm": 0.1, "schedule": "plateau", "plateau_patience": 0}
    ),
}
N_STEPS = 4
UNEVEN: dict[str, dict[str, int]] = {
    "batches of 4": {"batch_size": 4},
    "batches of 1": {"batch_size": 1},
    "batches of 11": {"batch_size": 11},
    "batches by atoms": {"batch_atoms": 40},
}
"""Batches of 23 molecules over two processes."""


def run_case(case: Case, fabric: Fabric, directory: Path) -> dict[str, torch.Tensor]:
    """Fit and return the weights."""
    store = MoleculeStore.from_molecules(frames(per_compound=4))
    model = tiny_model(("energy", "noise"), seed=fabric.global_rank).to(case.dtype)  # those of process 0 count
    kind = DoubleLoader if case.dtype == torch.float64 else Loader
    loader = kind(
        store,
        np.arange(case.n_molecules),
        batch_size=case.batch_size,
        seed=0,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    config = training(
        n_steps=N_STEPS,
        batch_size=case.batch_size,
        accumulate=case.accumulate,
        validate_every=2,
        optimizer=case.optimizer,
    )
    batch = store.gather(np.arange(3)).to(dtype=case.dtype)

    def validate(model: Any) -> dict[str, float]:
        return {"loss": float((model(batch, ["forces"])["forces"] - batch.labels["forces"]).abs().mean())}

    run_fit(model, case.objective, loader, config, directory, fabric=fabric, validate=validate)
    return model.state_dict()


def noise_case(fabric: Fabric, directory: Path) -> dict[str, torch.Tensor]:
    """Fit an objective with noise on every molecule, and return the weights and the statistics of the noise."""
    molecules = [m for m in frames(per_compound=1) if m.is_equilibrium]
    store = MoleculeStore.from_molecules(molecules)
    model = tiny_model(("energy", "noise"))
    rank, size = fabric.global_rank, fabric.world_size
    loader = Loader(store, np.arange(len(store)), batch_size=3, seed=0, rank=rank, world_size=size)
    run_fit(model, ForceAndDenoiseConfig().build(), loader, training(n_steps=6, batch_size=3), directory, fabric=fabric)
    return model.state_dict()


def seen_case(fabric: Fabric) -> dict[str, list[list[int]]]:
    """Return the molecules of each batch of this process in two epochs, of loaders whose epochs end unevenly."""
    store = MoleculeStore.from_molecules(frames(per_compound=4))
    rank, size = fabric.global_rank, fabric.world_size
    found: dict[str, list[list[int]]] = {}
    for name, chosen in UNEVEN.items():
        loader = Loader(store, np.arange(23), seed=0, window=2, rank=rank, world_size=size, **chosen)
        batches: list[list[int]] = []
        while loader.epoch < 2:
            batch = loader.next_batch()
            assert batch.ids is not None
            batches.append(batch.ids.tolist())
        found[name] = batches
    return found


def validation_case(fabric: Fabric) -> dict[str, float]:
    """Return the validation of a model with noise: of 5 batches, the last one smaller."""
    store = MoleculeStore.from_molecules(frames(per_compound=8))
    loader = Loader(store, np.arange(35), batch_size=8, seed=0, shuffle=False)
    model = tiny_model(("energy", "noise"))
    return dict(validation(ForceAndDenoiseConfig().build(), loader, fabric)(model.eval()))


def recipe(data: Path, devices: int) -> PretrainRecipe:
    """Return a pre-training with noise on several processes."""
    return pretrain_recipe(
        data,
        model=TINY,
        objective=ForceAndDenoiseConfig(),
        training=training(n_steps=8, batch_size=3),
        launch=LaunchConfig(accelerator="cpu", devices=devices, threads=1),
    )


def main(data: Path, out: Path) -> None:
    """Run every case in this process."""
    fabric = launch(LaunchConfig(accelerator="cpu", devices=2, threads=1))
    found: dict[str, Any] = {"size": fabric.world_size, "rank": fabric.global_rank}
    for number, (name, case) in enumerate(CASES.items()):
        found[name] = run_case(case, fabric, out / f"case-{number}")
    found["seen"] = seen_case(fabric)
    found["validation"] = validation_case(fabric)
    found["noise"] = noise_case(fabric, out / "noise")
    pretrain(recipe(data, 2), out / "whole")
    stop_both(data, out / "cut")
    pretrain(recipe(data, 2), out / "cut", resume=True)
    found["unaware"] = refusal(lambda: launch(LaunchConfig(accelerator="cpu", devices=1)))
    found["taken"] = refusal(lambda: pretrain(recipe(data, 2), out / "whole"))
    torch.save(found, out / f"found-{fabric.global_rank}.pt")


def refusal(function: Callable[[], object]) -> str:
    """Return what a call is refused with."""
    try:
        function()
    except ValueError as error:
        return str(error)
    raise SystemExit("nothing was refused")


def stop_both(data: Path, out: Path) -> None:
    """Run until step 5 is asked to stop in process 0 alone: all processes must end together, after step 6."""

    def interrupt(progress: Progress) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        pretrain(recipe(data, 2), out, on_progress=interrupt)
    except InterruptedRunError:
        return
    raise SystemExit("the run was not interrupted")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
