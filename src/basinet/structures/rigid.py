"""Rigid motions: taken out of vectors, and of the distance of two conformations."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from basinet.structures.batch import Batch
from basinet.structures.segment import centre_per_molecule, sum_per_molecule

FLAT = 1e-10
"""Moments of inertia below this part of the largest are zero: those of a linear molecule about its axis, in float64."""


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


def superposed_rmsd(
    positions: Float64[np.ndarray, "n_atoms 3"], others: Float64[np.ndarray, "n_others n_atoms 3"]
) -> Float64[np.ndarray, " n_others"]:
    r"""Return the root mean square distance of atoms (Å) after the best shift and turn, without reflection (Kabsch).

    .. math:: d^2 = \tfrac1N \Big(\sum_i |p_i|^2 + |q_i|^2 - 2 (s_1 + s_2 \pm s_3)\Big)

    with centred positions and the singular values :math:`s` of :math:`P^\top Q`; the sign is that of its determinant.
    """
    p = positions - positions.mean(0)
    q = others - others.mean(1, keepdims=True)
    product = np.einsum("ai,kaj->kij", p, q)
    s = np.linalg.svd(product, compute_uv=False)
    overlap = s[:, 0] + s[:, 1] + np.sign(np.linalg.det(product)) * s[:, 2]
    squared = np.square(p).sum() + np.square(q).sum((1, 2)) - 2 * overlap
    return np.sqrt(squared.clip(min=0.0) / len(p))
