"""Compute dihedral angles, rotations, superpositions and rigid motions."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.segment import centre_per_molecule, sum_per_molecule

FLAT = 1e-10
"""Moments of inertia below this part of the largest are zero: those of a linear molecule about its axis, in float64."""


def dihedral(
    a: Float[Tensor, "*n 3"], b: Float[Tensor, "*n 3"], c: Float[Tensor, "*n 3"], d: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n"]:
    """Return the angle between the planes abc and bcd about the axis b-c, in (-pi, pi], IUPAC sign."""
    along = c - b
    first, second = torch.linalg.cross(a - b, along), torch.linalg.cross(d - c, along)
    x = (first * second).sum(-1)
    y = (torch.linalg.cross(first, second) * along).sum(-1) / torch.linalg.vector_norm(along, dim=-1)
    return torch.atan2(y, x)


def rotate_about_axis(
    points: Float[Tensor, "*n 3"],
    origin: Float[Tensor, "*n 3"],
    axis: Float[Tensor, "*n 3"],
    angle: Float[Tensor, "*n"],
) -> Float[Tensor, "*n 3"]:
    """Turn points about the unit vector ``axis`` through ``origin`` by ``angle`` radians (Rodrigues' formula)."""
    arm = points - origin
    cos, sin = torch.cos(angle)[..., None], torch.sin(angle)[..., None]
    parallel = axis * (axis * arm).sum(-1, keepdim=True)
    return origin + parallel + cos * (arm - parallel) + sin * torch.linalg.cross(axis.expand_as(arm), arm)


def best_rotation(product: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    r"""Return the proper rotation :math:`R` with the least :math:`|P R - Q|`, given :math:`P^\top Q` (Kabsch, 1976).

    :math:`R = U \,\mathrm{diag}(1, 1, \det U V^\top)\, V^\top` with the singular vectors of :math:`P^\top Q`; rows of
    :math:`P` and :math:`Q` are centred positions.
    """
    u, _, vt = torch.linalg.svd(product)
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vt).sign()
    return (u * sign[..., None, :]) @ vt


def best_overlap(product: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n"]:
    r"""Return :math:`\mathrm{tr}\,R^\top P^\top Q = s_1 + s_2 \pm s_3` of :func:`best_rotation`, from singular values.

    The sign is that of the determinant of :math:`P^\top Q`.
    """
    s = torch.linalg.svdvals(product)
    return s[..., 0] + s[..., 1] + torch.sign(torch.linalg.det(product)) * s[..., 2]


def kabsch(
    mobile: Float[Tensor, "n_atoms 3"], fixed: Float[Tensor, "n_atoms 3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Return the proper rotation R and translation t with the least ``|mobile @ R + t - fixed|``."""
    centre_mobile, centre_fixed = mobile.mean(0), fixed.mean(0)
    rotation = best_rotation((mobile - centre_mobile).T @ (fixed - centre_fixed))
    return rotation, centre_fixed - centre_mobile @ rotation


def superposed_rmsd(
    positions: Float64[np.ndarray, "n_atoms 3"], others: Float64[np.ndarray, "n_others n_atoms 3"]
) -> Float64[np.ndarray, " n_others"]:
    r"""Return the root mean square distance of atoms (Å) after superposition without reflection.

    .. math:: d^2 = \tfrac1N \Big(\sum_i |p_i|^2 + |q_i|^2 - 2\,\mathrm{tr}\,R^\top P^\top Q\Big)
    """
    p = positions - positions.mean(0)
    q = others - others.mean(1, keepdims=True)
    overlap = best_overlap(torch.from_numpy(np.einsum("ai,kaj->kij", p, q))).numpy()
    squared = np.square(p).sum() + np.square(q).sum((1, 2)) - 2 * overlap
    return np.sqrt(squared.clip(min=0.0) / len(p))


def project_out_rigid_motion(vectors: Float[Tensor, "n_atoms 3"], batch: Batch) -> Float[Tensor, "n_atoms 3"]:
    r"""Return the nearest vectors that have, in each molecule, no sum and no moment.

    .. math:: v_i - \bar v - \omega \times (r_i - \bar r), \qquad
              \omega = I^{+} \sum_i (r_i - \bar r) \times v_i, \qquad
              I = \sum_i |r_i - \bar r|^2 1 - (r_i - \bar r)(r_i - \bar r)^\top

    So forces lose their net force and torque, which no energy of a free molecule can give, and displacements their
    shift and rotation. The pseudo-inverse :math:`I^{+}` leaves out the axis of a linear molecule; a single atom keeps
    nothing. Computed in float64.
    """
    if batch.n_molecules == 0:
        return vectors
    arm = centre_per_molecule(batch.positions.double(), batch)
    v = centre_per_molecule(vectors.double(), batch)
    identity = torch.eye(3, dtype=arm.dtype, device=arm.device)
    inertia = sum_per_molecule(
        arm.square().sum(-1)[:, None, None] * identity - arm[:, :, None] * arm[:, None, :], batch
    )
    moment = sum_per_molecule(torch.linalg.cross(arm, v), batch)
    omega = (torch.linalg.pinv(inertia, rtol=FLAT, hermitian=True) @ moment[:, :, None])[..., 0]
    return (v - torch.linalg.cross(omega[batch.molecule], arm)).to(vectors.dtype)
