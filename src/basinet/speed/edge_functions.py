"""Compute the terms of one edge and their places in memory, for the Triton kernels of the edge stage.

Tiles have the shapes [J, D] (partners, features of a head) and, of vectors, [J, 4, D]: Triton needs powers of two, so
vectors have a fourth component, zero. Those of a program's own atom have J = 1. The equations are those of
:mod:`basinet.speed.edge_stage`; names that end in _t are the tangents, those with a tilde there.
"""

# pyright: reportMissingImports=false

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _silu(s):
    """Return the function and its first two derivatives."""
    gate = 1 / (1 + tl.exp(-s))
    return s * gate, gate * (1 + s * (1 - gate)), gate * (1 - gate) * (2 + s * (1 - 2 * gate))


@triton.jit
@no_type_check
def _over_head(x):
    return tl.sum(x, axis=1)[:, None]


@triton.jit
@no_type_check
def _dot(a, b):
    return tl.sum(a * b, axis=1)


@triton.jit
@no_type_check
def edge_forward(receiver, sender, r, filters):
    """Return what one edge adds to the messages of its receiver."""
    q, _, _, _, _ = receiver
    _, k, x, v, d = sender
    K, X, V, D = filters
    A, _, _ = _silu(_over_head(q * k * K))
    return A * X * x, V[:, None] * v + r[:, :, None] * (D * d)[:, None]


@triton.jit
@no_type_check
def edge_backward(receiver, sender, r, filters, grads):
    """Return the gradients of the terms of one edge in L: q, k, x, v, d, those of the filters, r."""
    q, _, _, _, _ = receiver
    _, k, x, v, d = sender
    K, X, V, D = filters
    g, G = grads
    A, A1, _ = _silu(_over_head(q * k * K))
    ds = A1 * _over_head(g * X * x)
    along = _dot(r[:, :, None], G)
    of_atoms = (ds * k * K, ds * q * K, A * X * g, V[:, None] * G, D * along)
    of_filters = (ds * q * k, A * g * x, _dot(v, G), d * along)
    return of_atoms, of_filters, tl.sum((D * d)[:, None] * G, axis=2)


@triton.jit
@no_type_check
def edge_double_backward(receiver, sender, r, filters, grads, receiver_t, sender_t, r_t, filters_t):
    """Return the gradients of the terms of one edge in the derivative of L; last those of g and G."""
    q, _, _, _, _ = receiver
    _, k, x, v, d = sender
    K, X, V, D = filters
    g, G = grads
    q_t, _, _, _, _ = receiver_t
    _, k_t, x_t, v_t, d_t = sender_t
    K_t, X_t, V_t, D_t = filters_t
    A, A1, A2 = _silu(_over_head(q * k * K))
    s_t = _over_head(q_t * k * K + q * k_t * K + q * k * K_t)
    T = _over_head(g * X * x)
    T_t = _over_head(g * (X_t * x + X * x_t))
    ds = A2 * s_t * T + A1 * T_t
    ds_t = A1 * T
    A_t = A1 * s_t
    along = _dot(r[:, :, None], G)
    along_t = _dot(r_t[:, :, None], G)
    of_atoms = (
        ds * k * K + ds_t * (k_t * K + k * K_t),
        ds * q * K + ds_t * (q_t * K + q * K_t),
        g * (A_t * X + A * X_t),
        V_t[:, None] * G,
        D_t * along + D * along_t,
    )
    of_filters = (
        ds * q * k + ds_t * (q_t * k + q * k_t),
        g * (A_t * x + A * x_t),
        _dot(v_t, G),
        d_t * along + d * along_t,
    )
    of_g = A_t * X * x + A * (X_t * x + X * x_t)
    directed, directed_t = D * d, D_t * d + D * d_t
    of_G = (
        V_t[:, None] * v + V[:, None] * v_t + r[:, :, None] * directed_t[:, None] + r_t[:, :, None] * directed[:, None]
    )
    return of_atoms, of_filters, tl.sum(directed_t[:, None] * G, axis=2), (of_g, of_G)


