"""Compute the edge stage over a list of pairs by C++ kernels."""

import ctypes
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from basinet.speed.differentiable import EdgeStage
from basinet.speed.edge_stage import EdgeOutputs
from basinet.speed.native import call, library, n_parts
from basinet.speed.pair_stage import PairInputs
from basinet.structures.sparse import PairList

STRIDED = (0, 1, 2, 4)
"""Inputs whose rows may have a stride: query, key, scalar and directed are slices of one matrix product."""


def native(pairs: PairList) -> EdgeStage[PairInputs]:
    """Return the edge stage over these pairs, by the kernels."""
    return EdgeStage(partial(forward, pairs), partial(backward, pairs), partial(double_backward, pairs))


def forward(pairs: PairList, inputs: PairInputs, n_heads: int) -> EdgeOutputs:
    """Return the messages."""
    out = EdgeOutputs(inputs.query.new_zeros(inputs.query.shape), inputs.vector.new_zeros(inputs.vector.shape))
    rows, strides = _rows(inputs)
    call(_kernels(inputs, n_heads), "pair_stage", pairs, rows, out, n_parts(pairs, n_heads), strides)
    return out


def backward(pairs: PairList, inputs: PairInputs, grads: EdgeOutputs, n_heads: int) -> PairInputs:
    """Return the gradients of the inputs, given those of the messages."""
    parts = n_parts(pairs, n_heads)
    out = _room(inputs, parts)
    rows, strides = _rows(inputs)
    given = [*rows, *(g.contiguous() for g in grads)]
    call(_kernels(inputs, n_heads), "pair_stage_backward", pairs, given, out, parts, strides)
    return _summed(out)


def double_backward(
    pairs: PairList, inputs: PairInputs, grads: EdgeOutputs, tangents: PairInputs, n_heads: int
) -> tuple[PairInputs, EdgeOutputs]:
    """Return the gradients of the inputs and of ``grads``, given those of what backward returned."""
    parts = n_parts(pairs, n_heads)
    out, of_grads = _room(inputs, parts), EdgeOutputs(*(g.new_zeros(g.shape) for g in grads))
    (rows, strides), (rows_t, strides_t) = _rows(inputs), _rows(tangents)
    given = [*rows, *(g.contiguous() for g in grads), *rows_t]
    kernels = _kernels(inputs, n_heads)
    call(kernels, "pair_stage_double_backward", pairs, given, [*out, *of_grads], parts, [*strides, *strides_t])
    return _summed(out), of_grads


def _kernels(inputs: PairInputs, n_heads: int) -> ctypes.CDLL:
    return library("pair_stage", inputs.query.dtype, N_FEATURES=inputs.query.shape[1], N_HEADS=n_heads)


def _room(inputs: PairInputs, parts: int) -> PairInputs:
    """Return room for gradients: zeros where kernels add; one for each part of what is a sum over features."""
    query, vector, filters, fades, unit = (
        inputs.query, inputs.vector, inputs.filters, inputs.fades, inputs.unit,
    )  # fmt: skip
    of_query, of_key, of_scalar, of_directed = (query.new_zeros(query.shape) for _ in range(4))
    return PairInputs(
        query=of_query,
        key=of_key,
        scalar=of_scalar,
        vector=vector.new_zeros(vector.shape),
        directed=of_directed,
        filters=filters.new_empty(filters.shape),
        fades=fades.new_empty(parts, *fades.shape),
        unit=unit.new_empty(parts, *unit.shape),
    )


def _summed(grads: PairInputs) -> PairInputs:
    return grads._replace(fades=grads.fades.sum(0), unit=grads.unit.sum(0))


def _rows(group: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return tensors as the kernels read them, and the strides of the rows of those that may have any."""
    rows = [x if i in STRIDED and x.stride(1) == 1 else x.contiguous() for i, x in enumerate(group)]
    return rows, [rows[i].stride(0) for i in STRIDED]
