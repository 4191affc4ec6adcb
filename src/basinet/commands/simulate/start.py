"""Read, check and relax the molecules a simulation starts from."""

import dataclasses
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from basinet.commands.simulate.settings import SimulateConfig
from basinet.data.chemistry.perception import with_perceived_bonds
from basinet.data.readers import open_unlabelled
from basinet.md.bonds import reference_bonds
from basinet.md.integrators import Potential
from basinet.md.potentials import relax
from basinet.models.checkpoint import read_backbone
from basinet.models.committee import Committee
from basinet.models.model import Model
from basinet.structures import Batch, Molecule
from basinet.structures.batch import collate
from basinet.structures.segment import max_norm

HUGE_FORCE = 15.0
"""Force that is worth a warning, eV/Å; thermal forces at 500 K are below 10."""
RELAXED_FORCE = 0.5
"""Largest force after relaxation, eV/Å."""
OVERLAP = 0.6
"""Atoms closer than this times the sum of their covalent radii overlap."""

Say = Callable[[str], None]


def prepare_start(
    config: SimulateConfig, model: Model | Committee, potential: Potential, device: str, say: Say
) -> list[Molecule]:
    """Read and check the initial molecules, and relax them if asked."""
    molecules = _read_start(config, say)
    for molecule in molecules:
        if reasons := model.scope.outside(molecule.atomic_numbers, molecule.charge):
            if config.outside_scope == "error":
                model.scope.check_molecule(molecule)
            say(f"warning: {_name(molecule)} is unlike the molecules the model was trained on: {'; '.join(reasons)}")
        for line in _warnings(molecule):
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
    read, _ = open_unlabelled(path)
    if read_backbone(config.model).needs_bonds:
        read = with_perceived_bonds(read)
    molecules = list(islice(read, config.starts))
    if len(molecules) < config.starts:
        say(f"{path} has only {len(molecules)} molecules; replicas start from them in turn")
    elif next(read, None) is not None:
        say(f"{path} has more molecules; replicas start from the first {len(molecules)} (--starts takes more)")
    return molecules


def _warnings(molecule: Molecule) -> list[str]:
    """Return warnings about a molecule."""
    pairs = reference_bonds([molecule]).pairs.numpy()
    first, second = np.triu_indices(molecule.n_atoms, k=1)
    distance = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
    radius = covalent_radii[molecule.atomic_numbers]
    overlap = np.flatnonzero(distance < OVERLAP * (radius[first] + radius[second]))
    found: list[str] = []
    if len(overlap):
        worst = overlap[np.argmin(distance[overlap])]
        found.append(
            f"warning: {_name(molecule)}: atoms {first[worst]} and {second[worst]} overlap, {distance[worst]:.2f} Å "
            "apart; --relax separates them first"
        )
    n_fragments = _count_fragments(molecule.n_atoms, pairs)
    if n_fragments > 1:
        found.append(
            f"{_name(molecule)} is {n_fragments} fragments without bonds between them; they may drift apart, and "
            "beyond the cutoff of the model no force acts between them"
        )
    return found


def _count_fragments(n_atoms: int, pairs: np.ndarray) -> int:
    bonded = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_atoms, n_atoms))
    return int(connected_components(bonded, directed=False, return_labels=False))


def _check_forces(potential: Potential, batch: Batch, molecules: list[Molecule], relaxed: bool, say: Say) -> None:
    energy, forces = potential(batch)
    for i, molecule in enumerate(molecules):
        largest = max_norm(forces[batch.molecule == i])
        if not math.isfinite(largest + float(energy[i])):
            raise ValueError(f"{_name(molecule)}: the initial energy or forces are not finite")
        if largest > HUGE_FORCE:
            advice = "check the initial geometry" if relaxed else "--relax relaxes the molecules first"
            say(f"warning: {_name(molecule)}: the largest initial force is {largest:.3g} eV/Å; {advice}")


def _moved(molecules: list[Molecule], batch: Batch) -> list[Molecule]:
    positions = torch.split(batch.positions.cpu().double(), [m.n_atoms for m in molecules])
    return [
        dataclasses.replace(m, positions=p.numpy(), labels={}, is_equilibrium=False)
        for m, p in zip(molecules, positions, strict=True)
    ]


def _name(molecule: Molecule) -> str:
    return molecule.name or molecule.formula


def save_start(path: Path, molecules: list[Molecule]) -> None:
    """Write the initial molecules without loss."""
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
    """Read molecules written by :func:`save_start`."""
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
