"""Relaxing a start geometry a little, so that dynamics do not begin with huge forces."""

import os

import torch
from ase import Atoms
from ase.optimize import FIRE

from basinet.md.integrators import Potential
from basinet.md.potentials import PotentialCalculator
from basinet.structures.batch import Batch
from basinet.structures.segment import max_norm


def relax(potential: Potential, batch: Batch, *, largest_force: float, n_steps: int) -> tuple[Batch, list[float]]:
    """Move molecules downhill by ASE's FIRE, one after another; return them and the largest force left on each, eV/Å.

    Args:
        potential: energies and forces of a batch.
        batch: the molecules; no other molecule is needed to relax one.
        largest_force: when a molecule is done, eV/Å.
        n_steps: when to give up.
    """
    positions, left = batch.positions.clone(), list[float]()
    for molecule in range(batch.n_molecules):
        one = batch.select([molecule])
        atoms = Atoms(numbers=one.atomic_numbers.cpu().numpy(), positions=one.positions.cpu().double().numpy())
        atoms.calc = PotentialCalculator(potential, one)
        with FIRE(atoms, logfile=os.devnull) as optimiser:
            optimiser.run(fmax=largest_force, steps=n_steps)
        positions[batch.molecule == molecule] = torch.from_numpy(atoms.positions).to(positions)
        left.append(max_norm(torch.from_numpy(atoms.get_forces())))
    return batch.replace(positions=positions), left
