"""Lay neighbours out as a list of edges, for large systems."""

from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.neighbors import Neighbors
from basinet.structures.pairs import AtomPairs, pairs_within

CHUNKS_PER_THREAD = 4
"""Parts into which a list of pairs is cut for several threads: molecules differ in size."""


class PairList(NamedTuple):
    """Pairs within the cutoff, each once, and chunks of them for several threads; for kernels.

    Chunk c has the pairs from ``pair_starts[c]`` on and the atoms from ``atom_starts[c]`` on; chunks share no atoms.
    """

    first: Int[Tensor, " n_pairs"]
    second: Int[Tensor, " n_pairs"]
    pair_starts: Int[Tensor, " n_bounds"]
    atom_starts: Int[Tensor, " n_bounds"]


class SparseNeighbors(Neighbors):
    """A list of edges: each pair in both directions, then each atom with itself.

    Args:
        batch: molecules.
        cutoff: Å; ``None``: all pairs of a molecule.
        pairs: pairs within the cutoff; ``None`` finds them.
    """

    def __init__(self, batch: Batch, cutoff: float | None, pairs: AtomPairs | None = None) -> None:
        self.cutoff = cutoff
        self._pairs = pairs_within(batch, cutoff) if pairs is None else pairs
        self._batch = batch
        self.n_atoms = batch.n_atoms
        vector = batch.positions[self._pairs.second] - batch.positions[self._pairs.first]
        distance = torch.linalg.vector_norm(vector, dim=-1)
        self.distances = torch.cat([distance, distance.new_zeros(1)])
        self.unit: Float[Tensor, "n_pairs 3"] = vector / distance[:, None]
        """From the first atom of each pair to the second."""

    @cached_property
    def receiver(self) -> Int[Tensor, " n_edges"]:
        """The atom at the end of each edge."""
        return torch.cat([self._pairs.first, self._pairs.second, self._atoms])

    @cached_property
    def sender(self) -> Int[Tensor, " n_edges"]:
        """The atom at its beginning."""
        return torch.cat([self._pairs.second, self._pairs.first, self._atoms])

    @cached_property
    def pair_list(self) -> PairList:
        """Input of kernels over pairs, cut between molecules where the pairs are sorted by molecule."""
        first, second = (atoms.long().contiguous() for atoms in self._pairs)
        of_pairs, n_atoms = self._batch.molecule[first], self._batch.atoms_per_molecule
        n_chunks = min(CHUNKS_PER_THREAD * torch.get_num_threads(), self._batch.n_molecules)
        if torch.get_num_threads() == 1 or n_chunks < 2 or bool((of_pairs[1:] < of_pairs[:-1]).any()):
            return PairList(first, second, torch.tensor([0, len(first)]), torch.tensor([0, self.n_atoms]))
        pair_ends = torch.bincount(of_pairs, minlength=self._batch.n_molecules).cumsum(0)
        targets = torch.arange(1, n_chunks + 1) * len(first) / n_chunks
        last = torch.searchsorted(pair_ends, targets).clamp(max=self._batch.n_molecules - 1)
        zero, last[-1] = torch.zeros(1, dtype=torch.int64), self._batch.n_molecules - 1
        return PairList(first, second, torch.cat([zero, pair_ends[last]]), torch.cat([zero, n_atoms.cumsum(0)[last]]))

    @cached_property
    def _atoms(self) -> Int[Tensor, " n_atoms"]:
        return torch.arange(self.n_atoms, device=self._batch.positions.device)

    @cached_property
    def _edge_unit(self) -> Float[Tensor, "n_edges 3"]:
        return torch.cat([self.unit, -self.unit, self.unit.new_zeros(self.n_atoms, 3)])

    def as_list(self) -> "SparseNeighbors":
        """Return these neighbours."""
        return self

    def of_receiver(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it receives on: ``[n_edges, ...]``."""
        return x[self.receiver]

    def of_sender(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it sends on: ``[n_edges, ...]``."""
        return x[self.sender]

    def to_edges(
        self, x: Float[Tensor, "*pairs n_features"], *, self_edges: bool = True
    ) -> Float[Tensor, "*edges n_features"]:
        """Bring a quantity of pairs to the edges."""
        of_pairs, of_self = x[:-1], x[-1:]
        return torch.cat([of_pairs, of_pairs, (of_self if self_edges else 0 * of_self).expand(self.n_atoms, -1)])

    def of_blocks(self, x: Shaped[Tensor, "n_molecules n_max n_max"]) -> Shaped[Tensor, "*pairs"]:
        """Look each pair up in the block of its molecule."""
        n_pairs = len(self.distances) - 1
        first, second = self.receiver[:n_pairs], self.sender[:n_pairs]
        molecule = self._batch.molecule[first]
        start = self._batch.first_atom[molecule]
        return torch.cat([x[molecule, first - start, second - start], x.new_zeros(1)])

    def message_sum(self, messages: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms n_features"]:
        """Sum over senders by index."""
        return self._sum(messages)

    def weighted_sum(
        self, weights: Float[Tensor, "*edges n_features"], values: Float[Tensor, "n_atoms *xyz n_features"]
    ) -> Float[Tensor, "n_atoms *xyz n_features"]:
        """Sum over senders by index."""
        gathered = values[self.sender]
        return self._sum((weights if values.ndim == 2 else weights[:, None]) * gathered)

    def directed_sum(self, weights: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms 3 n_features"]:
        """Sum over senders by index."""
        return self._sum(self._edge_unit[:, :, None] * weights[:, None])

    def _sum(self, messages: Float[Tensor, " n_edges *rest"]) -> Float[Tensor, " n_atoms *rest"]:
        return messages.new_zeros((self.n_atoms, *messages.shape[1:])).index_add(0, self.receiver, messages)
