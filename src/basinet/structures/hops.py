"""How many bonds lie between two atoms, for all molecules of a batch at once."""

import torch
from jaxtyping import Int
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.blocks import adjacency_blocks


def hop_blocks(batch: Batch, max_hops: int) -> Int[Tensor, "n_molecules n_max n_max"]:
    """Return the number of bonds between each pair of atoms, padded to the largest molecule.

    Zero on the diagonal, in padding, beyond ``max_hops``, and between atoms that are not connected, as
    :func:`basinet.structures.topology.hop_distances` has it for one molecule.

    Raises:
        ValueError: the bonds of a molecule are unknown.
    """
    bonded = adjacency_blocks(batch)
    step = bonded.float()
    frontier = reached = torch.eye(bonded.shape[1], dtype=torch.bool, device=bonded.device).expand_as(bonded)
    hops = torch.zeros(bonded.shape, dtype=torch.int64, device=bonded.device)
    for hop in range(1, max_hops + 1):
        frontier = (frontier.float() @ step > 0) & ~reached
        hops[frontier] = hop
        reached = reached | frontier
    return hops
