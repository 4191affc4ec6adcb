r"""Sums and products of rank-two tensors by C++ kernels, differentiable any number of times.

.. math::
    S(w, x)_i = \sum_j w_{ij} \odot x_j, \qquad P(a, b)_{ij} = a_i \odot b_j + a_j \odot b_i
"""
import ctypes
from typing import Any, cast
import torch
from torch import Tensor
from basinet.speed.native import call, library, n_parts, _require_ordinary
from basinet.structures.neighbors import PairList

SLOTS = ("atoms", "weights", "directions", "elements")

def tensor_sum(pairs, weights, x):
    return cast(Tensor, _Sum.apply(pairs, weights, x))

class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pairs, weights, x):
        ctx.pairs = pairs
        ctx.save_for_backward(weights, x)
        return _run("tensor_sum", pairs, [weights, x], torch.zeros_like(x, memory_format=torch.contiguous_format), x.shape[-1])

    @staticmethod
    def backward(ctx, g):
        weights, x = ctx.saved_tensors
        need = ctx.needs_input_grad
        return None, _Product.apply(ctx.pairs, g, x) if need[1] else None, _Sum.apply(ctx.pairs, weights, g) if need[2] else None

class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pairs, a, b):
        ctx.pairs = pairs
        ctx.save_for_backward(a, b)
        n = a.shape[-1]
        return _run("tensor_product", pairs, [a, b], a.new_empty(len(pairs.first), 3 * n), n)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        need = ctx.needs_input_grad
        return None, _Sum.apply(ctx.pairs, g, b) if need[1] else None, _Sum.apply(ctx.pairs, g, a) if need[2] else None

def directed_sum(pairs, weights, directions, elements):
    return cast(Tensor, _Directed.apply(pairs, 0, weights, directions, elements))

class _Directed(torch.autograd.Function):
    """Gradient of the form with respect to the factor in one slot, given the other three in order."""
    @staticmethod
    def forward(ctx, pairs, slot, *given):
        ctx.pairs, ctx.slot = pairs, slot
        ctx.save_for_backward(*given)
        factors = dict(zip([s for s in range(4) if s != slot], given))
        like = given[0]
        n_features = factors[3].shape[-1] // 2 if 3 in factors else factors[0].shape[-1]
        n_atoms = len(factors[3]) if 3 in factors else len(factors[0])
        shape = ((n_atoms, 9, n_features), (len(pairs.first), 3 * n_features), (len(pairs.first), 9), (n_atoms, 2 * n_features))[slot]
        return _run("directed_" + SLOTS[slot], pairs, list(given), like.new_zeros(shape), n_features)

    @staticmethod
    def backward(ctx, g):
        others = [s for s in range(4) if s != ctx.slot]
        factors = dict(zip(others, ctx.saved_tensors)) | {ctx.slot: g}
        grads = [
            _Directed.apply(ctx.pairs, s, *(factors[t] for t in range(4) if t != s)) if needed else None
            for s, needed in zip(others, ctx.needs_input_grad[2:])
        ]
        return None, None, *grads

def anticommutator(x, y):
    return cast(Tensor, _Anticommutator.apply(x, y, 1))

class _Anticommutator(torch.autograd.Function):
    r"""(x, y) -> x y + y x; or with y transposed. d<g, xy+yx> = <g y^T + y^T g, dx>."""
    @staticmethod
    def forward(ctx, x, y, sign):
        ctx.save_for_backward(x, y); ctx.sign = sign
        x, y = x.contiguous(), y.contiguous()
        out = torch.empty_like(x)
        p = [ctypes.c_void_p(t.data_ptr()) for t in (x, y, out)]
        i = ctypes.c_int64
        library("tensor_atoms", x.dtype)["anticommutator"](i(len(x)), i(x.shape[-1]), *p, i(sign), i(torch.get_num_threads()))
        return out

    @staticmethod
    def backward(ctx, g):
        x, y = ctx.saved_tensors
        need = ctx.needs_input_grad
        gx = _Anticommutator.apply(g, y, -ctx.sign) if need[0] else None
        # {x, y^T}: gradient in y is {g, x^T}^T = {g^T, x}
        gy = None
        if need[1]:
            gy = _Anticommutator.apply(g, x, -1) if ctx.sign == 1 else _Anticommutator.apply(x, g, -1)
        return gx, gy, None

def _run(name, pairs, given, out, n_features):
    kernels = library("tensor_pairs", out.dtype, N_FEATURES=n_features)
    parts = 1 if name == "directed_directions" else n_parts(pairs, n_features)
    call(kernels, name, pairs, [x.contiguous() for x in given], [out], parts)
    return out
