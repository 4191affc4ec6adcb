r"""Compute the edge stage of the Equivariant Transformer over a list of pairs, for CPUs.

The formulas are those of :mod:`basinet.speed.edge_stage`; what is passed differs. Atoms lie end to end, pairs are
those within the cutoff, and filters come before their activation, :math:`f = c\, \mathrm{SiLU}(z)`, so that nothing of
the size of the pairs is there but :math:`z` and its gradient. The last row of ``filters`` and ``fades`` is that of each
atom with itself, whose unit vector is zero.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from basinet.speed.edge_stage import EdgeOutputs
from basinet.structures.sparse import PairList


class PairInputs(NamedTuple):
    """Inputs of the edge stage, or gradients of them."""

    query: Float[Tensor, "n_atoms F"]
    key: Float[Tensor, "n_atoms F"]
    scalar: Float[Tensor, "n_atoms F"]
    vector: Float[Tensor, "n_atoms 3 F"]
    directed: Float[Tensor, "n_atoms F"]
    filters: Float[Tensor, "n_rows 4 F"]
    """Before the activation."""
    fades: Float[Tensor, "n_rows 4"]
    """Factors of the four filters."""
    unit: Float[Tensor, "n_pairs 3"]
    """From the first atom to the second."""


def forward(pairs: PairList, inputs: PairInputs, n_heads: int) -> EdgeOutputs:
    """Return the messages by the formulas as they stand, in PyTorch; what the kernels are compared with."""
    q, k, x, v, d, z, c, r = inputs
    atom = torch.arange(len(q), device=q.device)
    receiver, sender = torch.cat([pairs.first, pairs.second, atom]), torch.cat([pairs.second, pairs.first, atom])
    row = torch.arange(len(r), device=q.device)
    row = torch.cat([row, row, row.new_full((len(q),), len(r))])
    unit = torch.cat([r, -r, r.new_zeros(len(q), 3)])
    K, X, V, D = (F.silu(z) * c[..., None])[row].unbind(1)
    product = (q[receiver] * k[sender] * K).unflatten(-1, (n_heads, -1)).sum(-1)
    attention = F.silu(product).repeat_interleave(q.shape[1] // n_heads, dim=-1)
    message = torch.zeros_like(q).index_add(0, receiver, attention * X * x[sender])
    carried = V[:, None] * v[sender] + unit[:, :, None] * (D * d[sender])[:, None]
    return EdgeOutputs(message, torch.zeros_like(v).index_add(0, receiver, carried))
