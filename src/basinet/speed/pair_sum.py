r"""Sum over the neighbours of each atom by C++ kernels, differentiable any number of times.

.. math::
    S(W, x)_i = \sum_{j} W_{ij} \odot x_j, \qquad P(a, b)_{ij} = a_i \odot b_j + a_j \odot b_i

with :math:`W_{ij} = W_{ji}`. The gradients of :math:`S` are :math:`P(g, x)` and :math:`S(W, g)`, those of :math:`P` are
:math:`S(G, b)` and :math:`S(G, a)`.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from basinet.speed.native import call, library, n_parts
from basinet.structures.sparse import PairList


def pair_sum(
    pairs: PairList, weights: Float[Tensor, "n_rows F"], x: Float[Tensor, "n_atoms F"]
) -> Float[Tensor, "n_atoms F"]:
    """Return the sum over the pairs; what ``weights`` has in rows beyond them has no part in it."""
    return cast(Tensor, _Sum.apply(pairs, weights, x))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: PairList, weights: Tensor, x: Tensor) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(weights, x)
        return _run("pair_sum", pairs, weights, x, torch.zeros_like(x, memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor]:
        (g,), (weights, x) = gradients, ctx.saved_tensors
        return None, _Product.apply(ctx.pairs, g, x, len(weights)), _Sum.apply(ctx.pairs, weights, g)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: PairList, a: Tensor, b: Tensor, n_rows: int) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(a, b)
        product = a.new_empty(n_rows, a.shape[1])
        product[len(pairs.first) :] = 0
        return _run("pair_product", pairs, a, b, product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, Tensor, None]:
        (g,), (a, b) = gradients, ctx.saved_tensors
        return None, _Sum.apply(ctx.pairs, g, b), _Sum.apply(ctx.pairs, g, a), None


def _run(name: str, pairs: PairList, first: Tensor, second: Tensor, out: Tensor) -> Tensor:
    n_features = out.shape[1]
    kernels = library("pair_sum", out.dtype, N_FEATURES=n_features)
    call(kernels, name, pairs, [first.contiguous(), second.contiguous()], [out], n_parts(pairs, n_features))
    return out
