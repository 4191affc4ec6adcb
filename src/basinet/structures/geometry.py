"""Dihedral angles, rotation about an axis, superposition, rigid motions."""

import torch
from jaxtyping import Float
from torch import Tensor


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


def kabsch(
    mobile: Float[Tensor, "n_atoms 3"], fixed: Float[Tensor, "n_atoms 3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Return the proper rotation R and translation t with the least ``|mobile @ R + t - fixed|`` (Kabsch, 1976)."""
    centre_mobile, centre_fixed = mobile.mean(0), fixed.mean(0)
    u, _, vt = torch.linalg.svd((mobile - centre_mobile).T @ (fixed - centre_fixed))
    sign = torch.ones(3, dtype=mobile.dtype, device=mobile.device)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    rotation = u @ torch.diag(sign) @ vt
    return rotation, centre_fixed - centre_mobile @ rotation


def gram(positions: Float[Tensor, "n_atoms 3"]) -> Float[Tensor, "n_atoms n_atoms"]:
    """Return the inner products of the centred positions, Å²: what a molecule is up to rigid motion and reflection."""
    centred = positions - positions.mean(0)
    return centred @ centred.T
