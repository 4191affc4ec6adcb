"""From a table of the pairs of a block to its edges, and back."""

import math
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
    """From the table of pairs to edges. Its derivative gathers where that of indexing would add, which is slower."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, edge_to_pair: Tensor, pair_to_edges: Tensor) -> Tensor:
        ctx.save_for_backward(edge_to_pair, pair_to_edges)
        return table.index_select(1, edge_to_pair)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return cast(Tensor, _Collect.apply(gradients[0], *ctx.saved_tensors)), None, None


class _Collect(torch.autograd.Function):
    """The transpose of :class:`_Spread`: adds both directions of each pair, and all edges of an atom to itself."""

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