@triton.jit
@no_type_check
def program(n, n_heads, width, block_d: tl.constexpr):
    """Return molecule, atom and head of this program, the features of the head, and which of them there are."""
    index = tl.program_id(0)
    head, atom = index % n_heads, index // n_heads
    feature = tl.arange(0, block_d)
    molecule = (atom // n).to(tl.int64)  # in large batches, offsets pass 2^31
    return molecule, atom % n, head, head * width + feature, feature < width


@triton.jit
@no_type_check
def places(b, atom, feature, is_atom, is_feature, n, n_features):
    """Return where a molecule begins, where in it features and vector features of atoms are, and which there are."""
    c = tl.arange(0, 4)
    mask = is_atom[:, None] & is_feature[None, :]
    at = atom[:, None] * n_features + feature[None, :]
    at3 = (atom[:, None, None] * 3 + c[None, :, None]) * n_features + feature[None, None, :]
    return b * n * n_features, at, mask, at3, mask[:, None, :] & (c < 3)[None, :, None]


@triton.jit
@no_type_check
def load(pointer, at, mask):
    """Return what is there, and zero where nothing is."""
    return tl.load(pointer + at, mask=mask, other=0.0)


@triton.jit
@no_type_check
def load_atoms(pointers, places):
    """Return the five features of atoms."""
    q, k, x, v, d = pointers
    b, at, mask, at3, mask3 = places
    return (
        load(q + b, at, mask),
        load(k + b, at, mask),
        load(x + b, at, mask),
        load(v + 3 * b, at3, mask3),
        load(d + b, at, mask),
    )


@triton.jit
@no_type_check
def load_grads(pointers, places):
    """Return the gradients of the messages of atoms."""
    g, G = pointers
    b, at, mask, at3, mask3 = places
    return load(g + b, at, mask), load(G + 3 * b, at3, mask3)


@triton.jit
@no_type_check
def load_filters(filters, b, i, j, feature, mask, n, n_features):
    """Return the four filters of the pairs of atoms i and j, whichever comes first."""
    n_pairs = n * (n - 1) // 2
    low, high = tl.minimum(i, j), tl.maximum(i, j)
    pair = tl.where(i == j, n_pairs, low * (2 * n - low - 1) // 2 + high - low - 1)
    at = pair[:, None] * 4 * n_features + feature[None, :]
    filters += b * (n_pairs + 1) * 4 * n_features
    return (
        load(filters, at, mask),
        load(filters, at + n_features, mask),
        load(filters, at + 2 * n_features, mask),
        load(filters, at + 3 * n_features, mask),
    )


@triton.jit
@no_type_check
def store_filters(filters, values, reverse, b, i, j, feature, is_j, is_feature, n, n_features):
    """Store what both directions of each pair give, in the program of its lower atom; self-edges have one direction.

    Unlike the filters, their gradients have a row for each atom with itself, which the caller adds up.
    """
    n_pairs = n * (n - 1) // 2
    pair = tl.where(i == j, n_pairs + i, i * (2 * n - i - 1) // 2 + j - i - 1)
    at = pair[:, None] * 4 * n_features + feature[None, :]
    filters += b * (n_pairs + n) * 4 * n_features
    mask = (is_j & (j >= i))[:, None] & is_feature[None, :]
    is_pair = (i != j)[:, None]
    K, X, V, D = values
    K_r, X_r, V_r, D_r = reverse
    tl.store(filters + at, K + tl.where(is_pair, K_r, 0.0), mask=mask)
    tl.store(filters + at + n_features, X + tl.where(is_pair, X_r, 0.0), mask=mask)
    tl.store(filters + at + 2 * n_features, V + tl.where(is_pair, V_r, 0.0), mask=mask)
    tl.store(filters + at + 3 * n_features, D + tl.where(is_pair, D_r, 0.0), mask=mask)


@triton.jit
@no_type_check
def unit_places(b, i, j, is_j, n):
    """Return where the vector [J, 4] from receiver i to sender j is, either of them a single atom."""
    c = tl.arange(0, 4)
    return b * n * 3 * n + (i[:, None] * 3 + c[None, :]) * n + j[:, None], is_j[:, None] & (c < 3)[None, :]


@triton.jit
@no_type_check
def store_rows(pointers, sums, places):
    """Store five sums of an atom."""
    q, k, x, v, d = pointers
    of_q, of_k, of_x, of_v, of_d = sums
    b, at, mask, at3, mask3 = places
    tl.store(q + b + at, of_q[None, :], mask=mask)
    tl.store(k + b + at, of_k[None, :], mask=mask)
    tl.store(x + b + at, of_x[None, :], mask=mask)
    tl.store(v + 3 * b + at3, of_v[None, :, :], mask=mask3)
    tl.store(d + b + at, of_d[None, :], mask=mask)
