"""Cartesian tensors of rank two by 9 numbers in an orthonormal basis (Frobenius): [N, 9, F]."""
import math
import torch

R2, R3, R6 = math.sqrt(2), math.sqrt(3), math.sqrt(6)

def split(x):
    return x[:, :1], x[:, 1:4], x[:, 4:]

def join(i, a, s):
    return torch.cat([i, a, s], dim=1)

def squared_norms(x):
    return torch.stack([part.square().sum(1) for part in split(x)], dim=1)

def squared_norm(x):
    return x.square().sum(1)

def harmonics(u):
    """[..., 3] -> [..., 9] of u: 1, u, u u^T."""
    x, y, z = u.unbind(-1)
    return torch.stack([torch.full_like(x, R3), R2 * x, R2 * y, R2 * z, (x * x - y * y) / R2, (2 * z * z - x * x - y * y) / R6, R2 * x * y, R2 * x * z, R2 * y * z], -1)

def to_matrix(x):
    i, a, s = split(x)
    i, a = i[:, 0] / R3, (a / R2).unbind(1)
    d, e, xy, xz, yz = s.unbind(1)
    xx, yy, zz = d / R2 - e / R6, -d / R2 - e / R6, 2 * e / R6
    xy, xz, yz = xy / R2, xz / R2, yz / R2
    return torch.stack([i + xx, xy - a[2], xz + a[1], xy + a[2], i + yy, yz - a[0], xz - a[1], yz + a[0], i + zz], 1).unflatten(1, (3, 3))

def from_matrix(m):
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    return torch.stack([(xx + yy + zz) / R3, (m[:, 2, 1] - m[:, 1, 2]) / R2, (m[:, 0, 2] - m[:, 2, 0]) / R2, (m[:, 1, 0] - m[:, 0, 1]) / R2,
        (xx - yy) / R2, (2 * zz - xx - yy) / R6, (m[:, 0, 1] + m[:, 1, 0]) / R2, (m[:, 0, 2] + m[:, 2, 0]) / R2, (m[:, 1, 2] + m[:, 2, 1]) / R2], 1)

def anticommutator(x, y):
    a, b = to_matrix(x), to_matrix(y)
    p = sum(a[:, :, k, None] * b[:, k, None] + b[:, :, k, None] * a[:, k, None] for k in range(3))
    return from_matrix(p)
