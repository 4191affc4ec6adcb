"""Facts of the bond graph as one padded block of atom pairs per molecule."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from basinet.structures.batch import Batch


def place_in_molecule(batch: Batch) -> Int[Tensor, " n_atoms"]:
    """Return the number of each atom within its molecule, from 0: its row in a padded block."""
    return torch.arange(batch.n_atoms, device=batch.molecule.device) - batch.first_atom[batch.molecule]


def adjacency_blocks(batch: Batch) -> Bool[Tensor, "n_molecules n_max n_max"]:
    """Return which atoms of each molecule are bonded, padded to the largest molecule.

    Raises:
        ValueError: the bonds of a molecule are unknown.
    """
    topology = batch.topology
    unknown = batch.n_molecules if topology is None else int((~topology.has_bonds).sum())
    if unknown:
        raise ValueError(
            f"{unknown} of {batch.n_molecules} molecules have no bonds on record; read them from a format that has "
            "bonds (SDF, SMILES), or choose a method that needs none"
        )
    n_max = int(batch.atoms_per_molecule.max()) if batch.n_molecules else 0
    blocks = torch.zeros(batch.n_molecules, n_max, n_max, dtype=torch.bool, device=batch.molecule.device)
    if topology is not None:
        first, second = topology.bonds.unbind(1)
        place = place_in_molecule(batch)
        blocks[batch.molecule[first], place[first], place[second]] = True
        blocks[batch.molecule[first], place[second], place[first]] = True
    return blocks
