"""Compute the edge stage in Triton, without writing tensors of the size of the edges other than ``unit``.

The equations are those of :mod:`basinet.speed.edge_stage`, edge by edge. A program owns one atom i in one head of one
molecule and goes through its partners j, a block at a time. It sees both directions of a pair, i receiving from j and j
from i, so every sum over receivers, senders or directions ends in the program that stores it: there are no atomic
additions, and the result is the same every time.
"""

# pyright: reportMissingImports=false

from collections.abc import Callable, Sequence
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from basinet.speed.differentiable import EdgeStage
from basinet.speed.edge_functions import (
    edge_backward,
    edge_double_backward,
    edge_forward,
    load,
    load_atoms,
    load_filters,
    load_grads,
    places,
    program,
    store_filters,
    store_rows,
    unit_places,
)
from basinet.speed.edge_stage import EdgeInputs, EdgeOutputs

TILE = 256
"""Partners times features that a program works on at once: the most that fits into registers (sm_80, float32)."""

COMPILER_OPTIONS = {"enable_fp_fusion": True}
"""Fused multiply-add, set because Triton warns that its default will change."""

RoomFor = Callable[[Sequence[Tensor], int], list[Tensor]]
Finish = Callable[[list[Tensor]], list[Tensor]]


@triton.jit
@no_type_check
def _forward(
    q, k, x, v, d, filters, unit, message, vector_message,
    n, n_heads, width, block_j: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    b, i, _, feature, is_feature = program(n, n_heads, width, block_d)
    i = i + tl.arange(0, 1)
    n_features = n_heads * width
    row = places(b, i, feature, i < n, is_feature, n, n_features)
    atom = load_atoms((q, k, x, v, d), row)
    m = tl.zeros((block_d,), q.dtype.element_ty)
    vector_m = tl.zeros((4, block_d), q.dtype.element_ty)
    for first in range(0, n, block_j):
        j = first + tl.arange(0, block_j)
        is_j = j < n
        column = places(b, j, feature, is_j, is_feature, n, n_features)
        partner = load_atoms((q, k, x, v, d), column)
        pair = load_filters(filters, b, i, j, feature, column[2], n, n_features)
        at, mask = unit_places(b, i, j, is_j, n)
        of_m, of_M = edge_forward(atom, partner, load(unit, at, mask), pair)
        m += tl.sum(of_m, axis=0)
        vector_m += tl.sum(of_M, axis=0)
    begin, at, mask, at3, mask3 = row
    tl.store(message + begin + at, m[None, :], mask=mask)
    tl.store(vector_message + 3 * begin + at3, vector_m[None, :, :], mask=mask3)


@triton.jit
@no_type_check
def _backward(
    q, k, x, v, d, filters, unit, g, G,
    dq, dk, dx, dv, dd, dfilters, dunit,
    n, n_heads, width, block_j: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    b, i, head, feature, is_feature = program(n, n_heads, width, block_d)
    i = i + tl.arange(0, 1)
    n_features = n_heads * width
    row = places(b, i, feature, i < n, is_feature, n, n_features)
    atom, atom_g = load_atoms((q, k, x, v, d), row), load_grads((g, G), row)
    sum_q = tl.zeros((block_d,), q.dtype.element_ty)
    sum_k, sum_x, sum_d = sum_q, sum_q, sum_q
    sum_v = tl.zeros((4, block_d), q.dtype.element_ty)
    for first in range(0, n, block_j):
        j = first + tl.arange(0, block_j)
        is_j = j < n
        column = places(b, j, feature, is_j, is_feature, n, n_features)
        partner, partner_g = load_atoms((q, k, x, v, d), column), load_grads((g, G), column)
        pair = load_filters(filters, b, i, j, feature, column[2], n, n_features)
        at, mask = unit_places(b, i, j, is_j, n)
        back, _ = unit_places(b, j, i, is_j, n)
        received, of_pair, of_r = edge_backward(atom, partner, load(unit, at, mask), pair, atom_g)
        sent, of_pair_sent, _ = edge_backward(partner, atom, load(unit, back, mask), pair, partner_g)
        sum_q += tl.sum(received[0], axis=0)
        sum_k += tl.sum(sent[1], axis=0)
        sum_x += tl.sum(sent[2], axis=0)
        sum_v += tl.sum(sent[3], axis=0)
        sum_d += tl.sum(sent[4], axis=0)
        store_filters(dfilters, of_pair, of_pair_sent, b, i, j, feature, is_j, is_feature, n, n_features)
        at, _ = unit_places(b * n_heads + head, i, j, is_j, n)
        tl.store(dunit + at, of_r, mask=mask)
    store_rows((dq, dk, dx, dv, dd), (sum_q, sum_k, sum_x, sum_v, sum_d), row)


@triton.jit
@no_type_check
def _double_backward(
    q, k, x, v, d, filters, unit, g, G, q_t, k_t, x_t, v_t, d_t, filters_t, unit_t,
    dq, dk, dx, dv, dd, dfilters, dunit, dg, dG,
    n, n_heads, width, block_j: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    b, i, head, feature, is_feature = program(n, n_heads, width, block_d)
    i = i + tl.arange(0, 1)
    n_features = n_heads * width
    row = places(b, i, feature, i < n, is_feature, n, n_features)
    atom, atom_g = load_atoms((q, k, x, v, d), row), load_grads((g, G), row)
    atom_t = load_atoms((q_t, k_t, x_t, v_t, d_t), row)
    sum_q = tl.zeros((block_d,), q.dtype.element_ty)
    sum_k, sum_x, sum_d, sum_g = sum_q, sum_q, sum_q, sum_q
    sum_v = tl.zeros((4, block_d), q.dtype.element_ty)
    sum_G = sum_v
    for first in range(0, n, block_j):
        j = first + tl.arange(0, block_j)
        is_j = j < n
        column = places(b, j, feature, is_j, is_feature, n, n_features)
        partner, partner_g = load_atoms((q, k, x, v, d), column), load_grads((g, G), column)
        partner_t = load_atoms((q_t, k_t, x_t, v_t, d_t), column)
        pair = load_filters(filters, b, i, j, feature, column[2], n, n_features)
        pair_t = load_filters(filters_t, b, i, j, feature, column[2], n, n_features)
        at, mask = unit_places(b, i, j, is_j, n)
        back, _ = unit_places(b, j, i, is_j, n)
        received, of_pair, of_r, of_grads = edge_double_backward(
            atom, partner, load(unit, at, mask), pair, atom_g, atom_t, partner_t, load(unit_t, at, mask), pair_t
        )
        sent, of_pair_sent, _, _ = edge_double_backward(
            partner, atom, load(unit, back, mask), pair, partner_g,
            partner_t, atom_t, load(unit_t, back, mask), pair_t,
        )  # fmt: skip
        sum_q += tl.sum(received[0], axis=0)
        sum_k += tl.sum(sent[1], axis=0)
        sum_x += tl.sum(sent[2], axis=0)
        sum_v += tl.sum(sent[3], axis=0)
        sum_d += tl.sum(sent[4], axis=0)
        sum_g += tl.sum(of_grads[0], axis=0)
        sum_G += tl.sum(of_grads[1], axis=0)
        store_filters(dfilters, of_pair, of_pair_sent, b, i, j, feature, is_j, is_feature, n, n_features)
        at, _ = unit_places(b * n_heads + head, i, j, is_j, n)
        tl.store(dunit + at, of_r, mask=mask)
    store_rows((dq, dk, dx, dv, dd), (sum_q, sum_k, sum_x, sum_v, sum_d), row)
    begin, at, mask, at3, mask3 = row
    tl.store(dg + begin + at, sum_g[None, :], mask=mask)
    tl.store(dG + 3 * begin + at3, sum_G[None, :, :], mask=mask3)


def _forward_outputs(inputs: Sequence[Tensor], n_heads: int) -> list[Tensor]:
    return [torch.empty_like(inputs[0]), torch.empty_like(inputs[3])]


def _backward_outputs(inputs: Sequence[Tensor], n_heads: int) -> list[Tensor]:
    """Return room for gradients: of the filters with a row for each self-edge, of the unit vectors head by head."""
    query = inputs[0]
    n_molecules, n, n_features = query.shape
    of_filters = query.new_empty(n_molecules, n * (n - 1) // 2 + n, 4, n_features)
    return [*(torch.empty_like(x) for x in inputs[:5]), of_filters, query.new_empty(n_molecules, n_heads, n, 3, n)]


def _double_backward_outputs(inputs: Sequence[Tensor], n_heads: int) -> list[Tensor]:
    return [*_backward_outputs(inputs, n_heads), *_forward_outputs(inputs, n_heads)]


def _summed(gradients: list[Tensor]) -> list[Tensor]:
    """Add what several programs gave to one gradient: that of an atom with itself, and of a unit vector."""
    q, k, x, v, d, of_filters, of_unit, *of_grads = gradients
    n = q.shape[1]
    n_pairs = n * (n - 1) // 2
    if n > 1:
        of_filters[:, n_pairs] = of_filters[:, n_pairs:].sum(1)
    return [q, k, x, v, d, of_filters[:, : n_pairs + 1], of_unit.sum(1), *of_grads]


def _operator(name: str, kernel: Any, room_for: RoomFor, finish: Finish) -> Callable[[list[Tensor], int], list[Tensor]]:
    """Return the launch of a kernel as an operator of torch: one node for what traces and compiles graphs."""

    def launch(inputs: Sequence[Tensor], n_heads: int) -> list[Tensor]:
        inputs = [x.contiguous() for x in inputs]
        outputs = room_for(inputs, n_heads)
        n_molecules, n, n_features = inputs[0].shape
        width = n_features // n_heads
        block_d = triton.next_power_of_2(width)
        block_j = min(triton.next_power_of_2(n), max(1, TILE // block_d))
        if inputs[0].numel():
            with torch.cuda.device_of(inputs[0]):
                grid = (n_molecules * n * n_heads,)
                kernel[grid](*inputs, *outputs, n, n_heads, width, block_j, block_d, **COMPILER_OPTIONS)
        return finish(outputs)

    def shapes(inputs: Sequence[Tensor], n_heads: int) -> list[Tensor]:
        return finish(room_for([x.contiguous() for x in inputs], n_heads))

    operator = torch.library.custom_op(f"basinet::{name}", launch, mutates_args=())
    operator.register_fake(shapes)
    return operator


_run_forward = _operator("edge_stage", _forward, _forward_outputs, list)
_run_backward = _operator("edge_stage_backward", _backward, _backward_outputs, _summed)
_run_double_backward = _operator("edge_stage_double_backward", _double_backward, _double_backward_outputs, _summed)


def forward(inputs: EdgeInputs, n_heads: int) -> EdgeOutputs:
    """Return the messages."""
    return EdgeOutputs(*_run_forward([*inputs], n_heads))


def backward(inputs: EdgeInputs, grads: EdgeOutputs, n_heads: int) -> EdgeInputs:
    """Return the gradients of the inputs, given those of the messages."""
    return EdgeInputs(*_run_backward([*inputs, *grads], n_heads))


def double_backward(
    inputs: EdgeInputs, grads: EdgeOutputs, tangents: EdgeInputs, n_heads: int
) -> tuple[EdgeInputs, EdgeOutputs]:
    """Return the gradients of the inputs and of ``grads``, given those of what backward returned."""
    found = _run_double_backward([*inputs, *grads, *tangents], n_heads)
    return EdgeInputs(*found[:7]), EdgeOutputs(*found[7:])


IN_TRITON = EdgeStage(forward, backward, double_backward)
"""The edge stage by these kernels."""
