"""Compute bonds and hop distances of a batch as one padded block of atom pairs per molecule."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from basinet.structures.batch import Batch

FEW_HOPS = 4
"""Hops up to which no end is looked for: comparing tensors makes a GPU wait, which costs more than the product."""


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


def hop_blocks(batch: Batch, max_hops: int) -> Int[Tensor, "n_molecules n_max n_max"]:
    """Return the number of bonds between each pair of atoms, padded to the largest molecule.

    Zero on the diagonal, in padding, beyond ``max_hops``, and between atoms that are not connected.

    Raises:
        ValueError: the bonds of a molecule are unknown.
    """
    bonded = adjacency_blocks(batch).float()
    reached = torch.eye(bonded.shape[1], device=bonded.device).expand(bonded.shape)
    step, hops = bonded + reached, torch.zeros_like(bonded)
    for hop in range(1, max_hops + 1):
        further = (reached @ step).clamp(max=1)
        if hop > FEW_HOPS and torch.equal(further, reached):  # every molecule has been crossed
            break
        hops += hop * (further - reached)
        reached = further
    return hops.long()
