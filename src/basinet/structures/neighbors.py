"""Who interacts with whom: one interface for backbones, two layouts behind it.

Small molecules are nearly fully connected within 5 Å, so padded dense blocks waste little and need no scatter; large
systems are not, so they use an edge list. A backbone is written once against :class:`Neighbors` and gives the same
energies, forces and parameter gradients in both layouts. Receiver ``i``, sender ``j``, ``vector = r_j - r_i``.

Every atom is its own neighbour too, at distance zero and with a zero unit vector (the Equivariant Transformer attends
to itself). There is no cap on the number of neighbours.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.blocks import adjacency_blocks
from basinet.structures.pairs import AtomPairs, pairs_within
from basinet.structures.spread import edge_to_pair, spread

EDGE_COST = 1.5
"""Time for an edge of a list in times for a pair of a block, on a CPU: 1.0 to 1.9 with the Equivariant Transformer."""
CHUNKS_PER_THREAD = 4
"""Parts into which a list of pairs is cut for several threads: molecules differ in size."""
DENSE_LIMIT = 64
"""Atoms. Batches whose largest molecule is above this use the sparse layout."""


class Neighbors(ABC):
    """Interacting pairs of atoms, as broadcastable or gathered "edge" tensors.

    ``edges`` in the shapes below stands for the leading dimensions of a layout: ``n_edges`` in the sparse one,
    ``n_molecules n_max n_max`` in the dense one. An edge tensor is only ever combined with another one, or summed.
    """

    cutoff: float | None
    """Å; ``None`` connects all atoms of a molecule."""
    distances: Float[Tensor, "*pairs"]
    """Å, of each unordered pair once, then one zero: an atom and itself. Functions of the distance (filters) are
    evaluated here, at half the cost of the edges, and brought to the edges by :meth:`to_edges`."""

    @abstractmethod
    def of_receiver(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it receives on."""

    @abstractmethod
    def of_sender(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it sends on."""

    @abstractmethod
    def to_edges(
        self, x: Float[Tensor, "*pairs n_features"], *, self_edges: bool = True
    ) -> Float[Tensor, "*edges n_features"]:
        """Bring a quantity of unordered pairs to both directions; zero where atoms are not neighbours.

        Args:
            x: a function of :attr:`distances`.
            self_edges: whether an atom is a neighbour of itself here; otherwise its own edge gets zero.
        """

    @abstractmethod
    def of_blocks(self, x: Shaped[Tensor, "n_molecules n_max n_max"]) -> Shaped[Tensor, "*pairs"]:
        """Bring a symmetric quantity of all pairs of atoms (a hop distance) to :attr:`distances`; the last one is zero.

        Args:
            x: padded blocks, as :mod:`basinet.structures.blocks` makes them.
        """

    @abstractmethod
    def bonded(self) -> Bool[Tensor, "n_molecules n_max n_max"]:
        """Return which atoms of each molecule are bonded, in padded blocks.

        Raises:
            ValueError: the bonds of a molecule are unknown.
        """

    @abstractmethod
    def message_sum(self, messages: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms n_features"]:
        r"""Return :math:`\sum_j m_{ij}`; the messages must carry a factor from :meth:`to_edges`."""

    @abstractmethod
    def weighted_sum(
        self, weights: Float[Tensor, "*edges n_features"], values: Float[Tensor, "n_atoms *xyz n_features"]
    ) -> Float[Tensor, "n_atoms *xyz n_features"]:
        r"""Return :math:`\sum_j w_{ij} \odot x_j`; the weights must carry a factor from :meth:`to_edges`."""

    @abstractmethod
    def directed_sum(self, weights: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms 3 n_features"]:
        r"""Return :math:`\sum_j \hat r_{ij} \otimes w_{ij}`; the weights must carry a factor, as above."""

    @abstractmethod
    def as_list(self) -> "SparseNeighbors":
        """Return the same neighbours as a list."""


def neighbors_of(batch: Batch, cutoff: float | None) -> Neighbors:
    """Return the neighbours within ``cutoff`` Å in the layout that suits the molecules of the batch.

    Blocks up to :data:`DENSE_LIMIT` atoms; on a CPU a list of edges also where most of the blocks would be padding or
    pairs beyond the cutoff: molecules of different sizes, or long ones.
    """
    largest = int(batch.atoms_per_molecule.max()) if batch.n_molecules else 0
    if largest > DENSE_LIMIT:
        return SparseNeighbors(batch, cutoff)
    if batch.positions.device.type == "cpu":
        pairs = pairs_within(batch, cutoff)
        n_edges = 2 * len(pairs.first) + batch.n_atoms
        if batch.n_molecules * largest**2 > EDGE_COST * n_edges:
            return SparseNeighbors(batch, cutoff, pairs)
    return DenseNeighbors(batch, cutoff)


class Blocks(NamedTuple):
    """What is known of a batch that is padded already, so that its shapes say nothing about its molecules."""

    is_atom: Bool[Tensor, "n_blocks n_max"]
    """Whether a place is that of an atom; the batch has an atom in every place."""
    bonded: Bool[Tensor, "n_blocks n_max n_max"] | None
    """Which atoms are bonded; ``None``: nobody asks."""


@dataclass(frozen=True, slots=True)
class Padding:
    """The map between atoms laid end to end and atoms padded to the largest molecule."""

    slot: Int[Tensor, " n_atoms"]
    n_molecules: int
    n_max: int
    is_full: bool

    @staticmethod
    def of(batch: Batch) -> "Padding":
        """Return the map of a batch."""
        count = batch.atoms_per_molecule
        n_max = int(count.max()) if batch.n_molecules else 0
        first = torch.cumsum(count, 0) - count
        within = torch.arange(batch.n_atoms, device=batch.molecule.device) - first[batch.molecule]
        return Padding(batch.molecule * n_max + within, batch.n_molecules, n_max, batch.n_atoms == n_max * len(count))

    @staticmethod
    def whole(blocks: Blocks) -> "Padding":
        """Return the map of a batch that has an atom in every place of its blocks."""
        n_blocks, n_max = blocks.is_atom.shape
        slot = torch.arange(n_blocks * n_max, device=blocks.is_atom.device)
        return Padding(slot, n_blocks, n_max, is_full=True)

    def pad(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "n_molecules n_max *rest"]:
        """Lay atoms out in blocks, with zeros where a molecule has fewer than the largest."""
        shape = (self.n_molecules, self.n_max, *x.shape[1:])
        if self.is_full:
            return x.reshape(shape)
        return x.new_zeros((self.n_molecules * self.n_max, *x.shape[1:])).index_copy(0, self.slot, x).reshape(shape)

    def unpad(self, x: Float[Tensor, "n_molecules n_max *rest"]) -> Float[Tensor, " n_atoms *rest"]:
        """Lay atoms end to end again."""
        flat = x.flatten(0, 1)
        return flat if self.is_full else flat[self.slot]


class PairList(NamedTuple):
    """The sparse layout, laid open: pairs within the cutoff, each once, and how work on them may be cut.

    Chunk c has the pairs from ``pair_starts[c]`` on and the atoms from ``atom_starts[c]`` on; chunks share no atoms.
    """

    first: Int[Tensor, " n_pairs"]
    second: Int[Tensor, " n_pairs"]
    pair_starts: Int[Tensor, " n_bounds"]
    atom_starts: Int[Tensor, " n_bounds"]


class EdgeBlocks(NamedTuple):
    """The dense layout, laid open."""

    padding: Padding
    mask: Bool[Tensor, "n_molecules n_pairs"]
    """Of :attr:`Neighbors.distances`: whether atoms are neighbours. In the last column, each is its own."""
    unit: Float[Tensor, "n_molecules n_max 3 n_max"]
    """From receivers to senders."""


class DenseNeighbors(Neighbors):
    """Every pair of a padded block ``[n_molecules, n_max, n_max]``; static shapes, no scatter.

    Args:
        batch: molecules of any sizes, or an atom in every place of ``blocks``.
        cutoff: Å.
        blocks: of a batch that is padded already.
    """

    def __init__(self, batch: Batch, cutoff: float | None, blocks: Blocks | None = None) -> None:
        self.cutoff = cutoff
        self._batch, self._blocks = batch, blocks
        self._padding = Padding.of(batch) if blocks is None else Padding.whole(blocks)
        self._n_max = n = self._padding.n_max
        self._first, self._second = torch.triu_indices(n, n, offset=1, device=batch.positions.device)
        first, second = self._first, self._second
        self._edge_to_pair = edge_to_pair(n, batch.positions.device)
        self._pair_to_edges = torch.cat([first * n + second, second * n + first])
        positions = self._padding.pad(batch.positions)
        is_atom = self._padding.pad(torch.ones_like(batch.positions[:, 0])) > 0 if blocks is None else blocks.is_atom
        is_pair = is_atom[:, first] & is_atom[:, second]  # [B, P]
        vector = positions[:, second] - positions[:, first]  # [B, P, 3]
        # Padding puts atoms on top of each other, where the distance has no gradient: move them to (1, 1, 1).
        vector = torch.where(is_pair[..., None], vector, torch.ones_like(vector))
        distance = torch.linalg.vector_norm(vector, dim=-1)
        is_near = is_pair if cutoff is None else is_pair & (distance < cutoff)
        self.distances = torch.cat([distance, distance.new_zeros(len(distance), 1)], dim=1)
        self._mask = torch.cat([is_near, is_near.new_ones(len(is_near), 1)], dim=1)  # [B, P + 1]
        self._mask_without_self = torch.cat([is_near, is_near.new_zeros(len(is_near), 1)], dim=1)
        self._unit = self._odd_to_edges(vector / distance[..., None])

    @property
    def edge_blocks(self) -> EdgeBlocks:
        """What kernels that compute whole blocks read."""
        return EdgeBlocks(self._padding, self._mask, self._unit)

    def of_receiver(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it receives on: ``[n_molecules, n_max, 1, ...]``."""
        return self._padding.pad(x)[:, :, None]

    def of_sender(self, x: Float[Tensor, " n_atoms *rest"]) -> Float[Tensor, "*edges_and_rest"]:
        """Bring an atom quantity to the edges it sends on: ``[n_molecules, 1, n_max, ...]``."""
        return self._padding.pad(x)[:, None]

    def to_edges(
        self, x: Float[Tensor, "*pairs n_features"], *, self_edges: bool = True
    ) -> Float[Tensor, "*edges n_features"]:
        """Bring a quantity of pairs to the edges, zero where atoms are not neighbours."""
        mask = self._mask if self_edges else self._mask_without_self
        table = torch.where(mask[..., None], x, torch.zeros_like(x))  # [B, P + 1, K]
        return self._spread(table).unflatten(1, (self._n_max, self._n_max))

    def of_blocks(self, x: Shaped[Tensor, "n_molecules n_max n_max"]) -> Shaped[Tensor, "*pairs"]:
        """Take the upper triangle of each block."""
        return torch.cat([x[:, self._first, self._second], x.new_zeros(len(x), 1)], dim=1)

    def bonded(self) -> Bool[Tensor, "n_molecules n_max n_max"]:
        """Return which atoms of each molecule are bonded."""
        if self._blocks is None:
            return adjacency_blocks(self._batch)
        if self._blocks.bonded is None:
            raise ValueError("these blocks came without bonds; give them with the bonds of every molecule")
        return self._blocks.bonded

    def message_sum(self, messages: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms n_features"]:
        """Sum over senders."""
        return self._padding.unpad(messages.sum(2))

    def weighted_sum(
        self, weights: Float[Tensor, "*edges n_features"], values: Float[Tensor, "n_atoms *xyz n_features"]
    ) -> Float[Tensor, "n_atoms *xyz n_features"]:
        """Sum over senders, one component at a time: no temporary is larger than the weights."""
        padded = self._padding.pad(values)
        if values.ndim == 2:
            return self._padding.unpad((weights * padded[:, None]).sum(2))
        components = [(weights * padded[:, None, :, c]).sum(2) for c in range(values.shape[1])]
        return self._padding.unpad(torch.stack(components, dim=2))

    def directed_sum(self, weights: Float[Tensor, "*edges n_features"]) -> Float[Tensor, "n_atoms 3 n_features"]:
        """Sum over senders as one small matrix product per receiver."""
        return self._padding.unpad(torch.matmul(self._unit, weights))

    def as_list(self) -> "SparseNeighbors":
        """Find the pairs again."""
        if self._blocks is not None:
            raise ValueError("blocks that are padded have no list: they hold atoms that are none")
        return SparseNeighbors(self._batch, self.cutoff)

    def _spread(self, table: Float[Tensor, "n_molecules n_rows n_features"]) -> Tensor:
        return spread(table, self._edge_to_pair, self._pair_to_edges)

    def _odd_to_edges(
        self, of_pairs: Float[Tensor, "n_molecules n_pairs 3"]
    ) -> Float[Tensor, "n_molecules n_max 3 n_max"]:
        """Return [molecule, receiver, xyz, sender] of a quantity that changes sign with the direction of the edge."""
        n = self._n_max
        of_self = of_pairs.new_zeros(len(of_pairs), 1, 3)
        edges = self._spread(torch.cat([of_pairs, of_self], dim=1))
        upper = torch.triu(of_pairs.new_ones(n, n))
        return (edges * (upper - upper.T).flatten()[:, None]).unflatten(1, (n, n)).transpose(2, 3)


class SparseNeighbors(Neighbors):
    """A list of edges: each pair in both directions, then each atom with itself.

    Args:
        batch: molecules.
        cutoff: Å; ``None``: all pairs of a molecule.
        pairs: those within the cutoff, if they are known.
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
        """What kernels that go through pairs read; cut between molecules where pairs are in their order."""
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

    def bonded(self) -> Bool[Tensor, "n_molecules n_max n_max"]:
        """Return which atoms of each molecule are bonded."""
        return adjacency_blocks(self._batch)

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
