r"""Multiply float32 matrices by oneDNN on processors where it is faster than torch's default.

torch multiplies matrices with Intel's MKL, which leaves the AVX-512 units of other makers' processors idle. oneDNN,
which is part of torch too, uses them: twice the speed, with the same rounding errors. Its operator has no
derivatives; they are products of the same kind,

.. math::
    Y = X W^\top, \qquad \partial X = G W, \qquad \partial W = G^\top X,

so this function is its own derivative, any number of times. Everywhere else, and for small matrices, it is torch's
``linear`` and nothing else.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

SMALL = 3_000_000
"""Multiplications. For fewer, the call costs what it saves: 2e6 without derivatives, 3e6 with second ones."""
PROCESSOR = Path("/proc/cpuinfo")
"""Description of the processor on Linux."""


class Linear(nn.Linear):
    """A linear map by :func:`linear`."""

    def forward(self, input: Float[Tensor, "*rows n_in"]) -> Float[Tensor, "*rows n_out"]:
        """Return the map of each row."""
        return linear(input, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*rows n_in"], weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None = None
) -> Float[Tensor, "*rows n_out"]:
    """Return ``x @ weight.T + bias``, which can be differentiated any number of times."""
    if not _is_taken(x, weight):
        return F.linear(x, weight, bias)
    return _linear(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))


def serves(processor: str) -> bool:
    """Return whether oneDNN is faster on a processor as Linux describes it: AVX-512, not made by Intel."""
    fields = [line.partition(":") for line in processor.splitlines()]
    found = {name.strip(): value.split() for name, _, value in reversed(fields)}
    return "avx512f" in found.get("flags", []) and found.get("vendor_id", ["GenuineIntel"]) != ["GenuineIntel"]


@cache
def has_fast_onednn() -> bool:
    """Return whether oneDNN is faster here; this depends on the machine alone, so that runs are reproducible."""
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and PROCESSOR.exists()
        and serves(PROCESSOR.read_text())
    )


def is_faster(rows: int, n_in: int, n_out: int) -> bool:
    """Return whether oneDNN is faster for float32 matrices of these shapes on this CPU."""
    return (
        rows * n_in * n_out >= SMALL
        and min(rows, n_in, n_out) > 1
        and has_fast_onednn()
        and bool(torch.backends.mkldnn.enabled)
    )


def _is_taken(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and is_faster(x.shape[:-1].numel(), x.shape[-1], len(weight))
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and type(x) is Tensor  # what is recorded is recorded as written
        and not torch.is_autocast_enabled("cpu")
        and not _is_transformed()
    )


def _is_transformed() -> bool:
    """Return whether ``torch.func`` or forward differentiation is active, where oneDNN has zero derivatives."""
    transformed = torch._C._are_functorch_transforms_active()  # pyright: ignore[reportPrivateUsage]
    return transformed or forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not torch.is_grad_enabled():
        return product(x, weight, bias)
    if not weight.requires_grad and (bias is None or not bias.requires_grad):
        return _Product.apply(x, weight, bias, None) if x.requires_grad else product(x, weight, bias)
    nothing = _OfWeight.apply((x,), weight, bias)
    return _Product.apply(x, weight, bias, nothing)


def product(
    x: Float[Tensor, "rows n_in"], weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None
) -> Float[Tensor, "rows n_out"]:
    """Return ``x @ weight.T + bias`` by oneDNN, without derivatives."""
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")


def _dense(matrix: Tensor) -> Tensor:
    """Return a matrix with contiguous rows or columns; oneDNN is slow with others."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


class _Product(torch.autograd.Function):
    """The product and its gradient in x.

    The gradient in the weight comes from ``nothing``, zeros that are never added: autograd computes all gradients of a
    Python node or none, and forces need no gradient of a weight.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, nothing: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (weight,) = gradients, ctx.saved_tensors
        of_x = _linear(g, weight.t(), None) if ctx.needs_input_grad[0] else None
        return of_x, None, None, g if ctx.needs_input_grad[3] else None


class _OfWeight(torch.autograd.Function):
    """Zeros of the shape of a product, whose gradients in weight and bias are those of the product.

    ``x`` comes in a tuple: autograd then sees no way from here to ``x``, and does not come here for its gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: tuple[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
        (x,) = hidden
        ctx.save_for_backward(x)
        return x.new_zeros(()).expand(len(x), len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x,) = gradients, ctx.saved_tensors
        _, of_weight, of_bias = ctx.needs_input_grad
        return None, _of_columns(g, x) if of_weight else None, g.sum(0) if of_bias else None


def _of_columns(g: Tensor, x: Tensor) -> Tensor:
    """Return ``g.T @ x``; oneDNN is faster with the matrix of fewer columns in the first place."""
    if g.shape[1] <= x.shape[1]:
        return _linear(g.t(), x.t(), None)
    return _linear(x.t(), g.t(), None).t()
