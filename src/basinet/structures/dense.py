"""Lay neighbours out as padded blocks, one per molecule, for small molecules."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.blocks import place_in_molecule
from basinet.structures.neighbors import Neighbors
from basinet.structures.sparse import SparseNeighbors


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
        slot = batch.molecule * n_max + place_in_molecule(batch)
        return Padding(slot, batch.n_molecules, n_max, is_full=batch.n_atoms == n_max * len(count))

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


class EdgeBlocks(NamedTuple):
    """Tensors of the dense layout, for kernels."""

    padding: Padding
    mask: Bool[Tensor, "n_molecules n_pairs"]
    """Pairs of :attr:`Neighbors.distances` that are neighbours; the last column, an atom and itself, is true."""
    unit: Float[Tensor, "n_molecules n_max 3 n_max"]
    """From receivers to senders."""


class DenseNeighbors(Neighbors):
    """Every pair of a padded block ``[n_molecules, n_max, n_max]``; static shapes, no scatter.

    Args:
        batch: molecules of any sizes.
        cutoff: Å.
    """

    def __init__(self, batch: Batch, cutoff: float | None) -> None:
        self.cutoff = cutoff
        self._batch = batch
        self._padding = Padding.of(batch)
        self._n_max = n = self._padding.n_max
        self._first, self._second = torch.triu_indices(n, n, offset=1, device=batch.positions.device)
        first, second = self._first, self._second
        self._edge_to_pair = edge_to_pair(n, batch.positions.device)
        self._pair_to_edges = torch.cat([first * n + second, second * n + first])
        positions = self._padding.pad(batch.positions)
        is_atom = self._padding.pad(torch.ones_like(batch.positions[:, 0])) > 0
        is_pair = is_atom[:, first] & is_atom[:, second]  # [B, P]
        vector = positions[:, second] - positions[:, first]  # [B, P, 3]
        # Padding puts atoms on top of each other, where the distance has no gradient: move them to (1, 1, 1).
        vector = torch.where(is_pair[..., None], vector, torch.ones_like(vector))
        distance = torch.linalg.vector_norm(vector, dim=-1)
        is_near = is_pair if cutoff is None else is_pair & (distance < cutoff)
        self.distances = torch.cat([distance, distance.new_zeros(len(distance), 1)], dim=1)
        self._mask = torch.cat([is_near, is_near.new_ones(len(is_near), 1)], dim=1)  # [B, P + 1]
        self._mask_without_self = torch.cat([is_near, is_near.new_zeros(len(is_near), 1)], dim=1)
        self._unit = self._directed(vector / distance[..., None])

    @property
    def edge_blocks(self) -> EdgeBlocks:
        """Input of kernels that compute whole blocks."""
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

    def as_list(self) -> SparseNeighbors:
        """Find the pairs again."""
        return SparseNeighbors(self._batch, self.cutoff)

    def _spread(self, table: Float[Tensor, "n_molecules n_rows n_features"]) -> Tensor:
        return spread(table, self._edge_to_pair, self._pair_to_edges)

    def _directed(self, of_pairs: Float[Tensor, "n_molecules n_pairs 3"]) -> Float[Tensor, "n_molecules n_max 3 n_max"]:
        """Bring a quantity that changes sign with the direction to edges [molecule, receiver, xyz, sender]."""
        n = self._n_max
        of_self = of_pairs.new_zeros(len(of_pairs), 1, 3)
        edges = self._spread(torch.cat([of_pairs, of_self], dim=1))
        upper = torch.triu(of_pairs.new_ones(n, n))
        return (edges * (upper - upper.T).flatten()[:, None]).unflatten(1, (n, n)).transpose(2, 3)


def edge_to_pair(n: int, device: torch.device) -> Int[Tensor, " n_edges"]:
    """Return the row in the table of pairs of each edge of an n x n block; the last row is an atom with itself."""
    atoms = torch.arange(n, device=device)
    first, second = torch.minimum(atoms[:, None], atoms), torch.maximum(atoms[:, None], atoms)
    row = first * n - first * (first + 1) // 2 + second - first - 1
    return torch.where(first == second, n * (n - 1) // 2, row).flatten()


def spread(
    table: Float[Tensor, "n_blocks n_rows n_features"], edge_to_pair: Int[Tensor, " n_edges"], pair_to_edges: Tensor
) -> Float[Tensor, "n_blocks n_edges n_features"]:
    """Bring rows of pairs to both of their edges, and the last row to the edges of atoms with themselves.

    Args:
        table: a row for each pair, and one more.
        edge_to_pair: the row of each edge.
        pair_to_edges: the edges of all pairs in one direction, then in the other.
    """
    return cast(Tensor, _Spread.apply(table, edge_to_pair, pair_to_edges))


class _Spread(torch.autograd.Function):
    """Gather edges from pairs. The derivative gathers too; that of indexing would add, which is slower."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, edge_to_pair: Tensor, pair_to_edges: Tensor) -> Tensor:
        ctx.save_for_backward(edge_to_pair, pair_to_edges)
        return table.index_select(1, edge_to_pair)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Collect.apply(gradients[0], *ctx.saved_tensors)), None, None


class _Collect(torch.autograd.Function):
    """Transpose of :class:`_Spread`: add both directions of each pair, and all edges of an atom to itself."""

    @staticmethod
    def forward(ctx: Any, edges: Tensor, edge_to_pair: Tensor, pair_to_edges: Tensor) -> Tensor:
        ctx.save_for_backward(edge_to_pair, pair_to_edges)
        there, back = pair_to_edges.chunk(2)
        of_pairs = edges.index_select(1, there) + edges.index_select(1, back)
        n = math.isqrt(edges.shape[1])
        return torch.cat([of_pairs, edges[:, :: n + 1].sum(1, keepdim=True)], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Spread.apply(gradients[0], *ctx.saved_tensors)), None, None
