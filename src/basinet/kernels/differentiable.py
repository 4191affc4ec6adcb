"""The edge stage as a function that autograd differentiates twice, whoever computes it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from basinet.kernels import edge_stage as plain
from basinet.kernels.edge_stage import EdgeInputs, EdgeOutputs


class EdgeStage(NamedTuple):
    """Who computes the edge stage and its derivatives; see :mod:`basinet.kernels.edge_stage`."""

    forward: Callable[[EdgeInputs, int], EdgeOutputs]
    backward: Callable[[EdgeInputs, EdgeOutputs, int], EdgeInputs]
    double_backward: Callable[[EdgeInputs, EdgeOutputs, EdgeInputs, int], tuple[EdgeInputs, EdgeOutputs]]


PLAIN = EdgeStage(plain.forward, plain.backward, plain.double_backward)
"""The formulas as they stand, in PyTorch."""


def differentiable(edge_stage: EdgeStage, inputs: EdgeInputs, n_heads: int) -> EdgeOutputs:
    """Return the messages; only the inputs are kept for the backward pass.

    Raises:
        RuntimeError: in the backward pass, when differentiated a third time.
    """
    return EdgeOutputs(*_Forward.apply(edge_stage, n_heads, *inputs))


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edge_stage: EdgeStage, n_heads: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.edge_stage, ctx.n_heads = edge_stage, n_heads
        ctx.save_for_backward(*inputs)
        return tuple(edge_stage.forward(EdgeInputs(*inputs), n_heads))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_Backward.apply(ctx.edge_stage, ctx.n_heads, *grads, *ctx.saved_tensors)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edge_stage: EdgeStage, n_heads: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.edge_stage, ctx.n_heads = edge_stage, n_heads
        ctx.save_for_backward(*given)
        grads, inputs = EdgeOutputs(*given[:2]), EdgeInputs(*given[2:])
        return tuple(edge_stage.backward(inputs, grads, n_heads))

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_DoubleBackward.apply(ctx.edge_stage, ctx.n_heads, *tangents, *ctx.saved_tensors)


class _DoubleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edge_stage: EdgeStage, n_heads: int, *given: Tensor) -> tuple[Tensor, ...]:
        tangents, grads, inputs = EdgeInputs(*given[:7]), EdgeOutputs(*given[7:9]), EdgeInputs(*given[9:])
        of_inputs, of_grads = edge_stage.double_backward(inputs, grads, tangents, n_heads)
        return (*of_grads, *of_inputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        # Not once_differentiable: that leaves torch.autograd.grad unaware that something is missing.
        raise RuntimeError("the edge stage has no third derivative; use the ordinary path (launch.kernels=plain)")
