"""Find pairs of atoms of one molecule."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from basinet.structures.batch import Batch

PAIRS_PER_CHUNK = 20_000_000
"""Candidate pairs tested at once in the neighbour search: bounds its memory to about 1 GB."""


class AtomPairs(NamedTuple):
    """Pairs of atoms of one molecule, each once."""

    first: Int[Tensor, " n_pairs"]
    second: Int[Tensor, " n_pairs"]

    def distances(self, positions: Float[Tensor, "n_atoms 3"]) -> Float[Tensor, " n_pairs"]:
        """Return the distance of each pair, Å."""
        return torch.linalg.vector_norm(positions[self.second] - positions[self.first], dim=-1)


def all_pairs(batch: Batch) -> AtomPairs:
    """Return all pairs of atoms of each molecule, however far apart."""
    return pairs_within(batch, None)


def pairs_within(batch: Batch, cutoff: float | None) -> AtomPairs:
    """Return the pairs ``first < second`` of atoms of each molecule that are closer than ``cutoff`` Å (``None``: all).

    They are found in chunks of atoms, which bounds the memory.
    """
    positions = batch.positions.detach()
    last = torch.cumsum(batch.atoms_per_molecule, 0)[batch.molecule] if batch.n_molecules else batch.molecule
    atoms = torch.arange(batch.n_atoms, device=positions.device)
    n_candidates = last - atoms - 1
    chunk = torch.cumsum(n_candidates, 0) // PAIRS_PER_CHUNK
    found: list[AtomPairs] = []
    for members in torch.split(atoms, torch.bincount(chunk).tolist()) if batch.n_atoms else []:
        repeats = n_candidates[members]
        first = torch.repeat_interleave(members, repeats)
        start = torch.repeat_interleave(torch.cumsum(repeats, 0) - repeats, repeats)
        pairs = AtomPairs(first, first + 1 + torch.arange(len(first), device=positions.device) - start)
        if cutoff is not None:
            is_near = pairs.distances(positions) < cutoff
            pairs = AtomPairs(pairs.first[is_near], pairs.second[is_near])
        found.append(pairs)
    if not found:
        return AtomPairs(atoms, atoms)
    return AtomPairs(torch.cat([p.first for p in found]), torch.cat([p.second for p in found]))
