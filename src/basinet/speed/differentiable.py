"""Make an implementation of the edge stage a function that autograd differentiates twice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from basinet.speed import edge_stage as plain
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs
from basinet.speed.pair_stage import PairInputs

Inputs = TypeVar("Inputs", EdgeInputs, PairInputs)


@dataclass(frozen=True)
class EdgeStage(Generic[Inputs]):
    """An implementation of the edge stage and its derivatives, over blocks or a list of pairs.

    See :mod:`basinet.speed.edge_stage` and :mod:`basinet.speed.pair_stage`.
    """

    forward: Callable[[Inputs, int], EdgeOutputs]
    backward: Callable[[Inputs, EdgeOutputs, int], Inputs]
    double_backward: Callable[[Inputs, EdgeOutputs, Inputs, int], tuple[Inputs, EdgeOutputs]]


PLAIN = EdgeStage(plain.forward, plain.backward, plain.double_backward)
"""The formulas in PyTorch."""


def differentiable(edge_stage: EdgeStage[Inputs], inputs: Inputs, n_heads: int) -> EdgeOutputs:
    """Return the messages; only the inputs are kept for the backward pass.

    Raises:
        RuntimeError: in the backward pass, when differentiated a third time.
    """
    return EdgeOutputs(*_Forward.apply(_Call(edge_stage, type(inputs), n_heads), *inputs))


class _Call(NamedTuple):
    """Arguments of the functions below that are not tensors."""

    edge_stage: EdgeStage[Any]
    group: Callable[..., Any]
    """Type of the inputs."""
    n_heads: int


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*inputs)
        return tuple(call.edge_stage.forward(call.group(*inputs), call.n_heads))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Backward.apply(ctx.call, *grads, *ctx.saved_tensors)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*given)
        return tuple(call.edge_stage.backward(call.group(*given[2:]), EdgeOutputs(*given[:2]), call.n_heads))

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_DoubleBackward.apply(ctx.call, *tangents, *ctx.saved_tensors)


class _DoubleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *given: Tensor) -> tuple[Tensor, ...]:
        n_inputs = (len(given) - 2) // 2
        tangents, grads = call.group(*given[:n_inputs]), EdgeOutputs(*given[n_inputs : n_inputs + 2])
        inputs = call.group(*given[n_inputs + 2 :])
        of_inputs, of_grads = call.edge_stage.double_backward(inputs, grads, tangents, call.n_heads)
        return (*of_grads, *of_inputs)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        # Not once_differentiable: that leaves torch.autograd.grad unaware that something is missing.
        raise RuntimeError("the edge stage has no third derivative; use the ordinary path (launch.kernels=plain)")
