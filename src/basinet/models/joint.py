"""A function and its derivatives, recorded together as one graph, cut in two and compiled.

The derivatives are taken by autograd while the graph is recorded (``make_fx`` over the function and its
vector-Jacobian product, as AOTAutograd does it), with the derivatives of the outputs as further inputs. So of a
function that holds forces, which are a derivative themselves, the recorded second derivative is the one eager PyTorch
has. A recorded forward pass that is differentiated afterwards is not: what a norm kept for its own backward pass (mean
and deviation) is a constant in the record, and gradients are wrong by parts in a thousand without a word.

What comes out is an ordinary differentiable function of tensors, for fixed shapes: losses, weights and the reduction
over processes stay eager and need not know.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from basinet.models.graph_products import by_onednn

Function = Callable[..., tuple[Tensor, ...]]
"""From tensors to tensors; of fixed shapes and without a choice that depends on values."""


class Compiler(NamedTuple):
    """What becomes of the two halves of a graph: functions of a graph (``fx.GraphModule``) and example inputs."""

    forward: Any
    backward: Any


def interpreted() -> Compiler:
    """Return the compiler that compiles nothing: graphs run operation by operation, as fast as eager PyTorch."""
    from functorch.compile import make_boxed_func

    def run(graph: fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        return make_boxed_func(graph.forward)

    return Compiler(run, run)


def inductor() -> Compiler:
    """Return PyTorch's compiler: fused C++ on a CPU, Triton on a GPU. Its results are kept in a cache on the disk."""
    return Compiler(_by_inductor, partial(_by_inductor, is_backward=True))


def _by_inductor(graph: fx.GraphModule, example: Sequence[Any], **options: Any) -> Any:
    from torch._inductor.compile_fx import compile_fx_inner

    return compile_fx_inner(by_onednn(graph), example, **options)


def missing_compiler(device: torch.device) -> str | None:
    """Return what :func:`inductor` lacks to compile for a device; ``None``: nothing."""
    if device.type != "cpu":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton, which compiles for GPUs"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "a C++ compiler (g++ or clang++, or the one that CXX names)"
    return None


def capture(function: Function, examples: Sequence[Tensor], compiler: Compiler) -> Function:
    """Return a function compiled, with its derivatives in those examples that require a gradient.

    Args:
        function: may differentiate inside, with ``create_graph``.
        examples: of the shapes, types and ``requires_grad`` that all later arguments will have.
        compiler: of both halves.
    """
    from functorch.compile import aot_function, min_cut_rematerialization_partition
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode

    compiled: Any = aot_function(
        function, compiler.forward, compiler.backward, min_cut_rematerialization_partition, decompositions=_table()
    )
    # In a context, the half for the derivatives hears how the other one laid out in memory what it leaves behind.
    with tracing(TracingContext(FakeTensorMode())):
        compiled(*examples)
    return compiled


def _table() -> dict[Any, Any]:
    """Return how operations are taken apart, those that add by index as matrix products.

    Compiled code would add by index in the order in which threads come by; a run that goes on would then not be the run
    that never stopped. There are few rows: molecules, elements.
    """
    from torch._inductor.decomposition import select_decomp_table

    aten = torch.ops.aten
    return {
        **select_decomp_table(),
        aten.embedding_dense_backward.default: _embedding_dense_backward,
        aten.index_add.default: _index_add,
    }


def _embedding_dense_backward(
    gradient: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    assert padding_idx < 0 and not scale_grad_by_freq
    rows = _one_hot(indices.flatten(), num_weights, gradient.dtype)
    return rows.t() @ gradient.reshape(len(rows), -1)


def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    rows = _one_hot(index, x.shape[dim], source.dtype)
    moved = source.movedim(dim, 0)
    added = (rows.t() @ moved.reshape(len(rows), -1)).reshape(-1, *moved.shape[1:])
    return x + alpha * added.movedim(0, dim)


def _one_hot(index: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    return (index[:, None] == torch.arange(n, device=index.device)).to(dtype)
