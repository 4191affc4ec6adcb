"""Read, check and relax the molecules a simulation starts from."""

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii

from basinet.commands.simulate.settings import SimulateConfig
from basinet.data.chemistry.perception import with_perceived_bonds
from basinet.data.reading import Reading, open_molecules
from basinet.md.bonds import reference_bonds
from basinet.md.integrators import Potential
from basinet.md.potentials import relax
from basinet.models.committee import Committee
from basinet.models.file import read_backbone
from basinet.models.model import Model
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate
from basinet.structures.segment import max_norm

HUGE_FORCE = 15.0
"""eV/Å. Thermal forces at 500 K are below 10."""
RELAXED_FORCE = 0.5
"""eV/Å, where --relax stops."""
CLOSE = 0.6
"""Of the sum of two covalent radii; atoms that are closer overlap."""

Say = Callable[[str], None]


def prepare_start(
    config: SimulateConfig, model: Model | Committee, potential: Potential, device: str, say: Say
) -> list[Molecule]:
    """Read the start, check it, and relax it if asked."""
    molecules = _read_start(config, say)
    for molecule in molecules:
        if reasons := model.scope.outside(molecule.atomic_numbers, molecule.charge):
            if config.outside_scope == "error":
                model.scope.check_molecule(molecule)
            say(f"warning: {_name(molecule)} is unlike what the model was trained on: {'; '.join(reasons)}")
        for line in _remarks(molecule):
            say(line)
    if config.dt > 1.0 and any((m.atomic_numbers == 1).any() for m in molecules):
        say(f"warning: a time step of {config.dt:g} fs is long for bonds with hydrogen; 0.5 fs is safe")
    batch = collate(molecules, torch.float64).to(device)
    if config.relax:
        batch, left = relax(potential, batch, largest_force=RELAXED_FORCE, n_steps=500)
        say(f"relaxed: the largest force left is {max(left):.3g} eV/Å")
        molecules = _moved(molecules, batch)
    _check_forces(potential, batch, molecules, config.relax, say)
    return molecules


def _read_start(config: SimulateConfig, say: Say) -> list[Molecule]:
    path = config.molecules
    read, _ = open_molecules(path, Reading(energy_unit="eV" if path.suffix == ".npz" else None))
    if read_backbone(config.model).needs_bonds:
        read = with_perceived_bonds(read)
    molecules = list(islice(read, config.starts))
    if len(molecules) < config.starts:
        say(f"{path} has {len(molecules)} molecules only; replicas start from them in turn")
    elif next(read, None) is not None:
        say(f"{path} has more molecules; replicas start from the first {len(molecules)} (--starts takes more)")
    return molecules


def _remarks(molecule: Molecule) -> list[str]:
    """Return what is unusual about a start."""
    pairs = reference_bonds([molecule]).pairs.numpy()
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    distance = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    radius = covalent_radii[molecule.atomic_numbers]
    overlap = np.flatnonzero(distance < CLOSE * (radius[first] + radius[second]))
    remarks: list[str] = []
    if len(overlap):
        worst = overlap[np.argmin(distance[overlap])]
        remarks.append(
            f"warning: {_name(molecule)}: atoms {first[worst]} and {second[worst]} overlap, {distance[worst]:.2f} Å "
            "apart; --relax moves them apart first"
        )
    n_fragments = _count_fragments(molecule.n_atoms, pairs)
    if n_fragments > 1:
        remarks.append(
            f"{_name(molecule)} is {n_fragments} fragments without bonds between them; they may drift apart, and "
            "beyond its cutoff a model knows no force between them"
        )
    return remarks


def _count_fragments(n_atoms: int, pairs: np.ndarray) -> int:
    label = np.arange(n_atoms)
    for _ in range(n_atoms):
        before = label.copy()
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
        if (label == before).all():
            break
    return len(np.unique(label))


def _check_forces(potential: Potential, batch: Batch, molecules: list[Molecule], relaxed: bool, say: Say) -> None:
    energy, forces = potential(batch)
    for i, molecule in enumerate(molecules):
        largest = max_norm(forces[batch.molecule == i])
        if not math.isfinite(largest + float(energy[i])):
            raise ValueError(f"{_name(molecule)}: the model gives no finite energy and forces at the start")
        if largest > HUGE_FORCE:
            advice = "look at the start geometry" if relaxed else "--relax goes downhill first"
            say(f"warning: {_name(molecule)}: the largest force at the start is {largest:.3g} eV/Å; {advice}")


def _moved(molecules: list[Molecule], batch: Batch) -> list[Molecule]:
    positions = torch.split(batch.positions.cpu().double(), [m.n_atoms for m in molecules])
    return [
        Molecule(
            atomic_numbers=m.atomic_numbers,
            positions=p.numpy(),
            bonds=m.bonds,
            bond_orders=m.bond_orders,
            charge=m.charge,
            smiles=m.smiles,
            name=m.name,
        )
        for m, p in zip(molecules, positions, strict=True)
    ]


def _name(molecule: Molecule) -> str:
    return molecule.name or molecule.formula


def save_start(path: Path, molecules: list[Molecule]) -> None:
    """Write the molecules that replicas start from, exactly."""
    arrays: dict[str, Any] = {"n": np.array(len(molecules))}
    for i, m in enumerate(molecules):
        arrays |= {f"z{i}": m.atomic_numbers, f"x{i}": m.positions, f"name{i}": np.array(m.name)}
        if m.bonds is not None:
            arrays[f"bonds{i}"] = m.bonds
        arrays |= {f"charge{i}": np.array(m.charge), f"smiles{i}": np.array(m.smiles or "")}
        if m.bond_orders is not None:
            arrays[f"orders{i}"] = m.bond_orders
    np.savez(path, **arrays)


def load_start(path: Path) -> list[Molecule]:
    """Read what :func:`save_start` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return [
            Molecule(
                atomic_numbers=file[f"z{i}"],
                positions=file[f"x{i}"],
                bonds=file.get(f"bonds{i}"),
                bond_orders=file.get(f"orders{i}"),
                charge=int(file[f"charge{i}"]),
                smiles=str(file[f"smiles{i}"]),
                name=str(file[f"name{i}"]),
            )
            for i in range(int(file["n"]))
        ]
