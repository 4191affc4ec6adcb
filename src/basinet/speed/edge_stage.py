r"""Compute the edge stage of the Equivariant Transformer, with its derivatives written out.

Everything between the linear maps of a layer, on padded blocks: molecule b, receiver i, sender j, feature f of head h.

.. math::
    s_{ijh} &= \sum_{f \in h} q_{if}\, k_{jf}\, K_{ijf}, \qquad
    m_{if} = \sum_j A(s_{ijh})\, X_{ijf}\, x_{jf}, \qquad A = \mathrm{SiLU} \\
    M_{icf} &= \sum_j V_{ijf}\, v_{jcf} + \hat r_{ijc}\, D_{ijf}\, d_{jf}

=====================================  ==========================================================================
:math:`q, k, x, d` [B, n, F]           ``query``, ``key``, ``scalar``, ``directed``: of atoms
:math:`v` [B, n, 3, F]                 ``vector``: of atoms, times their gate
:math:`K, X, V, D` [B, P + 1, 4, F]    ``filters``: once per unordered pair, zero where atoms are not neighbours; the
                                       last row is that of each atom with itself. X holds the cutoff of the attention
:math:`\hat r` [B, n, 3, n]            ``unit``: from receiver to sender
:math:`m, M` [B, n, F], [B, n, 3, F]   ``message``, ``vector_message``
=====================================  ==========================================================================

**Backward.** For the gradients :math:`g, G` of :math:`m, M`, the gradients of the inputs are those of the number

.. math::
    L = \sum_{ij} \Big[ \sum_h A(s) T + \sum_{fc} G_{ic} (V v_{jc} + \hat r_c D d_j) \Big], \qquad
    T_{ijh} = \sum_{f \in h} g_i X x_j .

**Double backward.** Backward is a function of inputs, g and G. For the gradients :math:`\tilde q, \tilde k, \dots` of
what it returns, the gradients of what it was given are those of the derivative of L along
:math:`(\tilde q, \tilde k, \dots)`:

.. math::
    \tilde L = \sum_{ij} \Big[ \sum_h A'(s) \tilde s\, T + A(s) \tilde T
    + \sum_{fc} G_{ic} \big(\tilde V v_{jc} + V \tilde v_{jc}
    + \hat r_c (\tilde D d_j + D \tilde d_j) + \tilde{\hat r}_c D d_j\big) \Big]

    \tilde s = \sum_{f \in h} \tilde q_i k_j K + q_i \tilde k_j K + q_i k_j \tilde K, \qquad
    \tilde T = \sum_{f \in h} g_i (\tilde X x_j + X \tilde x_j) .

Each gradient below is the terms of L or :math:`\tilde L` that hold a factor, without it, summed over what it does not
depend on. Forces are a first gradient and a loss on them a second one, so nothing beyond is needed, nor offered.

The functions here compute these formulas as they stand; the kernels are tested against them, and they against autograd.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class EdgeInputs(NamedTuple):
    """Inputs of the edge stage, or gradients of them."""

    query: Float[Tensor, "B n F"]
    key: Float[Tensor, "B n F"]
    scalar: Float[Tensor, "B n F"]
    vector: Float[Tensor, "B n 3 F"]
    directed: Float[Tensor, "B n F"]
    filters: Float[Tensor, "B pairs 4 F"]
    unit: Float[Tensor, "B n 3 n"]


class EdgeOutputs(NamedTuple):
    """Outputs of the edge stage, or gradients of them."""

    message: Float[Tensor, "B n F"]
    vector_message: Float[Tensor, "B n 3 F"]


class _Edges(NamedTuple):
    """Inputs, or gradients of them, brought to edges: each broadcasts to [B, i, j, F]."""

    q: Tensor
    k: Tensor
    x: Tensor
    v: tuple[Tensor, ...]
    """x, y and z."""
    d: Tensor
    K: Tensor
    X: Tensor
    V: Tensor
    D: Tensor


def forward(inputs: EdgeInputs, n_heads: int) -> EdgeOutputs:
    """Return the messages."""
    e, heads = _on_edges(inputs), _Heads(n_heads, inputs.query)
    attention, _, _ = _silu(heads.sum(e.q * e.k * e.K))
    message = (heads.spread(attention) * e.X * e.x).sum(2)
    carried = torch.stack([(e.V * v).sum(2) for v in e.v], dim=2)
    return EdgeOutputs(message, carried + inputs.unit @ (e.D * e.d))


def backward(inputs: EdgeInputs, grads: EdgeOutputs, n_heads: int) -> EdgeInputs:
    """Return the gradients of L: those of the inputs, given those of the messages."""
    e, heads, r = _on_edges(inputs), _Heads(n_heads, inputs.query), inputs.unit
    g, G = grads.message[:, :, None], grads.vector_message
    attention, A1, _ = _silu(heads.sum(e.q * e.k * e.K))
    A, ds = heads.spread(attention), heads.spread(A1 * heads.sum(g * e.X * e.x))
    G_along = r.mT @ G  # sum over c of r G
    G_c = tuple(G[:, :, None].unbind(3))
    return EdgeInputs(
        query=(ds * e.k * e.K).sum(2),
        key=(ds * e.q * e.K).sum(1),
        scalar=(A * e.X * g).sum(1),
        vector=torch.stack([(e.V * G_i).sum(1) for G_i in G_c], dim=2),
        directed=(e.D * G_along).sum(1),
        filters=_to_pairs(ds * e.q * e.k, A * g * e.x, _dot(e.v, G_c), e.d * G_along),
        unit=G @ (e.D * e.d).mT,
    )


def double_backward(
    inputs: EdgeInputs, grads: EdgeOutputs, tangents: EdgeInputs, n_heads: int
) -> tuple[EdgeInputs, EdgeOutputs]:
    """Return the gradients of the derivative of L along ``tangents``: those of the inputs and of ``grads``."""
    e, t, heads, r = _on_edges(inputs), _on_edges(tangents), _Heads(n_heads, inputs.query), inputs.unit
    g, G = grads.message[:, :, None], grads.vector_message
    attention, A1, A2 = _silu(heads.sum(e.q * e.k * e.K))
    s_t = heads.sum(t.q * e.k * e.K + e.q * t.k * e.K + e.q * e.k * t.K)
    T, T_t = heads.sum(g * e.X * e.x), heads.sum(g * (t.X * e.x + e.X * t.x))
    ds, ds_t = heads.spread(A2 * s_t * T + A1 * T_t), heads.spread(A1 * T)  # of s and of its tangent
    A, A_t = heads.spread(attention), heads.spread(A1 * s_t)
    G_along, G_along_t = r.mT @ G, tangents.unit.mT @ G
    G_c = tuple(G[:, :, None].unbind(3))
    of_inputs = EdgeInputs(
        query=(ds * e.k * e.K + ds_t * (t.k * e.K + e.k * t.K)).sum(2),
        key=(ds * e.q * e.K + ds_t * (t.q * e.K + e.q * t.K)).sum(1),
        scalar=(g * (A_t * e.X + A * t.X)).sum(1),
        vector=torch.stack([(t.V * G_i).sum(1) for G_i in G_c], dim=2),
        directed=(t.D * G_along + e.D * G_along_t).sum(1),
        filters=_to_pairs(
            ds * e.q * e.k + ds_t * (t.q * e.k + e.q * t.k),
            g * (A_t * e.x + A * t.x),
            _dot(t.v, G_c),
            t.d * G_along + e.d * G_along_t,
        ),
        unit=G @ (t.D * e.d + e.D * t.d).mT,
    )
    carried = [(t.V * v + e.V * v_t).sum(2) for v, v_t in zip(e.v, t.v, strict=True)]
    of_grads = EdgeOutputs(
        message=(A_t * e.X * e.x + A * (t.X * e.x + e.X * t.x)).sum(2),
        vector_message=torch.stack(carried, dim=2) + r @ (t.D * e.d + e.D * t.d) + tangents.unit @ (e.D * e.d),
    )
    return of_inputs, of_grads


def _silu(s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the function and its first two derivatives."""
    gate = torch.sigmoid(s)
    return s * gate, gate * (1 + s * (1 - gate)), gate * (1 - gate) * (2 + s * (1 - 2 * gate))


