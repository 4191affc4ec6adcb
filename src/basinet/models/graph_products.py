"""Products of matrices in a recorded graph, given to oneDNN where it is the faster one."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx

from basinet.speed.products import is_faster, product

NAMESPACE, NAME = "basinet", "product"
"""Of an operator of our own: the compiler wants the weights of torch's to be constants, and ours are trained."""


def by_onednn(graph: fx.GraphModule) -> fx.GraphModule:
    """Have oneDNN compute those products of a graph that it is faster at, and return the graph.

    It is to be cut in two before: who decides what is kept for the second half knows that torch's products are dear.
    """
    mm, addmm = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
    for node in list(graph.graph.nodes):
        if node.target is mm or (node.target is addmm and not node.kwargs and node.args[0].meta["val"].ndim == 1):
            *bias, x, y = node.args
            if _is_taken(x.meta["val"], y.meta["val"]):
                node.replace_all_uses_with(_inserted(node, x, y, *bias), propagate_meta=True)
                graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _is_taken(x: Tensor, y: Tensor) -> bool:
    (rows, n_in), n_out = x.shape, y.shape[1]
    return x.device.type == "cpu" and x.dtype == y.dtype == torch.float32 and is_faster(rows, n_in, n_out)


def _inserted(before: fx.Node, x: fx.Node, y: fx.Node, bias: fx.Node | None = None) -> fx.Node:
    """Return a product of ours; of a matrix that lies transposed in memory the smaller one comes first."""
    call, permute, swap = before.graph.call_function, torch.ops.aten.permute.default, [1, 0]
    left, right = x.meta["val"], y.meta["val"]
    with before.graph.inserting_before(before):
        weight = call(permute, (y, swap))
        if left.is_contiguous() or bias is not None or left.shape[0] <= right.shape[1]:
            return call(_operator(), (x, weight, bias))
        return call(permute, (call(_operator(), (weight, x, None)), swap))


@cache
def _library() -> torch.library.Library:
    """Return the library that holds the operator, which lives as long as it does."""
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    tags = (torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag)
    library.define(f"{NAME}(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=tags)
    library.impl(NAME, product, "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{NAME}", _shaped, lib=library)
    return library


def _shaped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(len(x), len(weight))


def _operator() -> Any:
    _library()
    return torch.ops.basinet.product.default
