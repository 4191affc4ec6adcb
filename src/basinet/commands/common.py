"""What all runs share: the run directory, the launch, validation, and checks of data against objective."""

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from jaxtyping import Int64
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from basinet import __version__
from basinet.backbones.build import BackboneConfig
from basinet.commands.recipe import LaunchConfig, TrainableRecipe, UnitsConfig, load_recipe, save_recipe
from basinet.config import dump_settings
from basinet.data.chemistry.perception import find_bonds
from basinet.data.files.options import PropertyColumn
from basinet.data.reading import load_store
from basinet.data.store.store import MoleculeStore
from basinet.data.stream.loader import Loader
from basinet.data.stream.splits import Split
from basinet.evaluation.metrics import Errors, evaluate
from basinet.files import TEMPORARY, write_text
from basinet.models.file import save_model
from basinet.models.heads.fit import ReferenceFit, composition, fit_references
from basinet.models.model import Model
from basinet.models.scope import Scope
from basinet.objectives.base import Objective, mean_terms, total_loss
from basinet.structures.batch import Batch
from basinet.training.allocator import keep_freed_memory
from basinet.training.fit import SaveBest, TrainingConfig, Validate
from basinet.training.state import STATE_FILE

RECIPE_FILE = "recipe.yaml"
MODEL_FILE = "model.safetensors"
LAST_FILE = "last.safetensors"
ENVIRONMENT_FILE = "environment.txt"
DATA_FILE = "data.json"

VALIDATION_SEED = 20220718
"""Of the noise in validation: the same every time, so that losses can be compared."""
REFERENCE_SAMPLE = 100_000
"""Molecules used for reference energies and scale: beyond that they no longer change."""
VALIDATION_BATCH = 64
"""Molecules in a batch of validation or evaluation."""
FLAG_TEXTS = {"has_rotors": "bonds and bond orders (units.bonds=auto perceives them from coordinates)"}
"""What is said of a flag that no molecule has set."""
CHUNK = 4096
"""Molecules gathered at once when data is looked through."""


