"""Potentials with known physics, and molecules small enough to think about."""

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule as ase_molecule
from ase.collections import g2
from torch import Tensor

from basinet.md.integrators import Potential
from basinet.structures.batch import Batch
from basinet.structures.molecule import Molecule


def named(name: str) -> Molecule:
    """Return a molecule of ASE's G2 collection, or an atom."""
    atoms = ase_molecule(name) if name in g2.names else Atoms(name)
    return Molecule(
        atomic_numbers=atoms.numbers.astype(np.int64), positions=atoms.positions.astype(np.float64), name=name
    )


def at(*positions: tuple[float, float, float], number: int = 6) -> Molecule:
    """Return a molecule of one element at the given positions."""
    return Molecule(
        atomic_numbers=np.full(len(positions), number, dtype=np.int64), positions=np.array(positions, dtype=np.float64)
    )


def morse(depth: float = 5.0, width: float = 2.0, length: float = 1.2) -> Potential:
    """Return a Morse potential (eV, 1/Å, Å) between all atoms of each molecule."""

    def potential(batch: Batch) -> tuple[Tensor, Tensor]:
        same = batch.molecule[:, None] == batch.molecule[None, :]
        first, second = torch.nonzero(torch.triu(same, diagonal=1), as_tuple=True)
        vector = batch.positions[first] - batch.positions[second]
        distance = torch.linalg.vector_norm(vector, dim=1)
        stretch = torch.exp(-width * (distance - length))
        pair = depth * (1 - stretch).square().double()
        energy = torch.zeros(batch.n_molecules, dtype=torch.float64).index_add(0, batch.molecule[first], pair)
        slope = 2 * depth * width * (1 - stretch) * stretch  # dE/dr
        push = -(slope / distance)[:, None] * vector
        forces = torch.zeros_like(batch.positions).index_add(0, first, push).index_add(0, second, -push)
        return energy, forces

    return potential


def trap(stiffness: float) -> Potential:
    """Return harmonic wells, eV/Å², one per atom, all at the origin: every coordinate is an oscillator of its own."""

    def potential(batch: Batch) -> tuple[Tensor, Tensor]:
        per_atom = 0.5 * stiffness * batch.positions.double().square().sum(dim=1)
        energy = torch.zeros(batch.n_molecules, dtype=torch.float64).index_add(0, batch.molecule, per_atom)
        return energy, -stiffness * batch.positions

    return potential


def free(batch: Batch) -> tuple[Tensor, Tensor]:
    """Let nothing act on the atoms."""
    return torch.zeros(batch.n_molecules, dtype=torch.float64), torch.zeros_like(batch.positions)


def chain(stiffness: float = 10.0, length: float = 1.4, quartic: float = 20.0) -> Potential:
    """Return anharmonic springs (eV/Å², Å, eV/Å⁴) between neighbours of a row of atoms, and a soft trap for all."""
    held = trap(0.2)

    def potential(batch: Batch) -> tuple[Tensor, Tensor]:
        energy, forces = held(batch)
        first = torch.nonzero(batch.molecule[1:] == batch.molecule[:-1]).flatten()
        vector = batch.positions[first + 1] - batch.positions[first]
        distance = torch.linalg.vector_norm(vector, dim=1)
        off = distance - length
        pair = (0.5 * stiffness * off.square() + 0.25 * quartic * off.pow(4)).double()
        push = ((stiffness * off + quartic * off.pow(3)) / distance)[:, None] * vector
        energy = energy.index_add(0, batch.molecule[first], pair)
        return energy, forces.index_add(0, first, push).index_add(0, first + 1, -push)

    return potential
