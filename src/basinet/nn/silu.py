r"""Compute SiLU with its derivatives written out, to save memory when training on gradients.

.. math::
    A = x \sigma(x), \qquad
    A' = \sigma (1 + x (1 - \sigma)), \qquad
    A'' = \sigma (1 - \sigma) (2 + x (1 - 2 \sigma))

When a gradient is to be differentiated, torch composes A' of elementary functions and keeps six tensors of the size of
x; here two are kept, x and the gradient that arrived, and A' is one operation.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SMALL = 2**16
"""Numbers. Functions written in Python cost some 20 µs a call, more than they save on smaller tensors."""


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return A(x), which can be differentiated any number of times."""
    return F.silu(x) if x.numel() < SMALL else _SiLU.apply(x)


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Gradient.apply(*gradients, *ctx.saved_tensors)


class _Gradient(torch.autograd.Function):
    """Gradient g times A'(x)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return torch.ops.aten.silu_backward(g, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (t,) = gradients
        g, x = ctx.saved_tensors
        second = _second_derivative(x) if torch.is_grad_enabled() else _second_derivative_in_place(x)
        return _Gradient.apply(t, x), second * (g * t)


def _second_derivative(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 - gate) * (2 + x * (1 - 2 * gate))


def _second_derivative_in_place(x: Tensor) -> Tensor:
    """Return the same with two tensors instead of eight, but nothing for autograd to go back along."""
    gate = torch.sigmoid(x)
    rest = torch.mul(gate, -2).add_(1).mul_(x).add_(2)
    return gate.addcmul_(gate, gate, value=-1).mul_(rest)