def launch(config: LaunchConfig) -> Fabric:
    """Start the processes of a run; several are started here, or by torchrun or SLURM."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.keep_memory and not keep_freed_memory():
        raise ValueError("launch.keep_memory=true is for Linux with glibc, which this is not; leave it out")
    n_processes = config.devices * config.nodes
    _require_as_launched(n_processes)
    strategy = "ddp" if n_processes > 1 else "auto"
    accelerator = config.accelerator
    if accelerator == "auto":
        # Fabric would take the GPU of a Mac, which has no float64, and energies need it.
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(accelerator=accelerator, devices=config.devices, num_nodes=config.nodes, strategy=strategy)
    except (RuntimeError, MisconfigurationException) as error:
        raise ValueError(f"cannot run on {n_processes} x {accelerator} (launch.*): {error}") from None
    fabric.launch()
    return fabric


def _require_as_launched(n_processes: int) -> None:
    """Refuse to be one of several processes that do not know of each other and write the same files."""
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else n_processes
    if started != n_processes:
        raise ValueError(
            f"torchrun started {started} processes, the recipe asks for {n_processes}; set launch.devices to the "
            "processes on each machine and launch.nodes to the machines"
        )


def check_directory(out: Path, recipe: TrainableRecipe, resume: bool, fabric: Fabric) -> None:
    """Check in every process that the run can be begun, or gone on with, in a directory; then it may be written to.

    Raises:
        ValueError: there is a run already, none to resume, or it had another recipe.
    """
    check_place(out, recipe, resume)
    fabric.barrier()  # nobody writes before all have looked


def check_place(out: Path, recipe: object, resume: bool) -> None:
    """Check that a run can be begun, or gone on with, in a directory; errors as in :func:`check_directory`."""
    has_run = (out / RECIPE_FILE).exists()
    if resume:
        _require_same_recipe(out, recipe, has_run)
    elif has_run:
        raise ValueError(f"{out} holds a run already; go on with it (--resume) or choose another --out")
    elif out.exists() and (not out.is_dir() or any(not p.name.startswith(TEMPORARY) for p in out.iterdir())):
        raise ValueError(f"{out} exists and is no run of basinet; choose another --out")


def write_directory(out: Path, recipe: object) -> None:
    """Make the run directory and write what the run will do."""
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"{TEMPORARY}*"):  # of a process that was killed
        leftover.unlink()
    save_recipe(recipe, out / RECIPE_FILE)
    write_text(out / ENVIRONMENT_FILE, environment())


def can_resume(out: Path) -> bool:
    """Return whether a state was saved; a run killed before that begins again at step 0."""
    return (out / STATE_FILE).exists()


def _require_same_recipe(out: Path, recipe: object, has_run: bool) -> None:
    if not has_run:
        raise ValueError(f"{out} holds no run to resume; leave --resume out to start one")
    # Read with today's defaults: options that did not exist when the run began are as they were then.
    old, new = (_flat(dump_settings(r)) for r in (load_recipe(type(recipe), out / RECIPE_FILE, []), recipe))
    differences = [
        f"{key} was {old.get(key)}, now {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith("launch.")
    ]
    if differences:
        raise ValueError(f"{out} was started with another recipe: {'; '.join(differences)}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def environment() -> str:
    """Return versions, machine and command, one a line."""
    lines = [
        f"basinet {__version__}",
        f"command {' '.join(sys.argv)}",
        f"python {platform.python_version()}",
        f"platform {platform.platform()}",
        f"cpus {os.cpu_count()}, torch threads {torch.get_num_threads()}",
        f"cuda {torch.version.cuda or 'none'}"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
    ]
    return "\n".join([*lines, "", *_packages()]) + "\n"


@cache
def _packages() -> list[str]:
    """Return the installed packages with their versions; a process has the same ones to its end."""
    found = (d.metadata for d in distributions())
    return sorted({f"{m['Name']}=={m['Version']}" for m in found if m["Name"]})


def read_data(
    path: Path, units: UnitsConfig, columns: Sequence[PropertyColumn] = (), needs_bonds: bool = False
) -> tuple[MoleculeStore, str]:
    """Return the molecules of a file or store, with further properties, and a line about what was read.

    If bonds were perceived, one more line is about them.
    """
    store, report = load_store(path, units.reading(columns))
    store, bonds = find_bonds(store, units.bonds, needs_bonds)
    return store, f"{report}\n{bonds}" if bonds else str(report)


def loaders(store: MoleculeStore, split: Split, config: TrainingConfig, fabric: Fabric) -> tuple[Loader, Loader]:
    """Return the loader of this process's share of the training set, and one of the whole validation set."""
    train = Loader(
        store,
        split.train,
        batch_size=config.batch_size,
        batch_atoms=config.batch_atoms,
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return train, Loader(store, split.validation, batch_size=VALIDATION_BATCH, seed=0, shuffle=False)


def write_data_record(out: Path, store: MoleculeStore, parts: Mapping[str, Any]) -> None:
    """Write what the run is trained on: hashes, counts, level of theory, and the split."""
    manifest = store.manifest
    record = {
        "fingerprint": store.fingerprint,
        "source": manifest.source,
        "level_of_theory": manifest.level_of_theory,
        "n_molecules": len(store),
        "labels": store.label_counts,
        "bonds": {**store.bond_counts, **manifest.settings.get("bonds", {})},
        **parts,
    }
    write_text(out / DATA_FILE, json.dumps(record, indent=2) + "\n")


def chunks(store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"]) -> Iterator[Batch]:
    """Yield the chosen molecules in large batches, for statistics."""
    for first in range(0, len(indices), CHUNK):
        yield store.gather(indices[first : first + CHUNK])


def batches(store: MoleculeStore, indices: Int64[np.ndarray, " n_chosen"]) -> Iterator[Batch]:
    """Yield the chosen molecules in batches that a model can take."""
    for first in range(0, len(indices), VALIDATION_BATCH):
        yield store.gather(indices[first : first + VALIDATION_BATCH])


def require_data(objective: Objective, store: MoleculeStore, indices: Int64[np.ndarray, " n"], what: str) -> None:
    """Raise a ``ValueError`` if no chosen molecule has a label or flag that a term of the loss needs."""
    wanted = {f"has_{label}": f"the label {label!r}" for label in sorted(objective.labels)}
    wanted |= {flag: FLAG_TEXTS.get(flag, f"the mark {flag!r}") for flag in sorted(objective.flags)}
    for batch in chunks(store, indices):
        wanted = {flag: text for flag, text in wanted.items() if flag not in batch.flags or not batch.flags[flag].any()}
        if not wanted:
            return
    if wanted:
        raise ValueError(
            f"the loss needs molecules with {' and '.join(wanted.values())}, and {what} has none; labels there are "
            f"{store.label_counts or 'none'}. Choose another objective (objective.kind=...) or data that has them"
        )


class Statistics(NamedTuple):
    """What is fitted to the training labels before training."""

    references: ReferenceFit | None
    """``None`` if no molecule has an energy."""
    force_rms: float | None
    """eV/Å per component; ``None`` if no molecule has forces."""


def label_statistics(store: MoleculeStore, indices: Int64[np.ndarray, " n"], seed: int) -> Statistics:
    """Fit reference energies and measure the size of the forces, on a sample of large data."""
    if len(indices) > REFERENCE_SAMPLE:
        indices = np.sort(np.random.default_rng(seed).choice(indices, REFERENCE_SAMPLE, replace=False))
    compositions: list[Tensor] = []
    energies: list[Tensor] = []
    squares, count = 0.0, 0
    for batch in chunks(store, indices):
        if "has_energy" in batch.flags:
            has = batch.flags["has_energy"]
            compositions.append(composition(batch)[has])
            energies.append(batch.labels["energy"][has])
        if "has_forces" in batch.flags:
            forces = batch.labels["forces"][batch.flags["has_forces"][batch.molecule]].double()
            squares, count = squares + float(forces.square().sum()), count + forces.numel()
    has_energies = sum(len(e) for e in energies) > 0
    references = fit_references(torch.cat(compositions), torch.cat(energies)) if has_energies else None
    return Statistics(references, (squares / count) ** 0.5 if count else None)


def start_from_statistics(model: Model, statistics: Statistics) -> None:
    """Give a fresh energy, if there is one, the reference energies of the data, and forces of their size."""
    if "energy" not in model.heads:
        return
    if statistics.references is not None:
        model.energy_scale.references.copy_(statistics.references.energies)
    if statistics.force_rms:
        model.energy_scale.scale.fill_(statistics.force_rms)


def errors_of(model: Model, batches: Iterator[Batch], device: torch.device) -> Errors:
    """Return the errors of energies and forces, in evaluation mode."""
    was_training = model.training
    model.eval()
    errors = evaluate(lambda batch: model(batch, ["energy", "forces"]), (b.to(device) for b in batches))
    model.train(was_training)
    return errors


def validation(objective: Objective, loader: Loader, fabric: Fabric) -> Validate:
    """Return a function that gives the loss and its terms on the validation set, and errors of what is learned.

    Several processes share the batches out. The noise of a batch is drawn from its number, and does not depend on them.
    """
    device, rank, size = fabric.device, fabric.global_rank, fabric.world_size
    terms = list(objective.weights)

    def validate(model: Model) -> Mapping[str, float]:
        sums = dict.fromkeys(terms, 0.0)
        counts = dict.fromkeys(terms, 0.0)
        n_force_atoms = 0
        for number, batch in enumerate(b.to(device) for b in loader.epoch_batches(rank, size)):
            generator = torch.Generator(device).manual_seed(VALIDATION_SEED + rank + size * number)
            with torch.no_grad():
                for key, value in objective.sums(model, batch, generator).items():
                    sums[key] += float(value)
            for key, count in objective.counts(batch).items():
                counts[key] += count
            if "has_forces" in batch.flags:
                n_force_atoms += int(batch.flags["has_forces"][batch.molecule].sum())
        total = sum_over_processes([*sums.values(), *counts.values()], fabric)
        sums, counts = dict(zip(terms, total, strict=False)), dict(zip(terms, total[len(terms) :], strict=True))
        tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in sums.items()}
        metrics = {"loss": float(total_loss(objective, tensors, counts)), **mean_terms(sums, counts)}
        if "forces" in objective.labels and "forces" in loader.store.label_counts:
            errors = errors_of(model, loader.epoch_batches(rank, size), device)
            metrics |= _joined_errors(errors, n_force_atoms, fabric)
        return metrics

    return validate


def _joined_errors(errors: Errors, n_force_atoms: int, fabric: Fabric) -> dict[str, float]:
    """Return the mean errors over all processes."""
    parts = {"force_mae": (errors.force_mae, n_force_atoms), "energy_mae": (errors.energy_mae, errors.n_energies)}
    values = [value for mean, n in parts.values() for value in ((mean * n if n else 0.0), float(n))]
    total = sum_over_processes(values, fabric)
    sums, counts = total[::2], total[1::2]
    return {name: s / n for name, s, n in zip(parts, sums, counts, strict=True) if n}


def sum_over_processes(values: Sequence[float], fabric: Fabric) -> list[float]:
    """Return the sum of each value over all processes."""
    total = torch.tensor(values, dtype=torch.float64, device=fabric.device)
    if fabric.world_size > 1:
        torch.distributed.all_reduce(total)
    return total.tolist()


def best_model_saver(out: Path, backbone: BackboneConfig, recipe: TrainableRecipe, store: MoleculeStore) -> SaveBest:
    """Return a function that keeps the best model of a run."""

    def save(model: Model, step: int, metrics: Mapping[str, float]) -> None:
        save_model(model, out / MODEL_FILE, backbone, run_metadata(recipe, store, step, metrics))

    return save


def run_metadata(
    recipe: TrainableRecipe, store: MoleculeStore, step: int, metrics: Mapping[str, float]
) -> dict[str, Any]:
    """Return what a model file says about how it came to be."""
    return {
        "recipe": dump_settings(recipe),
        "step": step,
        "validation": dict(metrics),
        "data": {"fingerprint": store.fingerprint, "source": store.manifest.source},
    }


def extended_scope(scope: Scope, store: MoleculeStore, elements: Sequence[int]) -> Scope:
    """Return the scope of a model trained on further data; labels that do not name their level leave it unknown."""
    level_of_theory = store.manifest.level_of_theory if store.label_counts else scope.level_of_theory
    extended = scope.extended(elements, store.charges, store.sizes)
    return extended._replace(level_of_theory=level_of_theory)
