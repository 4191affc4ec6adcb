"""Compute sums, means and centres per molecule."""

import torch
from ase.data import atomic_masses
from jaxtyping import Float
from torch import Tensor

from basinet.structures.batch import Batch


def sum_per_molecule(x: Float[Tensor, " n_atoms *rest"], batch: Batch) -> Float[Tensor, " n_molecules *rest"]:
    """Add a per-atom quantity over the atoms of each molecule."""
    return x.new_zeros((batch.n_molecules, *x.shape[1:])).index_add(0, batch.molecule, x)


def mean_per_molecule(x: Float[Tensor, " n_atoms *rest"], batch: Batch) -> Float[Tensor, " n_molecules *rest"]:
    """Average a per-atom quantity over the atoms of each molecule."""
    count = batch.atoms_per_molecule.to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))
    return sum_per_molecule(x, batch) / count


def centre_per_molecule(x: Float[Tensor, " n_atoms *rest"], batch: Batch) -> Float[Tensor, " n_atoms *rest"]:
    """Subtract from each atom the mean over its molecule."""
    return x - mean_per_molecule(x, batch)[batch.molecule]


def from_centre_of_mass(batch: Batch) -> Float[Tensor, "n_atoms 3"]:
    """Return the position of each atom relative to the centre of mass of its molecule, Å, float64."""
    masses = torch.as_tensor(atomic_masses, dtype=torch.float64, device=batch.positions.device)
    mass = masses[batch.atomic_numbers][:, None]
    positions = batch.positions.double()
    centre = sum_per_molecule(mass * positions, batch) / sum_per_molecule(mass, batch)
    return positions - centre[batch.molecule]


def max_norm(x: Float[Tensor, "n_atoms 3"]) -> float:
    """Return the largest norm of a row, 0 for no rows; NaN wins over any number."""
    norms = torch.linalg.vector_norm(x.detach(), dim=-1)
    return float(norms.max()) if len(norms) else 0.0
