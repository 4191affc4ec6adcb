"""The edge stage in PyTorch, a few molecules at a time."""

from typing import TypeVar

import torch

from basinet.speed import edge_stage
from basinet.speed.differentiable import EdgeStage
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs

CHUNK = 100_000
"""Numbers in one tensor of the edges, unless one molecule has more: a few such tensors fit into a core's cache."""

Group = TypeVar("Group", EdgeInputs, EdgeOutputs)


def _forward(inputs: EdgeInputs, n_heads: int) -> EdgeOutputs:
    return _joined([edge_stage.forward(_part(inputs, c), n_heads) for c in _chunks(inputs)])


def _backward(inputs: EdgeInputs, grads: EdgeOutputs, n_heads: int) -> EdgeInputs:
    return _joined([edge_stage.backward(_part(inputs, c), _part(grads, c), n_heads) for c in _chunks(inputs)])


def _double_backward(
    inputs: EdgeInputs, grads: EdgeOutputs, tangents: EdgeInputs, n_heads: int
) -> tuple[EdgeInputs, EdgeOutputs]:
    found = [
        edge_stage.double_backward(_part(inputs, c), _part(grads, c), _part(tangents, c), n_heads)
        for c in _chunks(inputs)
    ]
    return _joined([of_inputs for of_inputs, _ in found]), _joined([of_grads for _, of_grads in found])


IN_CHUNKS = EdgeStage(_forward, _backward, _double_backward)
"""The formulas, chunk by chunk: tensors of the edges of a whole batch are never there."""


def _chunks(inputs: EdgeInputs) -> list[slice]:
    n_molecules, n, n_features = inputs.query.shape
    size = max(1, CHUNK // max(1, n * n * n_features))
    return [slice(first, first + size) for first in range(0, max(1, n_molecules), size)]


def _part(group: Group, chunk: slice) -> Group:
    return type(group)(*(x[chunk] for x in group))


def _joined(parts: list[Group]) -> Group:
    return type(parts[0])(*(torch.cat(x) for x in zip(*parts, strict=True)))
