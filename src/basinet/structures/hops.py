"""How many bonds lie between two atoms, for all molecules of a batch at once."""

import torch
from jaxtyping import Bool, Int
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
    return _hops(adjacency_blocks(batch), max_hops, look=True)


def count_hops(
    bonded: Bool[Tensor, "n_molecules n_max n_max"], max_hops: int
) -> Int[Tensor, "n_molecules n_max n_max"]:
    """Return the number of bonds as :func:`hop_blocks` has it, by steps whose number does not depend on the bonds."""
    return _hops(bonded, min(max_hops, bonded.shape[1] - 1), look=False)


def _hops(bonded: Bool[Tensor, "n_molecules n_max n_max"], max_hops: int, *, look: bool) -> Tensor:
    itself = torch.eye(bonded.shape[1], device=bonded.device).expand(bonded.shape)
    step = bonded.float() + itself
    reached = itself
    hops = torch.zeros_like(step)
    for hop in range(1, max_hops + 1):
        further = (reached @ step).clamp(max=1)
        if look and torch.equal(further, reached):  # every molecule has been crossed
            break
        hops += hop * (further - reached)
        reached = further
    return hops.long()
