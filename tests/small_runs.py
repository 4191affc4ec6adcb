"""Runs small enough to be repeated many times: molecules bound by springs, and a network of one layer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule as ase_molecule
from ase.data import atomic_numbers
from lightning_fabric import Fabric

from basinet.backbones.build import BackboneConfig, build_backbone
from basinet.backbones.equivariant_transformer import EquivariantTransformerConfig
from basinet.commands.recipe import FinetuneRecipe, LaunchConfig, PretrainRecipe
from basinet.data.readers import write_extxyz
from basinet.data.store.store import MoleculeStore
from basinet.data.store.writer import StoreWriter
from basinet.data.stream.loader import Loader
from basinet.models.model import Model, build_model
from basinet.objectives.base import Objective
from basinet.structures import Batch, Molecule
from basinet.training.fit import FitResult, TrainingConfig, fit
from basinet.training.optim import OptimizerConfig

ON_CPU = LaunchConfig(accelerator="cpu", threads=1)
TINY = EquivariantTransformerConfig(n_features=8, n_layers=1, n_heads=2, n_basis=8)
COMPOUNDS = {"H2O": "O", "HCN": "C#N", "NH3": "N", "H2CO": "C=O", "CH4": "C", "CH3OH": "CO"}
"""Of 3 to 6 atoms, with their SMILES."""
SPRING = 20.0
"""Between every two atoms, eV/Å²."""
ATOMIC_ENERGIES = {"H": -13.6, "C": -1030.1, "N": -1485.3, "O": -2042.6}
"""eV."""


class GoneError(Exception):
    """Raised by a test inside a run: the process is gone, whatever was not saved is lost."""


def spring_molecule(name: str, displacement: float, seed: int) -> Molecule:
    """Return a molecule with the energy and forces of springs; undisplaced it is at its minimum."""
    minimum = ase_molecule(name)
    shift = displacement * np.random.default_rng(seed).normal(size=minimum.positions.shape)
    energy, forces = springs(minimum.positions, minimum.positions + shift)
    energy += sum(ATOMIC_ENERGIES[symbol] for symbol in minimum.symbols)
    return Molecule(
        atomic_numbers=minimum.numbers.astype(np.int64),
        positions=minimum.positions + shift,
        labels={"energy": energy, "forces": forces},
        is_equilibrium=displacement == 0,
        smiles=COMPOUNDS[name],
        name=f"{name}-{seed}",
    )


def springs(minimum: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Return energy (eV) and forces (eV/Å) of springs between all atoms."""
    first, second = np.triu_indices(len(minimum), k=1)
    rest = np.linalg.norm(minimum[first] - minimum[second], axis=1)
    vector = positions[second] - positions[first]
    length = np.linalg.norm(vector, axis=1)
    pull = SPRING * (length - rest)[:, None] * vector / length[:, None]
    forces = np.zeros_like(positions)
    np.add.at(forces, first, pull)
    np.add.at(forces, second, -pull)
    return float(0.5 * SPRING * ((length - rest) ** 2).sum()), forces


def frames(names: Sequence[str] = tuple(COMPOUNDS), per_compound: int = 5) -> list[Molecule]:
    """Return the minimum and displaced frames of each compound."""
    return [spring_molecule(name, 0.05 * (k > 0), seed=k) for name in names for k in range(per_compound)]


def make_store(path: Path, molecules: Sequence[Molecule], units: Mapping[str, str] | None = None) -> Path:
    """Write molecules as a store on disk, with the units of their further labels."""
    writer = StoreWriter.open(path, level_of_theory="springs", source="test", settings={}, units=units)
    writer.write_shard(molecules)
    writer.finish()
    return path


def make_xyz(path: Path, molecules: Sequence[Molecule]) -> Path:
    """Write molecules with their labels as an extended XYZ file."""
    write_extxyz(path, [(m, {}) for m in molecules])
    return path


def without_labels(molecule: Molecule, *names: str) -> Molecule:
    """Return a molecule without the named labels."""
    kept = {key: value for key, value in molecule.labels.items() if key not in names}
    return Molecule(
        atomic_numbers=molecule.atomic_numbers,
        positions=molecule.positions,
        labels=kept,
        is_equilibrium=molecule.is_equilibrium,
        smiles=molecule.smiles,
    )


def tiny_model(outputs: Sequence[str] = ("energy",), seed: int = 0, config: BackboneConfig = TINY) -> Model:
    """Return a network with fresh weights and the reference energies of the springs."""
    torch.manual_seed(seed)
    model = build_model(build_backbone(config), outputs)
    if "energy" in model.heads:
        for symbol, energy in ATOMIC_ENERGIES.items():
            model.energy_scale.references[atomic_numbers[symbol]] = energy
    return model


class DoubleLoader(Loader):
    """Gives positions and forces in float64, for models in float64."""

    def next_batch(self) -> Batch:
        return super().next_batch().to(dtype=torch.float64)


def training(**changes: Any) -> TrainingConfig:
    """Return a short training: every step is logged, every few validated and saved."""
    optimizer = OptimizerConfig(
        **{"learning_rate": 3e-3, "warmup_steps": 3, "ema_decay": 0.9} | changes.pop("optimizer", {})
    )
    defaults = {"n_steps": 10, "batch_size": 4, "log_every": 1, "validate_every": 3, "save_every": 3}
    return TrainingConfig(**defaults | changes, optimizer=optimizer)


def run_fit(
    model: Model, objective: Objective, loader: Loader, config: TrainingConfig, directory: Path, **arguments: Any
) -> FitResult:
    """Fit in one process, validating on the mean force of the averaged model over three molecules."""
    directory.mkdir(exist_ok=True)
    given = {"fabric": Fabric(accelerator="cpu", devices=1), "save_best": _save_weights(directory)} | arguments
    if "validate" not in given:
        given["validate"] = _mean_force(loader.store)
    return fit(model, objective, loader, config, directory, **given)


def _mean_force(store: MoleculeStore) -> Any:
    batch = store.gather(np.arange(3))
    return lambda model: {"loss": float((model(batch, ["forces"])["forces"] - batch.labels["forces"]).abs().mean())}


def _save_weights(directory: Path) -> Any:
    return lambda model, step, metrics: torch.save(model.state_dict(), directory / "best.pt")


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Return the places at which two nested values differ in any bit."""
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [f"{place}: {first} != {second}"]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{place}: keys {first.keys() ^ second.keys()}"]
        return [d for key in first for d in differences(first[key], second[key], f"{place}.{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{place}: {len(first)} and {len(second)} entries"]
        return [
            d for i, (a, b) in enumerate(zip(first, second, strict=True)) for d in differences(a, b, f"{place}[{i}]")
        ]
    return [] if first == second else [f"{place}: {first!r} != {second!r}"]


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two sets of weights, relative to the largest weight of each tensor."""
    return max(float((first[k] - second[k]).abs().max() / first[k].abs().max().clamp_min(1e-3)) for k in first)


def pretrain_recipe(data: Path, **changes: Any) -> PretrainRecipe:
    """Return a short pre-training on the CPU."""
    given = {"model": TINY, "validation_fraction": 0.2, "training": training(), "launch": ON_CPU} | changes
    return PretrainRecipe(data=data, **given)


def finetune_recipe(data: Path, **changes: Any) -> FinetuneRecipe:
    """Return a short fine-tuning on the CPU."""
    given = {"model": TINY, "n_validation": 4, "training": training(), "launch": ON_CPU} | changes
    return FinetuneRecipe(data=data, **given)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