def _dot(v: tuple[Tensor, ...], G: tuple[Tensor, ...]) -> Tensor:
    return v[0] * G[0] + v[1] * G[1] + v[2] * G[2]


class _Heads:
    """Sums over the features of a head, and broadcasts to them, as matrix products: short loops are slow on a CPU."""

    def __init__(self, n_heads: int, like: Float[Tensor, "B n F"]) -> None:
        eye = torch.eye(n_heads, dtype=like.dtype, device=like.device)
        self._of_head = eye.repeat_interleave(like.shape[-1] // n_heads, dim=1)  # [H, F]

    def sum(self, x: Float[Tensor, "*edges F"]) -> Float[Tensor, "*edges H"]:
        return x @ self._of_head.T

    def spread(self, x: Float[Tensor, "*edges H"]) -> Float[Tensor, "*edges F"]:
        return x @ self._of_head


def _on_edges(inputs: EdgeInputs) -> _Edges:
    def of_sender(x: Tensor) -> Tensor:
        return x[:, None]

    n = inputs.query.shape[1]
    filters = inputs.filters.index_select(1, _pair_of_edge(n, inputs.query.device)).unflatten(1, (n, n))
    return _Edges(
        inputs.query[:, :, None],
        of_sender(inputs.key),
        of_sender(inputs.scalar),
        tuple(of_sender(v) for v in inputs.vector.unbind(2)),
        of_sender(inputs.directed),
        *filters.unbind(3),
    )


def _to_pairs(*gradients: Float[Tensor, "B n n F"]) -> Float[Tensor, "B pairs 4 F"]:
    """Add the two directions of each pair, and each atom with itself: the transpose of an ``index_select``."""
    of_edges = torch.stack(gradients, dim=3).flatten(1, 2)
    n = gradients[0].shape[1]
    index = _pair_of_edge(n, of_edges.device)
    of_pairs = of_edges.new_zeros(len(of_edges), n * (n - 1) // 2 + 1, *of_edges.shape[2:])
    return of_pairs.index_add(1, index, of_edges)


def _pair_of_edge(n: int, device: torch.device) -> Int[Tensor, " n_edges"]:
    """Return the row of ``filters`` of each edge of an n x n block, the order of ``torch.triu_indices``."""
    atom = torch.arange(n, device=device)
    first, second = torch.minimum(atom[:, None], atom), torch.maximum(atom[:, None], atom)
    pair = first * (2 * n - first - 1) // 2 + second - first - 1
    return torch.where(first == second, n * (n - 1) // 2, pair).flatten()
